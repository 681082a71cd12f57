"""KServe's v2, the Open Inference Protocol: tensors by name, in JSON or as binary data after it.

One input tensor: each of its rows is an input. Several: each row becomes an object of the
tensors' names. The specification is open_inference_rest.yaml of kserve/open-inference-protocol
with the binary tensor data extension, read 2026-11.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cloudai import _version
from cloudai.server.http.messages import JSON_TYPE, HTTPError, Request, Response
from cloudai.server.inference import Inference
from cloudai.server.routes.codecs import Parsed, check_depth, decode, items_of
from cloudai.server.routing import Methods, Table

# Format characters of ``struct``; BYTES has lengths of its own.
TYPES: Final = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b",
    "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip

BINARY_HEADER: Final = b"inference-header-content-length"


class Tensor(msgspec.Struct):
    """An input tensor. ``data`` is flat or nested; absent when it comes as binary data."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    inputs: list[Tensor]
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}
    outputs: list[WantedOutput] = []


_decoder = msgspec.json.Decoder(InferRequest)
_flat_types = (bool, int, float, str)


async def server(inference: Inference, request: Request) -> Response:
    return Response(
        msgspec.json.encode(
            {
                "name": "cloudai",
                "version": _version.__version__,
                "extensions": ["binary_tensor_data"],
            }
        )
    )


async def model_metadata(
    inference: Inference, request: Request, name: str, version: str | None
) -> Response:
    """A model's versions and tensors, the tensors as its schemas tell them; none, where a
    handler has no INPUT_SCHEMA or OUTPUT_SCHEMA (KServe's own custom models do alike)."""
    model = inference.models.get(name)
    _check_version(inference, name, version)
    info = model.variants[0].group.info
    return Response(
        msgspec.json.encode(
            {
                "name": model.name,
                "versions": [variant.version for variant in model.variants],
                "platform": f"cloudai_{info.get('predictor', 'handler')}",
                "inputs": _described("input", info.get("input_schema")),
                "outputs": _described("output", info.get("output_schema")),
            }
        )
    )


_DATATYPES: Final = {"number": "FP64", "integer": "INT64", "boolean": "BOOL"}


def _described(name: str, schema: Any) -> list[dict[str, Any]]:
    """The tensors that hold what a JSON Schema of one input or output describes, as ``_rows``
    reads and ``_tensors`` writes them. What is no array of plain values goes as JSON texts."""
    if not isinstance(schema, dict) or not schema:
        return []
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        return [_column(key, inner) for key, inner in schema["properties"].items()]
    return [_column(name, schema)]


def _column(name: str, schema: Any) -> dict[str, Any]:
    shape = [-1]  # the rows
    while isinstance(schema, dict) and schema.get("type") == "array":
        least, most = schema.get("minItems"), schema.get("maxItems")
        shape.append(least if isinstance(least, int) and least == most else -1)
        schema = schema.get("items")
    kind = schema.get("type") if isinstance(schema, dict) else None
    datatype = _DATATYPES.get(kind, "BYTES") if isinstance(kind, str) else "BYTES"
    texts = datatype == "BYTES" and kind != "string"
    return {"name": name, "datatype": datatype, "shape": [-1] if texts else shape}


async def model_ready(
    inference: Inference, request: Request, name: str, version: str | None
) -> Response:
    model = inference.models.get(name)
    _check_version(inference, name, version)
    status = 200 if model.ready and not inference.stopping else 503
    return Response(msgspec.json.encode({"name": name, "ready": status == 200}), status)


async def infer(inference: Inference, request: Request, name: str, version: str | None) -> Response:
    """Tensors in, tensors out."""
    if request.content_type not in ("application/json", "application/octet-stream"):
        raise HTTPError(415, f"the content type {request.content_type!r} is not read here")
    limits = inference.limits
    asked = _parse(await request.body(), request, limits.depth)
    model = inference.models.get(name)
    _check_version(inference, name, version)
    rows = _rows(asked.inputs, limits.items)
    params = {k: v for k, v in asked.parameters.items() if not k.startswith("binary_data")}
    parsed = Parsed([msgspec.json.encode(row) for row in rows], msgspec.json.encode(params))
    outputs: list[Any] = []
    if rows:
        results = await inference.infer(request, model, items_of(parsed, "", limits))
        outputs = [msgspec.json.decode(out) for result in results for out in result.outputs]
    head: dict[str, Any] = {"model_name": model.name, "model_version": request.version}
    if asked.id is not msgspec.UNSET:
        head["id"] = asked.id
    tensors = _tensors(outputs)
    wanted = {output.name for output in asked.outputs}
    if wanted:
        missing = wanted - {tensor["name"] for tensor in tensors}
        if missing:
            raise HTTPError(400, f"there is no output {', '.join(sorted(missing))}")
        tensors = [tensor for tensor in tensors if tensor["name"] in wanted]
    return _respond(head, tensors, _binary_wanted(asked))


