"""Chat on this machine: the engine's, with what the profile says of it."""

from __future__ import annotations

from cloudai._core.profiles.config import Profile
from cloudai.engine.chat import ChatModels
from cloudai.providers.local.models import held


class LocalChat(ChatModels):
    """Chat, as ``cloudai.protocols.Chat``; ``cloudai.engine.chat`` tells what a request becomes.

    Parameters
    ----------
    profile: its keys ``device``, ``home`` and ``chat_model`` are read.
    """

    def __init__(self, profile: Profile) -> None:
        super().__init__(
            home=profile.home,
            default=str(profile.get("chat_model", "")),
            device=profile.get("device"),
            held=profile.shared(held),
        )
