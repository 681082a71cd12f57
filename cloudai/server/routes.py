"""The routes of cloudai, SageMaker, Vertex AI, Azure ML and KServe's v1; v2 and OpenAI's are in
modules of their own. Each is an async function of the app and a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from cloudai.server import feedback, kserve2, openai, streams
from cloudai.server.codecs import (
    KINDS,
    Parsed,
    binary_item,
    items_of,
    parse_any,
    parse_object,
    to_csv,
)
from cloudai.server.config import DEFAULT_BATCH
from cloudai.server.http import JSON_TYPE, HTTPError, Request, Response, header_value
from cloudai.server.metrics import CONTENT_TYPE
from cloudai.server.models import ServedModel
from cloudai.server.wire import Item

if TYPE_CHECKING:
    from cloudai.server.app import App, Route

Table: TypeAlias = dict[str, dict[str, "tuple[str, Route]"]]

OPEN_ROUTES: Final = frozenset({"ping", "health", "live", "ready", "model_ready", "root"})
"""Answered without the token: probes send none, and they tell nothing."""

_encode = msgspec.json.encode


def _json(value: Any, status: int = 200) -> Response:
    return Response(_encode(value), status)


async def health(app: App, request: Request) -> Response:
    """200 when every model can answer, else 503."""
    status = "ok" if app.ready else "stopping" if app.stopping else "loading"
    return _json({"status": status, "models": list(app.models.served)}, 200 if app.ready else 503)


async def ping(app: App, request: Request) -> Response:
    """SageMaker's and Vertex AI's health check."""
    return Response(b"{}" if app.ready else b'{"status":"loading"}', 200 if app.ready else 503)


async def live(app: App, request: Request) -> Response:
    """200 while the process answers at all."""
    return _json({"live": True})


async def ready(app: App, request: Request) -> Response:
    """KServe's v2 readiness."""
    return _json({"ready": app.ready}, 200 if app.ready else 503)


async def root(app: App, request: Request) -> Response:
    """A page for a person; for all others KServe v1's liveness, which Azure ML's server has in
    the same place."""
    if b"text/html" in request.headers.get(b"accept", b""):
        from cloudai.server.page import page, policy

        return Response(
            page(),
            content_type=b"text/html; charset=utf-8",
            headers=[
                (b"content-security-policy", policy()),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-cache"),
            ],
        )
    return _json({"status": "alive", "ready": app.ready, "models": list(app.models.served)})


async def metrics(app: App, request: Request) -> Response:
    """Prometheus' text format."""
    return Response(app.metrics.text(), content_type=CONTENT_TYPE.encode())


async def describe(app: App, request: Request) -> Response:
    """What is loaded, for the page and for people."""
    return _json(
        {"models": app.models.describe(), "started": app.started, "ready": app.ready,
         "generation": app.models.generation,
         "target": None if app.gate is None else app.gate.about()}
    )  # fmt: skip


async def openapi(app: App, request: Request) -> Response:
    """The description of all this."""
    from cloudai.server.openapi import document

    told = document(app.models)
    return _json(told if app.gate is None else app.gate.described(told))


async def execution_parameters(app: App, request: Request) -> Response:
    """What SageMaker's batch transform asks before it begins."""
    limits = app.models.config.limits
    workers = sum(variant.group.count for variant in app.models.get(None).variants)
    return _json(
        {
            "MaxConcurrentTransforms": max(1, workers * 2),
            "BatchStrategy": "MULTI_RECORD",
            # SageMaker takes at most 100 (CreateTransformJob, read 2026-11).
            "MaxPayloadInMB": max(1, min(100, limits.body >> 20)),
        }
    )


async def predict(app: App, request: Request) -> Response:
    """``{"inputs": […], "params"?: {…}}`` → ``{"outputs": […]}``; ``instances`` →
    ``predictions``; ``{"text": …}`` → ``{"prediction": …}``. Other content types as for
    /invocations."""
    return await _typed(app, request, None, ("inputs", "instances", "text", "texts"))


async def batch_predict(app: App, request: Request) -> Response:
    """As /predict, for lists."""
    return await _typed(app, request, None, ("inputs", "instances", "texts"))


