"""Predictions as cloudai, SageMaker, Vertex AI, Azure ML and KServe's v1 ask for them."""

from __future__ import annotations

from collections.abc import Mapping

from cloudai._core.handlers.portable import MARK
from cloudai.server import streams
from cloudai.server.config import DEFAULT_BATCH
from cloudai.server.http.errors import HTTPError
from cloudai.server.http.messages import JSON_TYPE, Request, Response, header_value
from cloudai.server.inference import Inference
from cloudai.server.models import ServedModel
from cloudai.server.routes import openai
from cloudai.server.routes.codecs import KINDS, Parsed, binary_item, read, to_csv
from cloudai.server.routing import Methods, Table
from cloudai.server.workers.wire import Item


async def predict(inference: Inference, request: Request) -> Response:
    """``{"inputs": […], "params"?: {…}}`` → ``{"outputs": […]}``; ``instances`` →
    ``predictions``; ``{"text": …}`` → ``{"prediction": …}``. Other content types as for
    /invocations."""
    return await _typed(inference, request, None, ("inputs", "instances", "text", "texts"))


async def batch_predict(inference: Inference, request: Request) -> Response:
    """As /predict, for lists."""
    return await _typed(inference, request, None, ("inputs", "instances", "texts"))


async def vertex_predict(inference: Inference, request: Request) -> Response:
    """Vertex AI's and KServe's v1: ``{"instances": […], "parameters"?: {…}}`` →
    ``{"predictions": […]}``."""
    return await v1_predict(inference, request, None)


async def v1_predict(inference: Inference, request: Request, name: str | None) -> Response:
    """The same, of a model by name."""
    return await _typed(inference, request, name, ("instances", "inputs"), answer="predictions")


async def invocations(inference: Inference, request: Request) -> Response:
    """SageMaker's and Azure ML's: any body by its content type; JSON Lines n → n, CSV a row
    each; OpenAI's for models of chat and embeddings; SageMaker's handler functions get the body
    as it is."""
    info = inference.models.get(None).variants[0].group.info
    limits, accepted = inference.limits, request.accept
    if request.content_type == "application/json" and info.get("predictor") in openai.BODIES:
        body = await request.body()
        size, name = len(body), inference.models.get(None).name
        asked = await request.apart(size, openai.named, body, info["predictor"], name, limits)
        if asked is not None:
            return await openai.answered(inference, request, asked)
        parsed, items = await request.apart(size, read, body, limits, None, accepted)
        del body
        return await _predicted(inference, request, None, parsed, items)
    if not info.get("raw"):
        return await _typed(inference, request, None, None)
    body = await request.body()
    if body.startswith(MARK) and not info.get("whole"):  # the inputs alone are for the handler
        parsed, items = await request.apart(len(body), read, body, limits, None, accepted)
        del body
        return await _predicted(inference, request, None, parsed, items)
    model = inference.models.get(None)
    accept = request.header(b"accept") or "application/json"
    item = Item(
        "raw", body, content_type=request.header(b"content-type") or request.content_type,
        accept="application/json" if accept == "*/*" else accept, stream=bool(info.get("streams")),
    )  # fmt: skip
    if item.stream:
        form = streams.plain(item.accept)
        return await streams.respond(inference, request, model, item, form)
    (result,) = await inference.infer(request, model, [item])
    return Response(result.body, content_type=header_value(result.content_type))


async def _typed(
    inference: Inference,
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
    limits, accept = inference.limits, request.accept
    if kind == "json":
        parsed, items = await request.read(read, limits, keys, accept)
        if answer is not None:
            parsed.key = answer
        return await _predicted(inference, request, name, parsed, items)
    said = request.header(b"content-type")
    item = await request.read(binary_item, kind, said, accept, limits)
    (result,) = await inference.infer(request, inference.models.get(name), [item])
    if result.body:
        return Response(result.body, content_type=result.content_type.encode())
    if kind == "lines" and accept in ("", request.content_type, "application/jsonlines"):
        return Response(
            b"".join(output + b"\n" for output in result.outputs),
            content_type=b"application/jsonlines",
        )
    parsed = Parsed([], key=answer or ("outputs" if keys is not None else "predictions"))
    own = "text/csv" if kind == "csv" else ""
    return await _answer(request, parsed, result.outputs, accept or own)


async def _predicted(
    inference: Inference, request: Request, name: str | None, parsed: Parsed, items: list[Item]
) -> Response:
    """The answer to a JSON body's items."""
    # Looked up after the body has come: an update may have replaced it meanwhile.
    model, accept = inference.models.get(name), request.accept
    if parsed.stream and parsed.ours:
        info = model.variants[0].group.info
        parsed.stream = bool(info.get("streams")) and sum(item.count for item in items) == 1
    if parsed.stream or accept == "text/event-stream":
        return await _streamed(inference, request, model, parsed, items)
    if not items:
        return await _answer(request, parsed, [], accept)
    # NumPy's format is one array of all outputs, so such a request is not cut in parts.
    if accept == "application/x-npy" and len(items) > 1:
        most = inference.limits.batch or DEFAULT_BATCH
        raise HTTPError(406, f"more than {most} outputs do not come as one array")
    results = await inference.infer(request, model, items)
    if results[0].body:
        return Response(results[0].body, content_type=results[0].content_type.encode())
    outputs = [output for result in results for output in result.outputs]
    return await _answer(request, parsed, outputs, accept)


async def _streamed(
    inference: Inference, request: Request, model: ServedModel, parsed: Parsed, items: list[Item]
) -> Response:
    """One input's answer in pieces: server-sent events where the caller accepts them, else a
    line of JSON each."""
    info = model.variants[0].group.info
    if not info.get("streams"):
        raise HTTPError(
            400 if parsed.stream else 406,
            "the model does not stream",
            hint="Leave stream out, or give the handler a function stream(model, input, params)",
        )
    count = sum(item.count for item in items)
    if count != 1:
        raise HTTPError(400, f"a stream answers one input, not {count}")
    (item,) = items
    item.stream = True
    if info.get("raw"):
        item.kind, item.accept = "raw", "application/json"
        form = streams.plain(item.content_type)
        return await streams.respond(inference, request, model, item, form)
    form = streams.EVENTS if request.accept == "text/event-stream" else streams.LINES
    return await streams.respond(inference, request, model, item, form)


async def _answer(request: Request, parsed: Parsed, outputs: list[bytes], accept: str) -> Response:
    if accept == "text/csv":
        size = sum(map(len, outputs))
        return Response(await request.apart(size, to_csv, outputs), content_type=b"text/csv")
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


def _named(rest: str) -> Methods | None:
    """The routes below /v1/models/: NAME, NAME:predict."""
    name, colon, verb = rest.partition(":")
    if "/" in name or not name:
        return None
    if not colon:
        return {"GET": ("v1_model", lambda told, request: openai.model(told, request, name))}
    if verb == "predict":
        return {"POST": ("v1_predict", lambda told, request: v1_predict(told, request, name))}
    return None


def add(table: Table, env: Mapping[str, str]) -> None:
    """Puts these routes into the table. ``env``: where Vertex AI says its own route."""
    for path, name, route in (
        ("/predict", "predict", predict),
        ("/batch_predict", "batch_predict", batch_predict),
        ("/invocations", "invocations", invocations),
        ("/score", "score", invocations),
    ):
        table.add("POST", path, name, route)
    if env.get("AIP_PREDICT_ROUTE"):
        table.add("POST", env["AIP_PREDICT_ROUTE"], "vertex_predict", vertex_predict)
    table.below("/v1/models/", _named)
