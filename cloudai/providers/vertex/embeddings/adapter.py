"""Embeddings of Google's models."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Final

import msgspec

from cloudai._core.calls import threads
from cloudai._core.profiles.config import Profile
from cloudai.errors import ProviderError
from cloudai.protocols import Call
from cloudai.providers.vertex import catalog
from cloudai.providers.vertex.chat import wire as chat_wire
from cloudai.providers.vertex.embeddings import wire
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage

PARALLEL: Final = 16
"""Requests of one call that are under way at once, for models that take one text in each."""


class VertexEmbeddings:
    """Embeddings on Vertex AI. What exceeds a request's limit is split; the order is kept."""

    def __init__(self, profile: Profile) -> None:
        self._session = profile.shared(VertexSession.of)

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """Raises InvalidRequest for dimensions that the model does not have."""
        wire.check(request)
        path = self._path(request.model)
        groups = list(wire.groups(request))
        if len(groups) == 1:
            return _reply(request, [self._one(request, path, groups[0], call)])
        found: list[wire.Vectors] = []
        waiting: deque[Future[wire.Vectors]] = deque()
        pool = threads.executor()
        try:
            for group in groups:
                if len(waiting) == PARALLEL:
                    found.append(waiting.popleft().result())
                waiting.append(pool.submit(self._one, request, path, group, call))
            while waiting:
                found.append(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
        return _reply(request, found)

    async def aembed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """The async twin of ``embed``."""
        wire.check(request)
        path = self._path(request.model)
        room = asyncio.Semaphore(PARALLEL)

        async def one(group: tuple[str, ...]) -> wire.Vectors:
            method, body = wire.encode(request, group)
            async with room:
                data, _ = await self._session.aio.raw(
                    "POST",
                    self._session.url(),
                    f"{path}:{method}",
                    msgspec.json.encode(body),
                    call,
                )
            return wire.decode(method, data, len(group))

        groups = list(wire.groups(request))
        if len(groups) == 1:
            return _reply(request, [await one(groups[0])])
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(one(group)) for group in groups]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return _reply(request, [task.result() for task in running])

    def _one(
        self, request: EmbeddingRequest, path: str, group: tuple[str, ...], call: Call
    ) -> wire.Vectors:
        method, body = wire.encode(request, group)
        data, _ = self._session.http.raw(
            "POST", self._session.url(), f"{path}:{method}", msgspec.json.encode(body), call
        )
        return wire.decode(method, data, len(group))

    def _path(self, model: str) -> str:
        return f"/{API}/{chat_wire.path(self._session.parent, model)}"


def _reply(request: EmbeddingRequest, found: list[wire.Vectors]) -> EmbeddingReply:
    dim = found[0].dim
    if any(part.dim != dim for part in found):
        raise ProviderError("the vectors are of several lengths", provider=PROVIDER)
    tokens = sum(part.tokens for part in found)
    return EmbeddingReply(
        data=b"".join(part.data for part in found),
        dim=dim,
        model=request.model,
        provider=PROVIDER,
        usage=Usage(input_tokens=tokens),
        cost=catalog.embedding_cost(request.model, tokens),
    )
