"""Tensors of the Open Inference Protocol as inputs, and outputs as tensors: in the worker, since a
tensor may well hold millions of values."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cloudai.server.workers.wire import Result
from cloudai.types._base import invalid

# Format characters of ``struct``; BYTES has lengths of its own.
TYPES: Final = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b",
    "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip


class Tensor(msgspec.Struct, array_like=True):
    """A tensor on its way to the worker.

    Parameters
    ----------
    data: a JSON list, flat or nested; where ``binary``, the binary tensor data extension's bytes.
    """

    name: str
    datatype: str
    shape: list[int]
    data: bytes
    binary: bool = False


class Wanted(msgspec.Struct):
    """Which tensors are answered, by name, and which of them as binary data; ``names`` None: all,
    ``*`` in ``binary``: all."""

    names: list[str] | None = None
    binary: list[str] = []


_list = msgspec.msgpack.Decoder(list[Tensor])
_wanted = msgspec.json.Decoder(Wanted)
_values = msgspec.json.Decoder(list[Any])
_flat_types = (bool, int, float, str)


def rows(data: bytes) -> list[Any]:
    """The inputs: one a row of the first dimension. Of several tensors each is an object of the
    tensors' names. Raises InvalidRequest."""
    columns = {tensor.name: _column(tensor) for tensor in _list.decode(data)}
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _column(tensor: Tensor) -> list[Any]:
    if tensor.binary and tensor.datatype != "BYTES":
        return _numbers(tensor)
    flat = _texts(tensor) if tensor.binary else _flatten(_values.decode(tensor.data))
    _check_count(tensor, len(flat))
    return _nest(flat, tensor.shape)


def answer(result: Result, wanted: str) -> Result:
    """A result whose outputs have become tensors: ``body`` is a JSON object of ``outputs``, and
    after its first ``head`` bytes the binary data."""
    told = _wanted.decode(wanted)
    made = _tensors([msgspec.json.decode(output) for output in result.outputs])
    if told.names is not None:
        missing = set(told.names) - {tensor["name"] for tensor in made}
        if missing:
            text = f"there is no output {', '.join(sorted(missing))}"
            return Result(400, error=text, error_type="InvalidRequest")
        made = [tensor for tensor in made if tensor["name"] in told.names]
    blobs: list[bytes] = []
    for tensor in made:
        if tensor["name"] in told.binary or "*" in told.binary:
            blob = _pack(tensor["datatype"], tensor.pop("data"))
            tensor["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
    body = msgspec.json.encode({"outputs": made})
    result.outputs, result.body, result.head = [], b"".join([body, *blobs]), len(body)
    result.content_type = "application/octet-stream" if blobs else "application/json"
    return result


def _flatten(data: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in data:
        if isinstance(value, list):
            flat.extend(_flatten(value))
        elif isinstance(value, _flat_types):
            flat.append(value)
        else:
            raise _wrong("data", "holds more than numbers, texts and booleans")
    return flat


def _nest(flat: list[Any], shape: Sequence[int]) -> list[Any]:
    for size in reversed(shape[1:]):
        if size == 0:
            return [[] for _ in range(shape[0])]
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat


def _tensors(outputs: list[Any]) -> list[dict[str, Any]]:
    """The outputs as tensors: one for each key where all are objects of the same plain keys,
    else one; what is no regular array of numbers goes as BYTES, JSON texts."""
    if outputs and all(isinstance(output, dict) for output in outputs):
        keys = list(outputs[0])
        if keys and all(list(output) == keys for output in outputs):
            return [_tensor(key, [output[key] for output in outputs]) for key in keys]
    return [_tensor("output", outputs)]


def _tensor(name: str, column: list[Any]) -> dict[str, Any]:
    shape = _shape(column)
    if shape is not None:
        flat = _flatten(column)
        kinds = {type(value) for value in flat}
        for kind, datatype in ((bool, "BOOL"), (int, _integers(flat)), (str, "BYTES")):
            if kinds == {kind} and datatype:
                return {"name": name, "datatype": datatype, "shape": shape, "data": flat}
        if kinds <= {int, float}:
            flat = [float(value) for value in flat]
            return {"name": name, "datatype": "FP64", "shape": shape, "data": flat}
    texts = [value if isinstance(value, str) else msgspec.json.encode(value).decode()
             for value in column]  # fmt: skip
    return {"name": name, "datatype": "BYTES", "shape": [len(column)], "data": texts}


def _integers(flat: list[Any]) -> str:
    """The type that holds all these integers; "" for none."""
    if any(type(value) is not int for value in flat):
        return ""
    if all(-(2**63) <= value < 2**63 for value in flat):
        return "INT64"
    return "UINT64" if all(0 <= value < 2**64 for value in flat) else ""


def _shape(value: Any) -> list[int] | None:
    """The shape of a regular nested list; None where it is not regular or not plain."""
    if not isinstance(value, list):
        return [] if isinstance(value, _flat_types) else None
    inner = [_shape(item) for item in value]
    if any(shape is None or shape != inner[0] for shape in inner):
        return None
    return [len(value), *(inner[0] or [])] if inner else [0]


def _texts(tensor: Tensor) -> list[Any]:
    texts: list[Any] = []
    data, start = tensor.data, 0
    while start + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, start)
        end = start + 4 + size
        if end > len(data):
            break
        try:
            texts.append(data[start + 4 : end].decode())
        except UnicodeDecodeError:
            raise _wrong(tensor.name, "holds bytes that are not UTF-8") from None
        start = end
    if start != len(data):
        raise _wrong(tensor.name, "has binary data that is cut short")
    return texts


def _numbers(tensor: Tensor) -> list[Any]:
    """Binary numbers as lists of lists, without a flat one in between: each of its values would
    take eight bytes more."""
    kind: Any = TYPES[tensor.datatype]  # Any: a format's name is no literal here
    data, shape = tensor.data, tensor.shape
    count, rest = divmod(len(data), struct.calcsize(kind))
    if rest:
        raise _wrong(tensor.name, f"has binary data that is not {tensor.datatype}")
    _check_count(tensor, count)
    if count and kind != "e" and sys.byteorder == "little":
        view = memoryview(data).cast(kind)
        if kind not in "fd" or all(map(math.isfinite, view)):
            return memoryview(data).cast(kind, shape).tolist()
        raise _wrong(tensor.name, "holds NaN or infinity")
    flat = list(struct.unpack(f"<{count}{kind}", data))
    if kind in "efd" and not all(map(math.isfinite, flat)):
        raise _wrong(tensor.name, "holds NaN or infinity")
    return _nest(flat, shape)


def _check_count(tensor: Tensor, count: int) -> None:
    if count != math.prod(tensor.shape):
        raise _wrong(tensor.name, f"has {count} values for shape {tensor.shape}")


def _pack(datatype: str, flat: list[Any]) -> bytes:
    if datatype == "BYTES":
        texts = [text.encode() for text in flat]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(flat)}{TYPES[datatype]}", *flat)


def _wrong(name: str, what: str) -> Exception:
    return invalid(f"inputs.{name}", None, what)
