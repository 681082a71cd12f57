"""SageMaker's runtime: invoking endpoints, at once, as a stream, or later."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from cloudai.formats import eventstream
from cloudai.testing.emulators.aws import _endpoints, _stores
from cloudai.testing.emulators.aws._state import STATE

Answer = tuple[int, dict[str, Any], Any]


def error(status: int, code: str, message: str, **more: Any) -> Answer:
    """A rest-json error of AWS."""
    body = msgspec.json.encode({"message": message, "Message": message, **more})
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": code, "status": status}
    return status, headers, body


def _variant(region: str, name: str, wanted: str | None) -> tuple[str, Any] | Answer:
    endpoint = STATE.get(region, "Endpoint", name)
    if endpoint is not None:
        _endpoints.settle(region, endpoint)
    if endpoint is None or endpoint["EndpointStatus"] in {"Creating", "Failed"}:
        return error(400, "ValidationError", f"Endpoint {name} of account not found.")
    variants = endpoint["Config"]["ProductionVariants"]
    if wanted is None:
        weights = [one.get("InitialVariantWeight", 1.0) for one in variants]
        names: list[str] = [one["VariantName"] for one in variants]
        chosen = STATE.random.choices(names, weights)[0]
        return chosen, endpoint["Served"][chosen]
    if wanted not in endpoint["Served"]:
        return error(400, "ValidationError", f"Variant {wanted} of endpoint {name} not found.")
    return wanted, endpoint["Served"][wanted]


class _Invoked(NamedTuple):
    """What a variant answers, whose pieces come as they are made. They raise ConnectionError."""

    variant: str
    kind: str
    pieces: Iterator[bytes]


def _invoked(region: str, path: str, headers: Mapping[str, str], body: bytes) -> _Invoked | Answer:
    name = path.split("/")[2]
    with STATE.lock:
        chosen = _variant(region, name, headers.get("X-Amzn-SageMaker-Target-Variant"))
    if len(chosen) == 3:
        return chosen
    variant, served = chosen
    kind = headers.get("Content-Type", "application/json")
    accept = headers.get("Accept", "application/json")
    # Real-time payloads end at 25 MB (SageMaker quotas, read 2026-11).
    if len(body) > 25 * 1024 * 1024:
        return error(413, "ValidationError", "the payload is over 25 MB")
    status, made, pieces = served.stream(body, kind, accept)
    if status >= 400:
        return _model_error(variant, status, b"".join(pieces).decode("utf-8", "replace"))
    return _Invoked(variant, made, pieces)


def _model_error(variant: str, status: int, text: str) -> Answer:
    return error(
        424, "ModelError",
        f"Received server error ({status}) from {variant} with message {text!r}. See the "
        "CloudWatch logs of the endpoint for more information.",
        OriginalStatusCode=status, OriginalMessage=text,
    )  # fmt: skip


def _whole(made: _Invoked) -> tuple[int, dict[str, Any], bytes]:
    """The answer once it is all there."""
    try:
        answer = b"".join(made.pieces)
    except ConnectionError as failure:
        return _model_error(made.variant, 500, str(failure))
    return 200, {
        "Content-Type": made.kind,
        "x-Amzn-Invoked-Production-Variant": made.variant,
    }, answer  # fmt: skip


def invoke_endpoint(
    region: str, path: str, headers: Mapping[str, str], body: bytes, query: Any
) -> Answer:
    made = _invoked(region, path, headers, body)
    return _whole(made) if isinstance(made, _Invoked) else made


def invoke_endpoint_with_response_stream(
    region: str, path: str, headers: Mapping[str, str], body: bytes, query: Any
) -> Answer:
    made = _invoked(region, path, headers, body)
    if not isinstance(made, _Invoked):
        return made
    return 200, {
        "Content-Type": "application/vnd.amazon.eventstream",
        "X-Amzn-SageMaker-Content-Type": made.kind,
        "x-Amzn-Invoked-Production-Variant": made.variant,
    }, _frames(made.pieces)  # fmt: skip


def _frames(pieces: Iterator[bytes]) -> Iterator[bytes]:
    about = {
        ":event-type": "PayloadPart", ":content-type": "application/octet-stream",
        ":message-type": "event",
    }  # fmt: skip
    try:
        for piece in pieces:
            # Parts end where they like, as the real service has it.
            for at in range(0, len(piece), 61):
                yield eventstream.message(about, piece[at : at + 61])
    except ConnectionError as failure:
        told = {"Message": str(failure), "ErrorCode": "StreamBroken"}
        yield eventstream.exception("ModelStreamError", msgspec.json.encode(told))


def invoke_endpoint_async(
    region: str, path: str, headers: Mapping[str, str], body: bytes, query: Any
) -> Answer:
    name = path.split("/")[2]
    with STATE.lock:
        endpoint = STATE.get(region, "Endpoint", name)
    config: Any = endpoint["Config"].get("AsyncInferenceConfig") if endpoint else None
    if endpoint is None or config is None:
        return error(400, "ValidationError", f"Endpoint {name} is not an asynchronous one.")
    source = headers.get("X-Amzn-SageMaker-InputLocation", "")
    data = _stores.read(source)
    if data is None:
        return error(400, "ValidationError", f"Could not find the input at {source}.")
    inner = {"Content-Type": headers.get("X-Amzn-SageMaker-Content-Type", "application/json")}
    made = _invoked(region, path, inner, data)
    number = str(uuid.uuid4())
    target = f"{config['OutputConfig']['S3OutputPath'].rstrip('/')}/{number}.out"
    failed = config["OutputConfig"].get("S3FailurePath", config["OutputConfig"]["S3OutputPath"])
    trouble = f"{failed.rstrip('/')}/{number}-error.out"
    status, _, answer = _whole(made) if isinstance(made, _Invoked) else made
    _stores.write(target if status == 200 else trouble, answer)
    return 202, {
        "Content-Type": "application/json",
        "X-Amzn-SageMaker-OutputLocation": target,
        "X-Amzn-SageMaker-FailureLocation": trouble,
        "status": 202,
    }, msgspec.json.encode({"InferenceId": number})  # fmt: skip


OPERATIONS: Final[dict[str, Callable[..., Answer]]] = {
    "InvokeEndpoint": invoke_endpoint,
    "InvokeEndpointWithResponseStream": invoke_endpoint_with_response_stream,
    "InvokeEndpointAsync": invoke_endpoint_async,
}
