"""A chat answer as it comes: the pieces, and what they add up to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import msgspec

from cloudai.client._runtime import CapabilityBinding
from cloudai.client._schema import parse
from cloudai.errors import StreamTruncated, TransientError
from cloudai.types import ChatChunk, ChatReply, FinishReason, Reasoning, ToolCall, Usage

Chunks = TypeVar("Chunks")
Opened: TypeAlias = tuple[Chunks, ChatChunk | None, CapabilityBinding]
"""A stream under way, its first piece, and where it comes from."""


def parsed(kind: Any, reply: ChatReply) -> ChatReply:
    return msgspec.structs.replace(reply, parsed=parse(kind, reply))


class Gathered:
    """The pieces of a stream, put together."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.cost: float | None = None
        self.model = ""
        self.id: str | None = None
        self.request_id: str | None = None
        self._calls: dict[int, dict[str, Any]] = {}
        self._reasoning: list[str] = []
        self._signature: str | None = None
        self._redacted: list[str] = []

    def add(self, chunk: ChatChunk) -> None:
        if chunk.text:
            self.texts.append(chunk.text)
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
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        if chunk.reasoning_signature:
            self._signature = chunk.reasoning_signature
        if chunk.reasoning_redacted:
            self._redacted.append(chunk.reasoning_redacted)
        for delta in chunk.tool_calls:
            call = self._calls.setdefault(
                delta.index, {"id": "", "name": "", "arguments": [], "signature": None}
            )
            call["id"] = delta.id or call["id"]
            call["name"] = delta.name or call["name"]
            call["signature"] = delta.signature or call["signature"]
            call["arguments"].append(delta.arguments)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def truncated(self, provider: str, cause: str = "") -> StreamTruncated:
        return StreamTruncated(
            f"the stream ended without its end{cause}",
            text=self.text,
            usage=self.usage,
            provider=provider,
            request_id=self.request_id,
            hint="What had come is in .text and .usage",
        )

    def reply(self, provider: str, kind: Any) -> ChatReply:
        if self.finish_reason is None:
            raise self.truncated(provider)
        reasoning: list[Reasoning] = []
        if self._reasoning or self._signature:
            reasoning.append(Reasoning("".join(self._reasoning), self._signature))
        reasoning.extend(Reasoning(redacted=text) for text in self._redacted)
        reply = ChatReply(
            text=self.text,
            finish_reason=self.finish_reason,
            usage=self.usage or Usage(),
            model=self.model,
            provider=provider,
            tool_calls=tuple(
                ToolCall(c["id"], c["name"], "".join(c["arguments"]), c["signature"])
                for _, c in sorted(self._calls.items())
            ),
            reasoning=tuple(reasoning),
            cost=self.cost,
            id=self.id,
            request_id=self.request_id,
        )
        return parsed(kind, reply) if kind is not None else reply


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
            self._chunks, chunk, binding = self._opened()
            self._provider = binding.profile.provider
        else:
            try:
                chunk = next(self._chunks, None)
            except TransientError as error:
                self._ended = True
                raise self._gathered.truncated(self._provider, f": {error}") from error
        if chunk is None:
            self._end()
            raise StopIteration
        self._gathered.add(chunk)
        return chunk

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
            chunks, chunk, binding = await self._opened()
            self._chunks = chunks
            self._provider = binding.profile.provider
        else:
            try:
                chunk = await anext(self._chunks, None)
            except TransientError as error:
                self._ended = True
                raise self._gathered.truncated(self._provider, f": {error}") from error
        if chunk is None:
            self._end()
            raise StopAsyncIteration
        self._gathered.add(chunk)
        return chunk

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
