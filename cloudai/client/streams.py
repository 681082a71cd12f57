"""A chat answer as it comes: the pieces, and what they add up to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import msgspec

from cloudai._core.models import Price
from cloudai.client._runtime import CapabilityBinding
from cloudai.client._schema import parse
from cloudai.errors import CloudAIError, StreamTruncated, TransientError
from cloudai.types import (
    ChatChunk,
    ChatReply,
    FinishReason,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolCallDelta,
    Usage,
)

Chunks = TypeVar("Chunks")
Opened: TypeAlias = tuple[Chunks, ChatChunk | None, CapabilityBinding, Price | None]
"""A stream under way, its first piece, where it comes from, and the profile's own price."""


def parsed(kind: Any, reply: ChatReply) -> ChatReply:
    return msgspec.structs.replace(reply, parsed=parse(kind, reply))


class Gathered:
    """The pieces of a stream, put together."""

    def __init__(self) -> None:
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.cost: float | None = None
        self.price: Price | None = None
        self.model = ""
        self.id: str | None = None
        self.request_id: str | None = None
        self._chunks: list[ChatChunk] = []

    def add(self, chunk: ChatChunk) -> ChatChunk:
        """Takes the next piece; gives it with its cost by the profile's own price."""
        if chunk.usage is not None and self.price is not None:
            chunk = msgspec.structs.replace(chunk, cost=self.price.cost(chunk.usage))
        self._chunks.append(chunk)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.cost is not None:
            self.cost = chunk.cost
        if chunk.model:
            self.model = chunk.model
        self.id = chunk.id or self.id
        self.request_id = chunk.request_id or self.request_id
        return chunk

    @property
    def text(self) -> str:
        return "".join([chunk.text for chunk in self._chunks])

    def truncated(self, provider: str, cause: CloudAIError | None = None) -> StreamTruncated:
        """The error of a stream without its end; what broke it tells status and code."""
        return StreamTruncated(
            f"the stream ended without its end{f': {cause}' if cause else ''}",
            text=self.text,
            usage=self.usage,
            provider=provider,
            code=cause.code if cause else None,
            status=cause.status if cause else None,
            retry_after=cause.retry_after if cause else None,
            request_id=self.request_id or (cause.request_id if cause else None),
            hint="What had come is in .text, .usage and .reply",
            reply=self.partial(provider),
        )

    def partial(self, provider: str) -> ChatReply | None:
        """What has come so far, as an answer that ends with an error; None where nothing came."""
        return self._reply(provider, "error") if self._chunks else None

    def reply(self, provider: str, kind: Any) -> ChatReply:
        if self.finish_reason is None:
            raise self.truncated(provider)
        reply = self._reply(provider, self.finish_reason)
        return parsed(kind, reply) if kind is not None else reply

    def _reply(self, provider: str, reason: FinishReason) -> ChatReply:
        parts = _parts(self._chunks, provider)
        return ChatReply(
            text=self.text,
            finish_reason=reason,
            usage=self.usage or Usage(),
            model=self.model,
            provider=provider,
            tool_calls=tuple(part for part in parts if isinstance(part, ToolCall)),
            reasoning=tuple(part for part in parts if isinstance(part, Reasoning)),
            parts=() if all(isinstance(part, Text) for part in parts) else parts,
            cost=self.cost,
            id=self.id,
            request_id=self.request_id,
        )


def _parts(chunks: list[ChatChunk], provider: str) -> tuple[Part, ...]:
    """The answer's parts, in the order in which their first pieces came."""
    blocks: dict[tuple[str, int | None], list[Any]] = {}
    for at, chunk in enumerate(chunks):
        if chunk.reasoning or chunk.reasoning_signature:
            blocks.setdefault(("reasoning", chunk.block), []).append(chunk)
        if chunk.reasoning_redacted:
            blocks["redacted", at] = [chunk]
        if chunk.text:
            blocks.setdefault(("text", chunk.block), []).append(chunk.text)
        for delta in chunk.tool_calls:
            blocks.setdefault(("call", delta.index), []).append(delta)
        if chunk.parts:
            blocks["parts", at] = list(chunk.parts)
    parts: list[Part] = []
    for (kind, _), pieces in blocks.items():
        if kind == "text":
            parts.append(Text("".join(pieces)))
        elif kind == "call":
            parts.append(_call(pieces))
        elif kind == "parts":
            parts.extend(pieces)
        else:
            parts.append(
                Reasoning(
                    text="".join([piece.reasoning for piece in pieces]),
                    signature=_last([piece.reasoning_signature for piece in pieces]),
                    redacted=pieces[0].reasoning_redacted if kind == "redacted" else None,
                    provider=provider,
                    family=pieces[0].family,
                )
            )
    return tuple(parts)