def _respond(head: dict[str, Any], tensors: list[dict[str, Any]], binary: set[str]) -> Response:
    blobs: list[bytes] = []
    for tensor in tensors:
        if tensor["name"] in binary or "*" in binary:
            blob = _pack(tensor["datatype"], tensor.pop("data"))
            tensor["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
    body = msgspec.json.encode({**head, "outputs": tensors})
    if not blobs:
        return Response(body, content_type=JSON_TYPE)
    return Response(
        b"".join([body, *blobs]),
        content_type=b"application/octet-stream",
        headers=[(BINARY_HEADER, b"%d" % len(body))],
    )


def _parse(body: bytes, request: Request, depth: int) -> InferRequest:
    length = request.headers.get(BINARY_HEADER)
    blobs = b""
    if length is not None:
        if not length.isdigit() or len(length) > 12 or int(length) > len(body):
            raise HTTPError(400, "Inference-Header-Content-Length is not within the body")
        body, blobs = body[: int(length)], body[int(length) :]
    check_depth(body, depth)
    asked: InferRequest = decode(_decoder, body)
    if not asked.inputs:
        raise HTTPError(400, "inputs is empty")
    start = 0
    for tensor in asked.inputs:
        if not 1 <= len(tensor.shape) <= 16 or any(size < 0 for size in tensor.shape):
            raise HTTPError(400, f"the shape {tensor.shape} of {tensor.name!r} is not one")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            if tensor.data is msgspec.UNSET:
                raise HTTPError(400, f"the tensor {tensor.name!r} has no data")
            continue
        if type(size) is not int or size < 0 or start + size > len(blobs):
            raise HTTPError(400, f"binary_data_size of {tensor.name!r} is not within the body")
        tensor.data = _unpack(tensor, blobs[start : start + size])
        start += size
    if start != len(blobs):
        raise HTTPError(400, f"{len(blobs) - start} bytes of binary data belong to no tensor")
    return asked


def _rows(tensors: Sequence[Tensor], limit: int) -> list[Any]:
    """The inputs: one a row of the first dimension."""
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        if tensor.name in columns:
            raise HTTPError(400, f"the tensor {tensor.name!r} comes twice")
        if tensor.datatype != "BYTES" and tensor.datatype not in TYPES:
            raise HTTPError(400, f"the datatype {tensor.datatype!r} is not one")
        shape = tensor.shape
        flat = _flatten(tensor.data or [])
        count = math.prod(shape)
        if len(flat) != count:
            raise HTTPError(
                400, f"the tensor {tensor.name!r} has {len(flat)} values for shape {shape}"
            )
        if shape[0] > limit:
            raise HTTPError(400, f"{shape[0]} inputs are more than {limit}")
        columns[tensor.name] = _nest(flat, shape)
    rows = {len(column) for column in columns.values()}
    if len(rows) != 1:
        raise HTTPError(400, f"the tensors have different numbers of rows: {sorted(rows)}")
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _flatten(data: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in data:
        if isinstance(value, list):
            flat.extend(_flatten(value))
        elif isinstance(value, _flat_types):
            flat.append(value)
        else:
            raise HTTPError(400, "a tensor's data holds numbers, texts and booleans only")
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


def _binary_wanted(asked: InferRequest) -> set[str]:
    wanted = {output.name for output in asked.outputs if output.parameters.get("binary_data")}
    if asked.parameters.get("binary_data_output") is True:
        wanted.add("*")
    return wanted


def _unpack(tensor: Tensor, data: bytes) -> list[Any]:
    if tensor.datatype == "BYTES":
        texts: list[Any] = []
        start = 0
        while start + 4 <= len(data):
            (size,) = struct.unpack_from("<I", data, start)
            end = start + 4 + size
            if end > len(data):
                break
            try:
                texts.append(data[start + 4 : end].decode())
            except UnicodeDecodeError:
                raise HTTPError(400, f"{tensor.name!r} holds bytes that are not UTF-8") from None
            start = end
        if start != len(data):
            raise HTTPError(400, f"the binary data of {tensor.name!r} is cut short")
        return texts
    kind = TYPES.get(tensor.datatype)
    if kind is None or len(data) % struct.calcsize(kind):
        raise HTTPError(400, f"the binary data of {tensor.name!r} is not {tensor.datatype}")
    values = list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data))
    if kind in "efd" and not all(map(math.isfinite, values)):
        raise HTTPError(400, f"the tensor {tensor.name!r} holds NaN or infinity")
    return values


def _pack(datatype: str, flat: list[Any]) -> bytes:
    if datatype == "BYTES":
        texts = [text.encode() for text in flat]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(flat)}{TYPES[datatype]}", *flat)


def _check_version(inference: Inference, name: str, version: str | None) -> None:
    versions = [variant.version for variant in inference.models.get(name).variants]
    if version is not None and version not in versions:
        raise HTTPError(404, f"there is no version {version!r}; there are: {', '.join(versions)}")


def _named(rest: str) -> Methods | None:
    """The routes below /v2/models/: NAME[/versions/V][/ready|/infer]."""
    name, *parts = rest.split("/")
    version = None
    if len(parts) >= 2 and parts[0] == "versions":
        version, parts = parts[1], parts[2:]
    if not parts:
        return {"GET": ("v2_model", lambda told, req: model_metadata(told, req, name, version))}
    if parts == ["ready"]:
        return {"GET": ("model_ready", lambda told, req: model_ready(told, req, name, version))}
    if parts == ["infer"]:
        return {"POST": ("v2_infer", lambda told, req: infer(told, req, name, version))}
    return None


def add(table: Table) -> None:
    """Puts these routes into the table."""
    table.add("GET", "/v2", "v2_server", server)
    table.below("/v2/models/", _named)
