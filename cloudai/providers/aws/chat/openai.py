"""The OpenAI format, as containers on SageMaker endpoints speak it (vLLM, LMI, TGI, cloudai)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from cloudai.formats import eventstream, openai
from cloudai.providers.aws.chat.converse_reply import problem
from cloudai.types import ChatChunk, ChatReply, ChatRequest

PROVIDER: Final = "aws"
DIALECT: Final = openai.Dialect(provider=PROVIDER)


def chat_body(request: ChatRequest, model: str, *, stream: bool) -> dict[str, Any]:
    """The body of a chat request."""
    return openai.body(request, model, DIALECT, stream=stream)


def chat_reply(body: bytes, model: str, request_id: str | None) -> ChatReply:
    """The answer to a chat request."""
    return openai.reply(body, _service(model, request_id))


def payload(source: Iterable[bytes], request_id: str | None) -> Iterator[bytes]:
    """What the container wrote, out of InvokeEndpointWithResponseStream's messages."""
    for headers, data in eventstream.messages(source, whole=True):
        if headers.get(b":event-type") == b"PayloadPart":
            yield data
        elif headers.get(b":message-type") == b"exception":
            raise problem(headers, data, request_id)


def chat_chunks(source: Iterable[bytes], model: str, request_id: str | None) -> Iterator[ChatChunk]:
    """The pieces of a streamed answer: server-sent events inside the event stream."""
    chunks = openai.Chunks(_service(model, request_id))
    for data in _events(payload(source, request_id)):
        chunk = chunks.read(data)
        if chunk is not None:
            yield chunk
    last = chunks.end()  # some servers write no [DONE]
    if last is not None:
        yield last


def _service(model: str, request_id: str | None) -> openai.Service:
    return openai.Service(provider=PROVIDER, model=model, request_id=request_id)


def _events(source: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events; parts end wherever the network had them end."""
    rest = b""
    for part in source:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = -1


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: openai.TokenUsage | None = None


_embeddings: Final = msgspec.json.Decoder(_Embeddings | list[list[float]]).decode


def embed_body(texts: tuple[str, ...], model: str, dimensions: int | None) -> dict[str, Any]:
    """The body of an embedding request."""
    made: dict[str, Any] = {"model": model, "input": list(texts)}
    if dimensions is not None:
        made["dimensions"] = dimensions
    return made


def plain_embed_body(texts: tuple[str, ...], model: str, dimensions: int | None) -> dict[str, Any]:
    """The body of an embedding request in TEI's own format."""
    made: dict[str, Any] = {"inputs": list(texts)}
    if dimensions is not None:
        made["dimensions"] = dimensions
    return made


def embed_reply(body: bytes, request_id: str | None) -> tuple[list[list[float]], int]:
    """The vectors in the texts' order, and the tokens; TEI's bare lists too."""
    try:
        found = _embeddings(body)
    except msgspec.DecodeError as error:
        raise _service("", request_id).unreadable(error) from None
    if isinstance(found, list):
        return found, 0
    rows = found.data
    if all(row.index >= 0 for row in rows):
        rows = sorted(rows, key=lambda row: row.index)
    return [row.embedding for row in rows], found.usage.prompt_tokens if found.usage else 0
