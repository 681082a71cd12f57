"""Embeddings on this machine: the engine's, with what the profile says of it."""

from __future__ import annotations

from cloudai._core.profiles.config import Profile
from cloudai.engine.embeddings import EmbeddingModels
from cloudai.engine.reranking import RerankModels
from cloudai.protocols import Call
from cloudai.providers.local.models import held
from cloudai.types import RerankReply, RerankRequest


class LocalEmbeddings(EmbeddingModels):
    """Embeddings, as ``cloudai.protocols.Embeddings``; ``cloudai.engine.embeddings`` tells how.

    Parameters
    ----------
    profile: its keys ``device``, ``home`` and ``embedding_model`` are read.
    """

    def __init__(self, profile: Profile) -> None:
        super().__init__(
            home=profile.home,
            default=str(profile.get("embedding_model", "")),
            device=profile.get("device"),
            held=profile.shared(held),
        )
        self._rerank = RerankModels(
            home=profile.home, device=profile.get("device"), held=profile.shared(held)
        )

    def rerank(self, request: RerankRequest, call: Call) -> RerankReply:
        """See ``cloudai.engine.reranking``."""
        return self._rerank.rerank(request, call)
