"""Values of numpy and torch as plain JSON, without an import of either."""

from __future__ import annotations

import math
import sys
from typing import Any, Final

from cloudai.types import JSON
from cloudai.types._base import invalid

NOT_FINITE: Final = "is a number that JSON cannot hold"
"""What is said of NaN and infinity."""


def jsonable(value: Any, path: str = "value") -> JSON:
    """The value with numpy's and torch's as plain numbers and lists (without importing either).

    Raises InvalidRequest naming the inner path of what JSON cannot hold, NaN and infinity too.
    """
    # Nearly all outputs are plain already: they need neither a copy nor the paths to name.
    return value if _plain(value) else _jsonable(value, path)


def _plain(value: Any) -> bool:
    """Whether JSON holds the value as it is."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_plain, value.values()))
    if kind is list:
        return all(map(_plain, value))
    return kind is str or kind is int or kind is bool or value is None or (
        kind is float and math.isfinite(value)
    )  # fmt: skip


def _jsonable(value: Any, path: str) -> JSON:
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise invalid(path, value, NOT_FINITE)
        return value
    if isinstance(value, dict):
        made: dict[str, JSON] = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                key = _jsonable(key, path)
                if not isinstance(key, (str, int)):
                    raise invalid(path, key, "is a key that JSON cannot hold")
                key = str(key)
            made[key] = _jsonable(inner, f"{path}.{key}")
        return made
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner, f"{path}[{index}]") for index, inner in enumerate(value)]
    array = _array(value)
    if array is not None:
        return _array_json(array, path)
    if isinstance(value, (str, bool, int)):  # subclasses, such as enums of text
        return getattr(value, "value", value)
    if isinstance(value, float):
        return _jsonable(float(value), path)
    raise invalid(path, value, f"is a {kind.__name__}, which JSON cannot hold")


def _array(value: Any) -> Any:
    """The value as a numpy array if it is a tensor, array or scalar of a loaded library."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return numpy.asarray(value)
    return None


def _array_json(array: Any, path: str) -> JSON:
    numpy = sys.modules["numpy"]
    if array.dtype.kind == "f" and not numpy.isfinite(array).all():
        where = "".join(f"[{i}]" for i in numpy.argwhere(~numpy.isfinite(array))[0].tolist())
        raise invalid(f"{path}{where}", "nan or infinity", NOT_FINITE)
    if array.dtype.kind not in "fiubU":
        raise invalid(path, str(array.dtype), "is a type that JSON cannot hold")
    return array.tolist()
