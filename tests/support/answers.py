"""Every answer of an emulator, held against what the vendor publishes of its answers.

``judged(app)`` stands between an emulator and its callers. Each answer with a status below 300 is
read by shapes that nobody of this project wrote: botocore's output shapes (required members,
unknown members, types), Google's protos (strictly, ``Any`` fields included), OpenAI's and
Microsoft's published OpenAPI responses. What does not fit is kept in ``FAULTS``, by operation;
``KNOWN`` has what stays as it is, each with its date and reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
SPECS = next(
    (p / "shared" / "specs" for p in Path(__file__).parents if (p / "shared/specs").is_dir()), None
)

FAULTS: dict[str, set[str]] = {}
JUDGED: set[str] = set()
_seen: set[str] = set()

V1 = "azure_openai_v1.json"
OPENAI = "openai.json"
MANAGEMENT = "azure_mgmt_cognitiveservices.json"
VAULT = "keyvault_secrets_2026-04-01.json"

KNOWN: tuple[tuple[str, str], ...] = (
    # The SDK asks for base64 and the service gives it; the descriptions say numbers (2026-11).
    (r"POST /openai/v1/embeddings", r"\.data\[\]\.embedding: '.*is not of type 'array'"),
    # Azure's own states (contracts of the service, read 2026-11): a job is "pending" before it is
    # queued, "paused" by its own operation; result_files is null until there are some.
    (r".* /openai/v1/fine_tuning/.*", r"status: '(pending|paused)' is not one of"),
    (r".* /openai/v1/fine_tuning/.*", r"result_files: None "),
    # A grader stands there as it was asked for; the description's graders lost their kinds.
    (r".* /openai/v1/fine_tuning/.*", r"\.method\.reinforcement\.grader: "),
    # OpenAI's description calls optional times and files never null; its SDK's Batch has them
    # Optional, and Microsoft's example of a batch shows each as null (learn, "batch", 2026-11).
    (r".* /v1/batches.*", r"None is not of type"),
    # All pieces but the last have null here, as every recorded stream has (2026-11).
    (r".* stream", r"\.choices\[\]\.finish_reason: None is not"),
)
"""Operation and fault, as regular expressions: what is known not to fit, with date and reason."""


def judged(app: WSGI) -> WSGI:
    """The application, with its answers looked at on their way."""

    def wrapped(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        told: list[tuple[int, dict[str, str]]] = []

        def note(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            told[:] = [(int(status[:3]), {k.lower(): v for k, v in headers})]
            return start(status, headers, *rest)

        return _passed(app(environ, note), environ, told)

    return wrapped


def _passed(
    pieces: Iterable[bytes], environ: dict[str, Any], told: list[tuple[int, dict[str, str]]]
) -> Iterator[bytes]:
    kept: list[bytes] = []
    try:
        for piece in pieces:
            kept.append(piece)
            yield piece
        if told and told[0][0] < 300:
            judge(environ, told[0][1], b"".join(kept))
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def judge(environ: dict[str, Any], headers: dict[str, str], body: bytes) -> None:
    """Looks at one answer; the same structure of one operation is looked at once."""
    path = str(environ.get("RAW_URI") or environ["PATH_INFO"]).partition("?")[0]
    path = re.sub(r"\Ahttps?://[^/]+", "", path)
    method = environ["REQUEST_METHOD"]
    kind = headers.get("content-type", "").partition(";")[0]
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    for operation, value, faults in _read(method, path, target, kind, body, environ):
        mark = f"{operation} {_structure(value)}"
        if mark in _seen:
            continue
        _seen.add(mark)
        JUDGED.add(operation)
        for fault in faults(value):
            if not any(re.fullmatch(o, operation) and re.search(f, fault) for o, f in KNOWN):
                FAULTS.setdefault(operation, set()).add(fault)


Found = tuple[str, Any, Callable[[Any], Iterable[str]]]


def _read(
    method: str, path: str, target: str, kind: str, body: bytes, environ: dict[str, Any]
) -> Iterator[Found]:
    if target.startswith("SageMaker."):
        name = target.partition(".")[2]
        yield f"sagemaker:{name}", json.loads(body or b"{}"), _shape("sagemaker", name)
    elif kind == "application/vnd.amazon.eventstream":
        yield from _events(path, body)
    elif path.startswith(("/v1/projects/", "/v1beta1/projects/")):
        yield from _google(method, path, kind, body)
    elif kind == "application/json" and (found := _aws_rest(method, path, environ)):
        service, name = found
        yield f"{service}:{name}", json.loads(body or b"{}"), _shape(service, name)
    elif kind in {"application/json", "text/event-stream"}:
        yield from _openapi(method, path, kind, body)


def _structure(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{_structure(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + "|".join(sorted({_structure(one) for one in value})) + "]"
    return type(value).__name__


# -- AWS: botocore's models of the services ------------------------------------------------------


@cache
def _service(name: str) -> Any:
    import botocore.session

    return botocore.session.Session().get_service_model(name)


def _aws_rest(method: str, path: str, environ: dict[str, Any]) -> tuple[str, str] | None:
    signed = environ.get("HTTP_AUTHORIZATION", "")
    if "AWS4-HMAC" not in signed and not signed.startswith("Bearer bedrock-"):
        return None
    for service in ("bedrock", "bedrock-runtime"):
        for name in _service(service).operation_names:
            http = _service(service).operation_model(name).http
            pattern = re.sub(
                r"\\\{[^}]*\\\}", "[^/]+", re.escape(http["requestUri"].partition("?")[0])
            )
            if http["method"] == method and re.fullmatch(pattern, path):
                return service, name
    return None


def _shape(service: str, name: str) -> Callable[[Any], Iterable[str]]:
    shape = _service(service).operation_model(name).output_shape
    if shape is None or shape.serialization.get("payload"):
        return lambda value: ()
    return lambda value: _fits(value, shape, "")


def _fits(value: Any, shape: Any, where: str) -> Iterator[str]:
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, dict):
            yield f"{where} is no structure"
            return
        if getattr(shape, "is_document_type", False):
            return
        names = {m.serialization.get("name", n): m for n, m in shape.members.items()
                 if m.serialization.get("location") is None}  # fmt: skip
        for name in value.keys() - names.keys():
            yield f"{where}.{name} is no member of {shape.name}"
        for name in shape.required_members:
            if name in names and value.get(name) is None:
                yield f"{where}.{name} is required in {shape.name}"
        for name in value.keys() & names.keys():
            if value[name] is not None:
                yield from _fits(value[name], names[name], f"{where}.{name}")
    elif kind == "list":
        for one in value if isinstance(value, list) else ():
            yield from _fits(one, shape.member, f"{where}[]")
        if not isinstance(value, list):
            yield f"{where} is no list"
    elif kind == "map":
        for one in value.values() if isinstance(value, dict) else ():
            yield from _fits(one, shape.value, f"{where}{{}}")
    elif kind == "string":
        if not isinstance(value, str):
            yield f"{where} is {type(value).__name__}, no string"
        elif shape.enum and value not in shape.enum:
            yield f"{where} is {value!r}, not one of {', '.join(shape.enum)}"
    elif kind in {"integer", "long"}:
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{where} is no whole number"
    elif kind in {"float", "double"}:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            yield f"{where} is no number"
    elif kind == "boolean" and not isinstance(value, bool):
        yield f"{where} is no boolean"


def _events(path: str, body: bytes) -> Iterator[Found]:
    from botocore.eventstream import EventStreamBuffer

    name = "ConverseStream" if path.endswith("/converse-stream") else None
    if name is None:
        return
    output = _service("bedrock-runtime").operation_model(name).output_shape
    members = output.members[output.serialization.get("payload", "stream")].members
    frames = EventStreamBuffer()
    frames.add_data(body)
    for frame in frames:
        event = frame.headers.get(":event-type")
        if event is None:
            continue
        operation = f"bedrock-runtime:{name}.{event}"
        shape = members.get(event)
        if shape is None:
            yield operation, {}, lambda value, event=event: [f"{event} is no event"]
            continue
        value = json.loads(frame.payload)
        value.pop("p", None)  # padding, which Bedrock itself adds (seen in recorded answers)
        yield operation, value, lambda value, shape=shape: _fits(value, shape, "")


# -- Google: the protos of google-cloud-aiplatform -----------------------------------------------

_COLLECTIONS = {
    "customJobs": ("CustomJob", "ListCustomJobsResponse"),
    "batchPredictionJobs": ("BatchPredictionJob", "ListBatchPredictionJobsResponse"),
    "models": ("Model", "ListModelsResponse"),
    "endpoints": ("Endpoint", "ListEndpointsResponse"),
    "tuningJobs": ("TuningJob", "ListTuningJobsResponse"),
}
_METHODS = {
    "upload": "Operation",
    "deployModel": "Operation",
    "undeployModel": "Operation",
    "mutateDeployedModel": "Operation",
    "predict": "PredictResponse",
    "generateContent": "GenerateContentResponse",
    "streamGenerateContent": "GenerateContentResponse",
    "countTokens": "CountTokensResponse",
    "embedContent": "EmbedContentResponse",
    "cancel": "Empty",
}


def _google(method: str, path: str, kind: str, body: bytes) -> Iterator[Found]:
    version, _, rest = path.lstrip("/").partition("/")
    match = re.fullmatch(r"projects/[^/]+/locations/[^/]+/(.+)", rest)
    if match is None or kind not in {"application/json", "text/event-stream"}:
        return
    resource, _, verb = match[1].partition(":")
    parts = resource.split("/")
    if "operations" in parts:
        name = "Empty" if method == "DELETE" else "Operation"
        if parts[-1] == "operations":
            return
    elif verb:
        name = _METHODS.get(verb, "")
        if verb == "predict" and parts[0] == "publishers":
            name = "PredictResponse"
    elif parts[0] in _COLLECTIONS:
        one, many = _COLLECTIONS[parts[0]]
        name = many if len(parts) == 1 and method == "GET" else one
        if method == "DELETE" or (parts[0] == "endpoints" and method == "POST"):
            name = "Operation"
    else:
        return
    if not name or parts[-1] == "completions":
        return
    operation = f"vertex:{method} {'/'.join(parts[::2])}{':' + verb if verb else ''}"
    if kind == "text/event-stream":
        lines = [line for line in body.splitlines() if line.startswith(b"data: {")]
        values = [json.loads(line[6:]) for line in lines]
    else:
        values = [json.loads(body or b"{}")]
        if verb == "streamGenerateContent" and isinstance(values[0], list):
            values = values[0]
    for value in values:
        yield operation, value, lambda value: _parses(value, version, name)


def _parses(value: Any, version: str, name: str) -> Iterator[str]:
    import importlib

    from google.longrunning import operations_pb2
    from google.protobuf import empty_pb2, json_format

    if name == "Operation":
        made: Any = operations_pb2.Operation()
    elif name == "Empty":
        made = empty_pb2.Empty()
    else:
        module = importlib.import_module(f"google.cloud.aiplatform_{version}.types")
        kind = getattr(module, name, None)
        if kind is None:
            yield f"{version} has no {name}"
            return
        made = kind.pb()()
    try:
        json_format.ParseDict(value, made)
    except json_format.ParseError as error:
        yield str(error)


# -- Azure: the published OpenAPI descriptions ---------------------------------------------------


@cache
def _described(file: str) -> dict[str, Any]:
    assert SPECS is not None
    return json.loads((SPECS / file).read_text())


def _openapi(method: str, path: str, kind: str, body: bytes) -> Iterator[Found]:
    if SPECS is None:
        return
    rest = re.sub(r"\A/openai(/v1|/deployments/[^/]+)?", "", path)
    ours = path.startswith("/openai")
    for file, looked in (
        (V1, f"/openai/v1{rest}" if ours else ""),
        (OPENAI, f"/v1{rest}" if ours else ""),  # batches, which Azure's description lacks
        (MANAGEMENT, path),
        (VAULT, path),
    ):
        for template, item in _described(file)["paths"].items():
            pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
            if not re.fullmatch(pattern, looked, re.IGNORECASE) or method.lower() not in item:
                continue
            operation = f"{method} {template}"
            answers = item[method.lower()]["responses"]
            content = next(
                (a["content"] for s, a in answers.items() if s[0] == "2" and a.get("content")), {}
            )
            if kind == "text/event-stream" and ours:
                for line in body.splitlines():
                    # A stream that fails ends with its error, as services do after a 200.
                    if line.startswith(b"data: {") and not line.startswith(b'data: {"error"'):
                        yield f"{operation} stream", json.loads(line[6:]), _valid(OPENAI, _CHUNK)
            elif kind in content and body:
                yield operation, json.loads(body), _valid(file, content[kind]["schema"])
            return


_CHUNK = {"$ref": "#/components/schemas/CreateChatCompletionStreamResponse"}


def _valid(file: str, schema: dict[str, Any]) -> Callable[[Any], Iterator[str]]:
    def faults(value: Any) -> Iterator[str]:
        for error in _validator(file, json.dumps(schema, sort_keys=True)).iter_errors(value):
            where = "".join("[]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
            yield f"{where or '.'}: {error.message[:300]}"

    return faults


@cache
def _validator(file: str, schema: str) -> Any:
    from openapi_schema_validator import OAS30Validator, OAS31Validator

    described = _described(file)
    kind = OAS31Validator if described["openapi"].startswith("3.1") else OAS30Validator
    return kind({**json.loads(schema), "components": described["components"]})
