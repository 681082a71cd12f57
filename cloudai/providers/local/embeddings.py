"""Embeddings on this machine: the engine's, with what the profile says of it."""

from __future__ import annotations

from cloudai._core.profiles.config import Profile
from cloudai.engine.embeddings import EmbeddingModels
from cloudai.providers.local.models import held


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