async def vertex_predict(app: App, request: Request) -> Response:
    """Vertex AI's and KServe's v1: ``{"instances": […], "parameters"?: {…}}`` →
    ``{"predictions": […]}``."""
    return await v1_predict(app, request, None)


async def v1_predict(app: App, request: Request, name: str | None) -> Response:
    """The same, of a model by name."""
    return await _typed(app, request, name, ("instances", "inputs"), answer="predictions")


async def invocations(app: App, request: Request) -> Response:
    """SageMaker's and Azure ML's: any body by its content type; JSON Lines n → n, CSV a row
    each; OpenAI's for models of chat and embeddings; SageMaker's handler functions get the body
    as it is."""
    info = app.models.get(None).variants[0].group.info
    engine = info.get("engine")
    if engine in ("chat", "embeddings") and request.content_type == "application/json":
        found = await openai.invoked(app, request, engine)
        if found is not None:
            return found
    if not info.get("raw"):
        return await _typed(app, request, None, None)
    body = await request.body()
    model = app.models.get(None)
    accept = request.header(b"accept") or "application/json"
    item = Item(
        "raw", body, content_type=request.header(b"content-type") or "application/json",
        accept="application/json" if accept == "*/*" else accept, stream=bool(info.get("streams")),
    )  # fmt: skip
    if item.stream:
        form = streams.plain(item.accept)
        return await streams.respond(app, request, model, item, form)
    (result,) = await app.infer(request, model, [item])
    return Response(result.body, content_type=header_value(result.content_type))


async def _typed(
    app: App,
    request: Request,
    name: str | None,
    keys: tuple[str, ...] | None,
    answer: str | None = None,
) -> Response:
    """Any body by its content type; ``keys`` None takes any JSON, else an object with one."""
    kind = KINDS.get(request.content_type)
    if kind is None:
        raise HTTPError(
            415,
            f"the content type {request.content_type!r} is not read here",
            hint=f"Send one of {', '.join(KINDS)}",
        )
    limits = app.models.config.limits
    body = await request.body()
    # Looked up after the wait: an update may have replaced it meanwhile.
    model = app.models.get(name)
    accept = request.accept
    if kind == "json":
        parsed = parse_any(body, limits) if keys is None else parse_object(body, limits, keys)
        if answer is not None:
            parsed.key = answer
        if parsed.stream or accept == "text/event-stream":
            return await _streamed(app, request, model, parsed)
        if not parsed.values:
            return _answer(parsed, [], accept)
        # NumPy's format is one array of all outputs, so such a request is not cut in parts.
        items = items_of(parsed, accept, limits)
        if accept == "application/x-npy" and len(items) > 1:
            most = limits.batch or DEFAULT_BATCH
            raise HTTPError(406, f"more than {most} outputs do not come as one array")
        return await _json_answer(app, request, model, items, parsed)
    if not body and kind != "image":
        raise HTTPError(400, "the body is empty")
    item = binary_item(kind, body, request.header(b"content-type"), accept, limits)
    (result,) = await app.infer(request, model, [item])
    if result.body:
        return Response(result.body, content_type=result.content_type.encode())
    if kind == "lines" and accept in ("", request.content_type, "application/jsonlines"):
        return Response(
            b"".join(output + b"\n" for output in result.outputs),
            content_type=b"application/jsonlines",
        )
    if accept == "text/csv" or (kind == "csv" and accept in ("", "text/csv")):
        return Response(to_csv(result.outputs), content_type=b"text/csv")
    parsed = Parsed([], key=answer or ("outputs" if keys is not None else "predictions"))
    return _answer(parsed, result.outputs, accept)


async def _streamed(app: App, request: Request, model: ServedModel, parsed: Parsed) -> Response:
    """One input's answer in pieces: server-sent events where the caller accepts them, else a
    line of JSON each."""
    if not model.variants[0].group.info.get("streams"):
        raise HTTPError(
            400 if parsed.stream else 406,
            "the model does not stream",
            hint="Leave stream out, or give the handler a function stream(model, input, params)",
        )
    if len(parsed.values) != 1:
        raise HTTPError(400, f"a stream answers one input, not {len(parsed.values)}")
    (item,) = items_of(parsed, "", app.models.config.limits)
    item.stream = True
    form = streams.EVENTS if request.accept == "text/event-stream" else streams.LINES
    return await streams.respond(app, request, model, item, form)


