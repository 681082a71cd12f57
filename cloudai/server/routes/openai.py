"""OpenAI's routes: the models, embeddings and chat, for models that can."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from cloudai.server import streams
from cloudai.server.http.messages import HTTPError, Request, Response
from cloudai.server.inference import Inference
from cloudai.server.models import ServedModel
from cloudai.server.routes.codecs import Parsed, check_depth, decode, items_of
from cloudai.server.routing import Table
from cloudai.server.workers.wire import BASE64, Item


class EmbeddingsRequest(msgspec.Struct):
    """The fields of OpenAI's CreateEmbeddingRequest that mean something here."""

    input: str | list[str]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class ChatHead(msgspec.Struct):
    """What the front reads of a chat request; the worker reads the rest."""

    model: str
    messages: list[msgspec.Raw]
    stream: bool | None = None


_embeddings = msgspec.json.Decoder(EmbeddingsRequest)
_chat = msgspec.json.Decoder(ChatHead)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _about(inference: Inference, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(inference.started), "owned_by": "cloudai"}


async def models(inference: Inference, request: Request) -> Response:
    """OpenAI's list and KServe's, in one object."""
    names = list(inference.models.served)
    return Response(
        msgspec.json.encode(
            {"object": "list", "data": [_about(inference, name) for name in names], "models": names}
        )
    )


async def model(inference: Inference, request: Request, name: str) -> Response:
    """OpenAI's model and KServe's v1 readiness, in one object."""
    found = inference.models.get(name)
    return Response(
        msgspec.json.encode({**_about(inference, name), "name": name, "ready": found.ready}),
        200 if found.ready else 503,
    )


async def embeddings(inference: Inference, request: Request) -> Response:
    """OpenAI's embeddings, as lists of numbers or as base64 of little-endian float32."""
    return await _embeddings_answer(inference, request, await _body(inference, request))


async def _embeddings_answer(inference: Inference, request: Request, body: bytes) -> Response:
    limits = inference.limits
    asked: EmbeddingsRequest = decode(_embeddings, body)
    model = _with_predictor(inference, asked.model, "embeddings")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not texts:
        raise HTTPError(400, "input is empty")
    if len(texts) > limits.items:
        raise HTTPError(400, f"{len(texts)} texts are more than {limits.items}")
    params = b"{}"
    if asked.dimensions is not None:
        params = msgspec.json.encode({"dimensions": asked.dimensions})
    parsed = Parsed([msgspec.json.encode(text) for text in texts], params)
    accept = BASE64 if asked.encoding_format == "base64" else ""
    results = await inference.infer(request, model, items_of(parsed, accept, limits))
    tokens = sum(result.tokens for result in results)
    outputs = [output for result in results for output in result.outputs]
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, output)
        for index, output in enumerate(outputs)
    )
    return Response(
        b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
        % (data, msgspec.json.encode(asked.model), tokens, tokens)
    )


async def chat(inference: Inference, request: Request) -> Response:
    """OpenAI's chat completions, whole or as server-sent events."""
    body = await _body(inference, request)
    asked: ChatHead = decode(_chat, body)
    return await _chat_answer(inference, request, asked, body)


async def _chat_answer(
    inference: Inference, request: Request, asked: ChatHead, body: bytes
) -> Response:
    if not asked.messages:
        raise HTTPError(400, "messages is empty")
    model = _with_predictor(inference, asked.model, "chat")
    if not asked.stream:
        (result,) = await inference.infer(request, model, [Item("chat", body)])
        return Response(result.body)
    return await streams.respond(
        inference, request, model, Item("chat", body, stream=True), streams.CHAT
    )


async def invoked(inference: Inference, request: Request, predictor: str) -> Response | None:
    """The answer where the body of /invocations is OpenAI's: a chat's for chat models, as
    SageMaker's own containers for language models take it, an embeddings' for theirs; None for
    any other body. ``model`` may be left out."""
    body = await _body(inference, request)
    if body.lstrip()[:1] != b"{":
        return None
    found: dict[str, msgspec.Raw] = decode(_object, body)
    if ("messages" if predictor == "chat" else "input") not in found:
        return None
    if "model" not in found:
        found["model"] = msgspec.Raw(msgspec.json.encode(inference.models.get(None).name))
        body = msgspec.json.encode(found)
    if predictor == "chat":
        return await _chat_answer(inference, request, decode(_chat, body), body)
    return await _embeddings_answer(inference, request, body)


async def _body(inference: Inference, request: Request) -> bytes:
    if request.content_type != "application/json":
        raise HTTPError(415, f"the content type {request.content_type!r} is not JSON")
    body = await request.body()
    check_depth(body, inference.limits.depth)
    return body


def _with_predictor(inference: Inference, name: str, predictor: str) -> ServedModel:
    model = inference.models.get(name)
    found = model.variants[0].group.info.get("predictor")
    if found != predictor:
        raise HTTPError(400, f"the model {name!r} is served for {found}, not for {predictor}")
    return model


def add(table: Table) -> None:
    """Puts these routes into the table."""
    table.add("GET", "/v1/models", "models", models)
    table.add("POST", "/v1/embeddings", "embeddings", embeddings)
    table.add("POST", "/v1/chat/completions", "chat", chat)