def _call(pieces: list[ToolCallDelta]) -> ToolCall:
    return ToolCall(
        id=_last([piece.id for piece in pieces]) or "",
        name=_last([piece.name for piece in pieces]) or "",
        arguments="".join([piece.arguments for piece in pieces]),
        signature=_last([piece.signature for piece in pieces]),
    )


def _last(values: list[str | None]) -> str | None:
    return next((value for value in reversed(values) if value), None)


class _Stream:
    """What both streams know of what has come."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._gathered = Gathered()
        self._provider = ""
        self._ended = False

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return self._gathered.text

    @property
    def usage(self) -> Usage | None:
        """The usage, once it has come: with the last pieces."""
        return self._gathered.usage

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the model ended; None while it has not."""
        return self._gathered.finish_reason

    @property
    def reply(self) -> ChatReply:
        """All pieces as one answer; raises StreamTruncated before the end has come."""
        return self._gathered.reply(self._provider, self._kind)

    def _cut(self, error: TransientError) -> StreamTruncated:
        self._ended = True
        return self._gathered.truncated(self._provider, error)

    def _keep(self, error: CloudAIError) -> None:
        """What had come stays on the error that ends the stream."""
        self._ended = True
        error.reply = self._gathered.partial(self._provider)

    def _end(self) -> None:
        self._ended = True
        if self._gathered.finish_reason is None:
            raise self._gathered.truncated(self._provider)


class ChatStream(_Stream):
    """An answer as it comes: iterate over its pieces, then see ``reply``. Closing it early, or
    leaving its ``with`` block, stops the model."""

    def __init__(
        self,
        opened: Callable[[], Opened[Iterator[ChatChunk]]],
        kind: Any,
    ) -> None:
        super().__init__(kind)
        self._opened = opened
        self._chunks: Iterator[ChatChunk] | None = None

    def __iter__(self) -> Iterator[ChatChunk]:
        return self

    def __next__(self) -> ChatChunk:
        if self._ended:
            raise StopIteration
        if self._chunks is None:
            self._chunks, chunk, binding, self._gathered.price = self._opened()
            self._provider = binding.profile.provider
        else:
            try:
                chunk = next(self._chunks, None)
            except TransientError as error:
                raise self._cut(error) from error
            except CloudAIError as error:
                self._keep(error)
                raise
        if chunk is None:
            self._end()
            raise StopIteration
        return self._gathered.add(chunk)

    def close(self) -> None:
        """Stops the model and frees the connection; harmless after the end."""
        self._ended = True
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """The async twin of ``ChatStream``."""

    def __init__(
        self, opened: Callable[[], Awaitable[Opened[AsyncIterator[ChatChunk]]]], kind: Any
    ) -> None:
        super().__init__(kind)
        self._opened = opened
        self._chunks: AsyncIterator[ChatChunk] | None = None

    def __aiter__(self) -> AsyncIterator[ChatChunk]:
        return self

    async def __anext__(self) -> ChatChunk:
        if self._ended:
            raise StopAsyncIteration
        if self._chunks is None:
            chunks, chunk, binding, self._gathered.price = await self._opened()
            self._chunks = chunks
            self._provider = binding.profile.provider
        else:
            try:
                chunk = await anext(self._chunks, None)
            except TransientError as error:
                raise self._cut(error) from error
            except CloudAIError as error:
                self._keep(error)
                raise
        if chunk is None:
            self._end()
            raise StopAsyncIteration
        return self._gathered.add(chunk)

    async def close(self) -> None:
        """Stops the model and frees the connection; harmless after the end."""
        self._ended = True
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> AsyncChatStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
