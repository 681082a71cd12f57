"""KServe's v2, the Open Inference Protocol: tensors by name, in JSON or as binary data after it.

One input tensor: each of its rows is an input. Several: each row becomes an object of the
tensors' names. The front counts rows and cuts the body; the worker decodes
(``predictors.tensors``). The specification is open_inference_rest.yaml of
kserve/open-inference-protocol with the binary tensor data extension, read 2026-11.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai import _version
from cloudai.server.config import Limits
from cloudai.server.http.errors import HTTPError
from cloudai.server.http.messages import JSON_TYPE, Request, Response
from cloudai.server.inference import Inference
from cloudai.server.predictors.tensors import TYPES, Tensor, Wanted
from cloudai.server.routes.codecs import check_depth, decode, elements
from cloudai.server.routing import Methods, Table
from cloudai.server.workers.wire import Item

BINARY_HEADER: Final = b"inference-header-content-length"
_BINARY: Final = "application/octet-stream"


class HeadParameters(msgspec.Struct, frozen=True):
    binary_data_size: int | msgspec.UnsetType = msgspec.UNSET
    binary_data: bool = False


class TensorHead(msgspec.Struct):
    """An input tensor as far as the front reads it. ``data`` is flat or nested; absent when it
    comes as binary data."""

    name: str
    shape: msgspec.Raw
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: msgspec.Raw = msgspec.Raw(b"{}")


class WantedOutput(msgspec.Struct):
    name: str
    parameters: HeadParameters = HeadParameters()


class InferRequest(msgspec.Struct):
    inputs: msgspec.Raw
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    outputs: msgspec.Raw = msgspec.Raw(b"[]")


class Asked(msgspec.Struct):
    """A request, read: its inputs as one item, and its own name."""

    item: Item
    id: str | msgspec.UnsetType


MOST_TENSORS: Final = 1000
MOST_ABOUT: Final = 64 << 10
"""Bytes of what is said about tensors beside their data."""

_request = msgspec.json.Decoder(InferRequest)
_head = msgspec.json.Decoder(TensorHead)
_head_parameters = msgspec.json.Decoder(HeadParameters)
_shape = msgspec.json.Decoder(list[int])
_outputs = msgspec.json.Decoder(list[WantedOutput])
_parameters = msgspec.json.Decoder(dict[str, msgspec.Raw])


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
    length = request.headers.get(BINARY_HEADER)
    kinds = ("application/json",) if length is None else ("application/json", _BINARY)
    if request.content_type not in kinds:
        raise HTTPError(415, f"the content type {request.content_type!r} is not read here")
    asked = await request.read(_read, length, inference.limits)
    model = inference.models.get(name)
    _check_version(inference, name, version)
    (result,) = await inference.infer(request, model, [asked.item])
    kind = result.content_type.encode()
    about: dict[str, Any] = {"model_name": model.name, "model_version": request.version}
    if asked.id is not msgspec.UNSET:
        about["id"] = asked.id
    before = msgspec.json.encode(about)[:-1] + b","
    told = [] if kind == JSON_TYPE else [(BINARY_HEADER, b"%d" % (len(before) + result.head - 1))]
    return Response(b"%b%b" % (before, result.body[1:]), content_type=kind, headers=told)


def _read(body: bytes, length: bytes | None, limits: Limits) -> Asked:
    """Counts and cuts; the worker decodes the tensors."""
    blobs = memoryview(b"")
    if length is not None:
        if not length.isdigit() or len(length) > 12 or int(length) > len(body):
            raise HTTPError(400, "Inference-Header-Content-Length is not within the body")
        body, blobs = body[: int(length)], memoryview(body)[int(length) :]
    check_depth(body, limits.depth)
    asked: InferRequest = decode(_request, body)
    tensors: list[Tensor] = []
    start = 0
    for raw in elements(asked.inputs, MOST_TENSORS, "tensors"):
        head: TensorHead = decode(_head, raw)
        size = _about(_head_parameters, head.parameters).binary_data_size
        shape: list[int] = _about(_shape, head.shape)
        if not 1 <= len(shape) <= 16 or any(size < 0 for size in shape):
            raise HTTPError(400, f"the shape {shape[:20]} of {head.name!r} is not one")
        if head.datatype != "BYTES" and head.datatype not in TYPES:
            raise HTTPError(400, f"the datatype {head.datatype!r} is not one")
        if size is msgspec.UNSET:
            if head.data is msgspec.UNSET:
                raise HTTPError(400, f"the tensor {head.name!r} has no data")
            data = bytes(head.data)
            if data[:1] != b"[":
                raise HTTPError(400, f"the data of the tensor {head.name!r} is no list")
            tensors.append(Tensor(head.name, head.datatype, shape, data))
            continue
        if size < 0 or start + size > len(blobs):
            raise HTTPError(400, f"binary_data_size of {head.name!r} is not within the body")
        data = bytes(blobs[start : start + size])
        tensors.append(Tensor(head.name, head.datatype, shape, data, binary=True))
        start += size
    if start != len(blobs):
        raise HTTPError(400, f"{len(blobs) - start} bytes of binary data belong to no tensor")
    return Asked(_item(tensors, asked, limits), asked.id)


def _item(tensors: list[Tensor], asked: InferRequest, limits: Limits) -> Item:
    if not tensors:
        raise HTTPError(400, "inputs is empty")
    names = [tensor.name for tensor in tensors]
    for name in names:
        if names.count(name) > 1:
            raise HTTPError(400, f"the tensor {name!r} comes twice")
    rows = {tensor.shape[0] for tensor in tensors}
    if len(rows) != 1:
        raise HTTPError(400, f"the tensors have different numbers of rows: {sorted(rows)}")
    (count,) = rows
    if count > limits.items:
        raise HTTPError(400, f"{count} inputs are more than {limits.items}")
    outputs: list[WantedOutput] = _about(_outputs, asked.outputs)
    told: dict[str, msgspec.Raw] = _about(_parameters, asked.parameters)
    wanted = Wanted(
        [output.name for output in outputs] or None,
        [output.name for output in outputs if output.parameters.binary_data],
    )
    if bytes(told.get("binary_data_output", b"")) == b"true":
        wanted.binary.append("*")
    params = {key: value for key, value in told.items() if not key.startswith("binary_data")}
    return Item(
        "tensors",
        msgspec.msgpack.encode(tensors),
        msgspec.json.encode(params),
        max(1, count),
        accept=msgspec.json.encode(wanted).decode(),
    )


def _about(decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
    if len(bytes(raw)) > MOST_ABOUT:
        raise HTTPError(400, f"what is said about the tensors has more than {MOST_ABOUT} bytes")
    return decode(decoder, raw)


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
