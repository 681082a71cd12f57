"""The texts of one embedding call, over as many requests as the service wants.

Each request is paced and tried again for itself: a refused one is asked for again, what was
answered is kept and never paid twice, neither at a retry nor at a fallback to another profile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from msgspec.structs import replace

from cloudai._core.calls import threads
from cloudai.errors import InvalidRequest, ProviderError
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage

AT_ONCE: Final = 16
"""Requests of one call that are under way at once."""


class TooLarge(InvalidRequest):
    """One request holds more texts than the service takes at once; each half may go."""

    @classmethod
    def of(cls, error: InvalidRequest) -> TooLarge:
        """What the service found too large, as the core knows it."""
        made = cls(error.message)
        made.__dict__.update(error.__dict__)
        return made


class Texts:
    """What is answered of a request, and what is still to be asked.

    Parameters
    ----------
    request: all texts. An adapter whose service has a limit of texts a request has
        ``groups(request)``, which gives them in parts that fit and raises InvalidRequest for
        what the model cannot do.
    """

    def __init__(self, request: EmbeddingRequest) -> None:
        self.model = request.model
        self._request = request
        self._left: list[tuple[int, tuple[str, ...]]] = [(0, request.texts)]
        self._done: list[tuple[int, EmbeddingReply]] = []
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def run(
        self, adapter: Any, ask: Callable[[EmbeddingRequest], EmbeddingReply]
    ) -> EmbeddingReply:
        """``ask`` for each part, some at once. Raises the first failure; what was answered by
        then is kept for another ``run``."""
        workers = self._begin(adapter)

        def work() -> None:
            while (part := self._next()) is not None:
                try:
                    self._answered(part, ask(self._of(part)))
                except BaseException as error:  # noqa: BLE001 - raised below
                    self._refused(part, error)

        threads.together(work, workers)
        return self._ended()

    async def arun(
        self, adapter: Any, ask: Callable[[EmbeddingRequest], Awaitable[EmbeddingReply]]
    ) -> EmbeddingReply:
        """The async twin of ``run``."""
        workers = self._begin(adapter)

        async def work() -> None:
            while (part := self._next()) is not None:
                try:
                    self._answered(part, await ask(self._of(part)))
                except Exception as error:  # noqa: BLE001 - raised below
                    self._refused(part, error)

        if workers == 1:
            await work()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        return self._ended()

    def answered(self) -> Iterator[tuple[str, list[float]]]:
        """The texts that have a vector by now, with it."""
        for at, reply in self._done:
            yield from zip(self._request.texts[at : at + len(reply)], reply.vectors, strict=True)

    def _begin(self, adapter: Any) -> int:
        self._failure = None
        groups: Callable[[EmbeddingRequest], Iterable[tuple[str, ...]]] | None
        groups = getattr(adapter, "groups", None)
        if groups is not None:
            made: list[tuple[int, tuple[str, ...]]] = []
            for at, texts in self._runs():
                for group in groups(self._of((at, texts))):
                    made.append((at, group))
                    at += len(group)
            self._left = made[::-1]  # taken from the end
        return min(AT_ONCE, len(self._left))

    def _runs(self) -> list[tuple[int, tuple[str, ...]]]:
        """What is left, neighbours joined: another service has another limit."""
        joined: list[tuple[int, list[str]]] = []
        for at, texts in sorted(self._left):
            if joined and joined[-1][0] + len(joined[-1][1]) == at:
                joined[-1][1].extend(texts)
            else:
                joined.append((at, list(texts)))
        return [(at, tuple(texts)) for at, texts in joined]

    def _of(self, part: tuple[int, tuple[str, ...]]) -> EmbeddingRequest:
        texts = part[1]
        whole = len(texts) == len(self._request.texts)
        return self._request if whole else replace(self._request, texts=texts)

    def _next(self) -> tuple[int, tuple[str, ...]] | None:
        with self._lock:
            return self._left.pop() if self._left and self._failure is None else None

    def _answered(self, part: tuple[int, tuple[str, ...]], reply: EmbeddingReply) -> None:
        if len(reply) != len(part[1]):
            raise ProviderError(
                f"{len(reply)} vectors came for {len(part[1])} texts",
                provider=reply.provider,
                request_id=reply.request_id,
            )
        with self._lock:
            self._done.append((part[0], reply))

    def _refused(self, part: tuple[int, tuple[str, ...]], error: BaseException) -> None:
        at, texts = part
        with self._lock:
            if isinstance(error, TooLarge) and len(texts) > 1:
                middle = len(texts) // 2
                self._left += [(at + middle, texts[middle:]), (at, texts[:middle])]
                return
            self._left.append(part)
            self._failure = self._failure or error

    def _ended(self) -> EmbeddingReply:
        if self._failure is not None:
            raise self._failure
        parts = [reply for _, reply in sorted(self._done, key=lambda one: one[0])]
        first = parts[0]
        if len(parts) == 1:
            return first
        if any(part.dim != first.dim for part in parts):
            raise ProviderError(
                f"the vectors are of several lengths: {sorted({part.dim for part in parts})}",
                provider=first.provider,
                request_id=first.request_id,
            )
        costs = [part.cost for part in parts if part.cost is not None]
        return replace(
            first,
            data=b"".join(part.data for part in parts),
            usage=Usage(input_tokens=sum(part.usage.input_tokens for part in parts)),
            cost=sum(costs) if len(costs) == len(parts) else None,
        )
