"""Embeddings of Google's models."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cloudai._core.calls.texts import TooLarge
from cloudai._core.profiles.config import Profile
from cloudai.errors import ContextOverflow, InvalidRequest
from cloudai.protocols import Call
from cloudai.providers.vertex.chat import wire as chat_wire
from cloudai.providers.vertex.embeddings import wire
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.models import TABLE
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage


class VertexEmbeddings:
    """Embeddings on Vertex AI. What exceeds a request's limit is split; the order is kept."""

    def __init__(self, profile: Profile) -> None:
        self._session = profile.shared(VertexSession.of)

    def groups(self, request: EmbeddingRequest) -> Iterator[tuple[str, ...]]:
        """The texts in parts of one request each. Raises InvalidRequest for dimensions that the
        model does not have."""
        wire.check(request)
        return wire.groups(request)

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """One vector a text, of a request that is no larger than a group. Raises TooLarge for
        too many tokens at once, ContextOverflow for a text that is too long."""
        method, body = wire.encode(request)
        path = self._path(request.model, method)
        try:
            data, request_id = self._session.http.raw(
                "POST", self._session.url(), path, msgspec.json.encode(body), call
            )
        except ContextOverflow as error:
            raise _sized(error) from None
        return _reply(request, method, data, request_id)

    async def aembed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """The async twin of ``embed``."""
        method, body = wire.encode(request)
        path = self._path(request.model, method)
        try:
            data, request_id = await self._session.aio.raw(
                "POST", self._session.url(), path, msgspec.json.encode(body), call
            )
        except ContextOverflow as error:
            raise _sized(error) from None
        return _reply(request, method, data, request_id)

    def _path(self, model: str, method: str) -> str:
        return f"/{API}/{chat_wire.path(self._session.parent, model)}:{method}"


def _sized(error: ContextOverflow) -> InvalidRequest:
    """Whether all texts together were too many tokens, or one of them alone."""
    return TooLarge.of(error) if (error.limit or 0) >= wire.REQUEST_TOKENS else error


def _reply(
    request: EmbeddingRequest, method: str, data: bytes, request_id: str | None
) -> EmbeddingReply:
    found = wire.decode(method, data, len(request.texts))
    return EmbeddingReply(
        data=found.data,
        dim=found.dim,
        model=request.model,
        provider=PROVIDER,
        usage=Usage(input_tokens=found.tokens),
        cost=TABLE.tokens_cost(request.model, found.tokens),
        request_id=request_id,
    )
