"""The OpenAI format, as containers on SageMaker endpoints speak it (vLLM, LMI, TGI, cloudai)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from cloudai.formats import eventstream, openai
from cloudai.formats.sse import Lines
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


class Payload:
    """What the container wrote, out of InvokeEndpointWithResponseStream's messages.

    Parameters
    ----------
    heard: called with each whole message.
    """

    def __init__(self, request_id: str | None, heard: Callable[[], None]) -> None:
        self._request_id = request_id
        self._heard = heard
        self._messages = eventstream.Messages()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The parts that ``piece`` completes."""
        for headers, data in self._messages.feed(piece):
            self._heard()
            if headers.get(b":event-type") == b"PayloadPart":
                yield data
            elif headers.get(b":message-type") == b"exception":
                raise problem(headers, data, self._request_id)

    def end(self) -> None:
        """Raises ConnectionFailed where the bytes have ended inside a message."""
        self._messages.end()


class Chunks:
    """The pieces of a streamed answer: server-sent events inside the event stream. Parts end
    wherever the network had them end."""

    def __init__(self, model: str, request_id: str | None, heard: Callable[[], None]) -> None:
        self._payload = Payload(request_id, heard)
        self._lines = Lines()
        self._chunks = openai.Chunks(_service(model, request_id))

    def feed(self, piece: bytes) -> Iterator[ChatChunk]:
        """The chunks that ``piece`` completes."""
        for part in self._payload.feed(piece):
            yield from self._read(self._lines.feed(part))

    def end(self) -> Iterator[ChatChunk]:
        """What is left at the end of the answer."""
        self._payload.end()
        yield from self._read(self._lines.end())
        last = self._chunks.end()  # some servers write no [DONE]
        if last is not None:
            yield last

    def _read(self, events: list[bytes]) -> Iterator[ChatChunk]:
        for data in events:
            chunk = self._chunks.read(data)
            if chunk is not None:
                yield chunk


def _service(model: str, request_id: str | None) -> openai.Service:
    return openai.Service(provider=PROVIDER, model=model, request_id=request_id)


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