async def _json_answer(
    app: App, request: Request, model: ServedModel, items: list[Item], parsed: Parsed
) -> Response:
    results = await app.infer(request, model, items)
    if results[0].body:
        return Response(results[0].body, content_type=results[0].content_type.encode())
    if len(results) == 1:
        return _answer(parsed, results[0].outputs, request.accept)
    return _answer(
        parsed, [output for result in results for output in result.outputs], request.accept
    )


def _answer(parsed: Parsed, outputs: list[bytes], accept: str) -> Response:
    if accept == "text/csv":
        return Response(to_csv(outputs), content_type=b"text/csv")
    if accept in ("application/jsonlines", "application/x-ndjson"):
        return Response(
            b"".join(output + b"\n" for output in outputs), content_type=accept.encode()
        )
    before, after = (b"", b"") if parsed.single and outputs else (b"[", b"]")
    if parsed.key is not None:
        before, after = b'{"' + parsed.key.encode() + b'":' + before, after + b"}"
    # Formatted in one go: an answer of many vectors is megabytes.
    value = outputs[0] if parsed.single and outputs else b",".join(outputs)
    return Response(b"%b%b%b" % (before, value, after), content_type=JSON_TYPE)


def table(env: Mapping[str, str]) -> Table:
    """All routes without a name in their path: path → method → (name, function)."""
    routes: Table = {
        "/": {"GET": ("root", root)},
        "/health": {"GET": ("health", health)},
        "/livez": {"GET": ("live", live)},
        "/readyz": {"GET": ("ready", ready)},
        "/ping": {"GET": ("ping", ping)},
        "/metrics": {"GET": ("metrics", metrics)},
        "/models": {"GET": ("describe", describe)},
        "/openapi.json": {"GET": ("openapi", openapi)},
        "/swagger.json": {"GET": ("openapi", openapi)},  # where Azure ML looks for it
        "/execution-parameters": {"GET": ("execution_parameters", execution_parameters)},
        "/predict": {"POST": ("predict", predict)},
        "/batch_predict": {"POST": ("batch_predict", batch_predict)},
        "/feedback": {"POST": ("feedback", feedback.feedback)},
        "/invocations": {"POST": ("invocations", invocations)},
        "/score": {"POST": ("score", invocations)},
        **kserve2.routes(),
        **openai.routes(),
    }
    for variable, method, name, function in (
        ("AIP_HEALTH_ROUTE", "GET", "health", health),
        ("AIP_PREDICT_ROUTE", "POST", "vertex_predict", vertex_predict),
    ):
        path = env.get(variable)
        if path:
            routes.setdefault(path, {})[method] = (name, function)
    return routes


def find(routes: Table, request: Request) -> tuple[str, Route]:
    """The route's name and function. Raises HTTPError 404, or 405 with the allowed methods."""
    path = request.path
    if len(path) > 1 and path.endswith("/"):
        path = path.rstrip("/")
    methods = methods_of(routes, path)
    if methods is None:
        raise HTTPError(404, "there is no such route")
    method = "GET" if request.method == "HEAD" else request.method
    found = methods.get(method)
    if found is None:
        raise HTTPError(405, f"{request.method[:20]} is not allowed here", hint=", ".join(methods))
    return found


def methods_of(routes: Table, path: str) -> dict[str, tuple[str, Route]] | None:
    """Method → (name, function) of a path; None where there is no such route."""
    methods = routes.get(path)
    return methods if methods is not None else _named(path)


def _named(path: str) -> dict[str, tuple[str, Route]] | None:
    """The routes with a model's name in their path. The name is only looked up in a table."""
    if path.startswith("/v1/models/"):
        name, colon, verb = path.removeprefix("/v1/models/").partition(":")
        if "/" in name or not name:
            return None
        if not colon:
            return {"GET": ("v1_model", lambda app, request: openai.model(app, request, name))}
        if verb == "predict":
            return {"POST": ("v1_predict", lambda app, request: v1_predict(app, request, name))}
        return None
    if path.startswith("/v2/models/"):
        return kserve2.named(path.removeprefix("/v2/models/").split("/"))
    return None
