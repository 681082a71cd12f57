"""What an endpoint is asked: the body of a prediction, the same checks on every provider."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from cloudai._core.handlers.portable import MARK
from cloudai.types import PredictRequest
from cloudai.types._base import invalid

_encode = msgspec.json.Encoder().encode


def body(
    request: PredictRequest, inputs: str, params: str, *, mark: bool = True, stream: bool = False
) -> bytes:
    """The request as JSON.

    Parameters
    ----------
    inputs, params: under which names. mark: whether it says that it is ours.
    stream: asks for the answer in pieces, where the handler gives any.

    Raises InvalidRequest for what JSON cannot hold, NaN and infinity too.
    """
    made: dict[str, Any] = {inputs: request.inputs}
    if request.params:
        made[params] = request.params
    if stream:
        made["stream"] = True
    try:
        data = _encode(made)
    except (TypeError, ValueError) as error:
        raise invalid("inputs", request.inputs, f"cannot be sent as JSON ({error})") from None
    # NaN and infinity are encoded as null; a body without one holds none of them.
    if b"null" in data:
        for name, value in (("inputs", request.inputs), ("params", request.params)):
            _check_finite(value, name)
    return MARK + data if mark else data


def _check_finite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        mend = "Use finite numbers, or None for one that is missing."
        raise invalid(path, value, "is a number that JSON cannot hold", mend)
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_finite(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check_finite(inner, f"{path}[{index}]")
