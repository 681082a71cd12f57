"""SageMaker's runtime: invoking endpoints, at once, as a stream, or later."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from cloudai.providers.aws import _eventstream
from cloudai.testing.emulators.aws import _endpoints, _stores
from cloudai.testing.emulators.aws._world import WORLD

Answer = tuple[int, dict[str, Any], Any]


def error(status: int, code: str, message: str, **more: Any) -> Answer:
    """A rest-json error of AWS."""
    body = msgspec.json.encode({"message": message, "Message": message, **more})
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": code, "status": status}
    return status, headers, body


def _variant(region: str, name: str, wanted: str | None) -> tuple[str, Any] | Answer:
    endpoint = WORLD.get(region, "Endpoint", name)
    if endpoint is not None:
        _endpoints.settle(region, endpoint)
    if endpoint is None or endpoint["EndpointStatus"] in {"Creating", "Failed"}:
        return error(400, "ValidationError", f"Endpoint {name} of account not found.")
    variants = endpoint["Config"]["ProductionVariants"]
    if wanted is None:
        weights = [one.get("InitialVariantWeight", 1.0) for one in variants]
        names: list[str] = [one["VariantName"] for one in variants]
        chosen = WORLD.random.choices(names, weights)[0]
        return chosen, endpoint["Served"][chosen]
    if wanted not in endpoint["Served"]:
        return error(400, "ValidationError", f"Variant {wanted} of endpoint {name} not found.")
    return wanted, endpoint["Served"][wanted]


def _invoked(
    region: str, path: str, headers: Mapping[str, str], body: bytes
) -> tuple[str, int, str, bytes] | Answer:
    name = path.split("/")[2]
    with WORLD.lock:
        chosen = _variant(region, name, headers.get("X-Amzn-SageMaker-Target-Variant"))
    if len(chosen) == 3:
        return chosen
    variant, served = chosen
    kind = headers.get("Content-Type", "application/json")
    accept = headers.get("Accept", "application/json")
    # Real-time payloads end at 25 MB (SageMaker quotas, read 2026-11).
    if len(body) > 25 * 1024 * 1024:
        return error(413, "ValidationError", "the payload is over 25 MB")
    status, made, answer = served.invoke(body, kind, accept)
    if status >= 400:
        text = answer.decode("utf-8", "replace")
        return error(
            424, "ModelError",
            f"Received server error ({status}) from {variant} with message {text!r}. See the "
            "CloudWatch logs of the endpoint for more information.",
            OriginalStatusCode=status, OriginalMessage=text,
        )  # fmt: skip
    return variant, status, made, answer


def invoke_endpoint(
    region: str, path: str, headers: Mapping[str, str], body: bytes, query: Any
) -> Answer:
    made = _invoked(region, path, headers, body)
    if len(made) == 3:
        return made
    variant, _, kind, answer = made
    return 200, {
        "Content-Type": kind,
        "x-Amzn-Invoked-Production-Variant": variant,
    }, answer  # fmt: skip


def invoke_endpoint_with_response_stream(
    region: str, path: str, headers: Mapping[str, str], body: bytes, query: Any
) -> Answer:
    made = _invoked(region, path, headers, body)
    if len(made) == 3:
        return made
    variant, _, kind, answer = made
    # Parts end where they like, as the real service has it.
    parts = [answer[at : at + 61] for at in range(0, len(answer), 61)]
    frames = b"".join(
        _eventstream.message(
            {":event-type": "PayloadPart", ":content-type": "application/octet-stream",
             ":message-type": "event"}, part,
        )
        for part in parts
    )  # fmt: skip
    return 200, {
        "Content-Type": "application/vnd.amazon.eventstream",
        "X-Amzn-SageMaker-Content-Type": kind,
        "x-Amzn-Invoked-Production-Variant": variant,
    }, frames  # fmt: skip


def invoke_endpoint_async(
    region: str, path: str, headers: Mapping[str, str], body: bytes, query: Any
) -> Answer:
    name = path.split("/")[2]
    with WORLD.lock:
        endpoint = WORLD.get(region, "Endpoint", name)
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
    if len(made) == 3:
        _stores.write(trouble, made[2])
    else:
        _stores.write(target, made[3])
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
