"""What a batch can be run through on the client's side: chat, embeddings, an endpoint. Made of
an adapter of any provider, for ``runner.run_batch``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgspec

from cloudai._core.batches.chunk import Transform
from cloudai._core.calls.texts import Texts
from cloudai.errors import CloudAIError, HandlerError, InvalidRequest
from cloudai.formats.openai.messages import message
from cloudai.protocols import Call, Embeddings
from cloudai.types import (
    JSON,
    BatchTransform,
    ChatReply,
    ChatRequest,
    EmbeddingRequest,
    Message,
    Prediction,
    PredictRequest,
)
from cloudai.types._base import invalid, met, shorten, unknown
from cloudai.types.chat import check_tool_choice

CHAT_PARAMS: Final = ChatRequest.__struct_fields__[2:]
EMBEDDING_PARAMS: Final = EmbeddingRequest.__struct_fields__[2:]
"""All but the model, and the messages or the texts, which are the lines'."""


class Predicts(Protocol):
    """The part of ``cloudai.protocols.Endpoints`` that a batch needs."""

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction: ...


def chat_request(model: str, params: dict[str, JSON]) -> ChatRequest:
    """The request that each line fills in. Raises InvalidRequest for a parameter that is not
    one of chat's, or of another type, and for a tool that there is not."""
    made = _request(ChatRequest, {"model": model, "messages": []}, params, CHAT_PARAMS)
    native = bool(made.native)
    check_tool_choice(made.tool_choice, made.tools, native=native, field="params.tool_choice")
    return made


def embedding_request(model: str, params: dict[str, JSON]) -> EmbeddingRequest:
    """The request that the lines fill in. Raises InvalidRequest as ``chat_request`` does."""
    return _request(EmbeddingRequest, {"model": model, "texts": []}, params, EMBEDDING_PARAMS)


def _request(
    kind: Any, fixed: dict[str, Any], params: dict[str, JSON], allowed: tuple[str, ...]
) -> Any:
    for name, value in params.items():
        if name not in allowed:
            known = unknown("parameter", name, allowed)
            raise invalid(f"params.{name}", value, "is not known here", known.hint)
    try:
        return msgspec.convert({**fixed, **params}, met(kind))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"params: {error}", field="params", value=params) from None


def of(spec: BatchTransform, adapter: Callable[[str], Any]) -> tuple[Transform, list[str]]:
    """What a batch of chat, of embeddings or of an endpoint is run through, and what identifies
    it. ``adapter``: gives the one of a capability."""
    if spec.chat is not None:
        return chat(adapter("chat").create, spec.chat, spec.params), ["chat", spec.chat]
    if spec.embeddings is not None:
        made = embeddings(adapter("embeddings"), spec.embeddings, spec.params)
        return made, ["embeddings", spec.embeddings]
    asked = str(spec.endpoint)
    return endpoint(adapter("endpoints"), asked, spec.params), ["endpoint", asked]


def chat(
    create: Callable[[ChatRequest, Call], ChatReply], model: str, params: dict[str, JSON]
) -> Transform:
    """Each line, text or an object with ``prompt`` or ``messages``, becomes
    ``{"text", "finish_reason", "usage"}``, and ``tool_calls`` where the model made any.

    Use it with ``batch_size=1``: a chunk is repeated as a whole when one of its lines fails.

    Parameters
    ----------
    create: an adapter's ``create``, or that with retries around it.
    """
    request = chat_request(model, params)

    def answer(record: Any) -> dict[str, Any]:
        reply = create(msgspec.structs.replace(request, messages=messages(record)), Call())
        return said(reply)

    return lambda records: [answer(record) for record in records]


def said(reply: ChatReply) -> dict[str, Any]:
    """A line's output."""
    made: dict[str, Any] = {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "usage": {
            "input_tokens": reply.usage.input_tokens,
            "output_tokens": reply.usage.output_tokens,
        },
    }
    if reply.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in reply.tool_calls
        ]
    return made


def messages(record: Any) -> tuple[Message, ...]:
    """The conversation that a line holds, in the dicts that ``client.chat`` takes. Raises
    InvalidRequest for one that holds none."""
    given: Any = record
    if isinstance(record, dict):
        if ("prompt" in record) == ("messages" in record):
            raise invalid("line", record, 'needs exactly one of "prompt" and "messages"')
        given = record["messages"] if "messages" in record else record["prompt"]
    if isinstance(given, str):
        if not given.strip():
            raise invalid("line", given, "is empty", "Write a prompt.")
        return (Message("user", given),)
    if not isinstance(given, list) or not given:
        raise invalid("line", record, "is no conversation", 'Such as {"prompt": "Why?"}.')
    return tuple([message(one, f"line.messages[{at}]") for at, one in enumerate(given)])


def embeddings(adapter: Embeddings, model: str, params: dict[str, JSON]) -> Transform:
    """Each line, text or an object with ``text``, becomes ``{"embedding": [...]}``."""
    request = embedding_request(model, params)

    # A chunk with a text that is refused comes again in halves, in the same thread: what was
    # answered is kept for them.
    kept = threading.local()

    def embed(records: list[Any]) -> list[Any]:
        texts = tuple(_text(record) for record in records)
        known: dict[str, list[float]] = kept.__dict__
        left = tuple(text for text in texts if text not in known)
        fresh: Iterator[list[float]] = iter(())
        if left:
            given = Texts(msgspec.structs.replace(request, texts=left))
            try:
                reply = given.run(adapter, lambda part: adapter.embed(part, Call()))
            except CloudAIError:
                known.update(given.answered())
                raise
            if len(reply) != len(left):
                raise HandlerError(
                    f"the model gave {len(reply)} vectors for {len(left)} texts", code="WrongLength"
                )
            fresh = iter(reply.vectors)
        made = [known[text] if text in known else next(fresh) for text in texts]
        for text in texts:
            known.pop(text, None)
        return [{"embedding": vector} for vector in made]

    return embed


def _text(record: Any) -> str:
    text = record.get("text") if isinstance(record, dict) else record
    if not isinstance(text, str):
        raise InvalidRequest(
            f'{shorten(record)} is neither text nor an object with a text in "text"',
            field="line",
            value=record,
        )
    if not text.strip():
        raise invalid("line", text, "is empty", "Leave the line out, or write a text.")
    return text


def endpoint(adapter: Predicts, id: str, params: dict[str, JSON]) -> Transform:
    """Each line becomes the endpoint's output for it."""

    def predict(records: list[Any]) -> list[Any]:
        request = PredictRequest(inputs=tuple(records), params=params)
        return adapter.predict(id, request, Call()).outputs

    return predict
