"""OpenAI's routes: the models, embeddings and chat, for models that can."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from cloudai.server import streams
from cloudai.server.config import Limits
from cloudai.server.http.errors import HTTPError
from cloudai.server.http.messages import Request, Response
from cloudai.server.inference import Inference
from cloudai.server.models import ServedModel
from cloudai.server.routes.codecs import Parsed, check_depth, decode, elements, items_of
from cloudai.server.routing import Table
from cloudai.server.workers.wire import BASE64, Item


class EmbeddingsHead(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's CreateEmbeddingRequest (its description of 2026-11). No vector depends on
    ``user``."""

    input: msgspec.Raw
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: msgspec.Raw | None = None


class ChatHead(msgspec.Struct):
    """What the front reads of a chat request; the worker reads the rest."""

    model: str
    messages: msgspec.Raw
    stream: bool | None = None


class Embeddings(msgspec.Struct):
    """A request for embeddings, read."""

    model: str
    items: list[Item]


class Chat(msgspec.Struct):
    """A request for a chat's answer, read as far as the front does."""

    model: str
    body: bytes
    stream: bool


class Known(msgspec.Struct):
    """What tells OpenAI's bodies from others."""

    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_embeddings = msgspec.json.Decoder(EmbeddingsHead)
_chat = msgspec.json.Decoder(ChatHead)
_known = msgspec.json.Decoder(Known)

BODIES: Final = {"chat": "messages", "embeddings": "input"}
"""By predictor, the field that makes a body OpenAI's."""


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
    _check_type(request)
    return await answered(
        inference, request, await request.read(_read_embeddings, inference.limits)
    )


async def chat(inference: Inference, request: Request) -> Response:
    """OpenAI's chat completions, whole or as server-sent events."""
    _check_type(request)
    return await answered(inference, request, await request.read(_read_chat, inference.limits))


def _read_embeddings(body: bytes, limits: Limits) -> Embeddings:
    check_depth(body, limits.depth)
    asked: EmbeddingsHead = decode(_embeddings, body)
    one = bytes(asked.input)[:1] == b'"'
    texts = [asked.input] if one else elements(asked.input, limits.items, "texts")
    if not texts:
        raise HTTPError(400, "input is empty", field="input")
    for at, text in enumerate(texts):
        if bytes(text)[:1] != b'"':
            raise HTTPError(400, f"input[{at}] is not a text", field="input")
    params = b"{}"
    if asked.dimensions is not None:
        params = msgspec.json.encode({"dimensions": asked.dimensions})
    accept = BASE64 if asked.encoding_format == "base64" else ""
    return Embeddings(asked.model, items_of(Parsed(texts, params), accept, limits))


def _read_chat(body: bytes, limits: Limits) -> Chat:
    check_depth(body, limits.depth)
    asked: ChatHead = decode(_chat, body)
    if bytes(asked.messages)[:1] != b"[" or bytes(asked.messages)[1:].strip() == b"]":
        raise HTTPError(400, "messages is empty", field="messages")
    return Chat(asked.model, body, bool(asked.stream))


async def answered(inference: Inference, request: Request, asked: Embeddings | Chat) -> Response:
    """The answer in OpenAI's form."""
    if isinstance(asked, Embeddings):
        return await _embedded(inference, request, asked)
    model = _with_predictor(inference, asked.model, "chat")
    if not asked.stream:
        (result,) = await inference.infer(request, model, [Item("chat", asked.body)])
        return Response(result.body)
    item = Item("chat", asked.body, stream=True)
    return await streams.respond(inference, request, model, item, streams.CHAT)


async def _embedded(inference: Inference, request: Request, asked: Embeddings) -> Response:
    model = _with_predictor(inference, asked.model, "embeddings")
    results = await inference.infer(request, model, asked.items)
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


def named(body: bytes, predictor: str, model: str, limits: Limits) -> Embeddings | Chat | None:
    """The body of /invocations where it is OpenAI's: a chat's for chat models, as SageMaker's own
    containers for language models take it, an embeddings' for theirs; None for any other body.
    ``model`` may be left out of it."""
    own = body.lstrip()
    if own[:1] != b"{":
        return None
    check_depth(body, limits.depth)
    found: Known = decode(_known, body)
    if getattr(found, BODIES[predictor]) is msgspec.UNSET:
        return None
    if found.model is msgspec.UNSET:
        body = b'{"model":%b,%b' % (msgspec.json.encode(model), own[1:])
    return _read_chat(body, limits) if predictor == "chat" else _read_embeddings(body, limits)


def _check_type(request: Request) -> None:
    if request.content_type != "application/json":
        raise HTTPError(415, f"the content type {request.content_type!r} is not JSON")


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
