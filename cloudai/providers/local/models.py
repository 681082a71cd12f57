"""The models that one profile has loaded."""

from __future__ import annotations

from cloudai._core.profiles.config import Profile
from cloudai.engine.pool import Held


def held(profile: Profile) -> Held:
    """Made with ``profile.shared(held)``: the models are given up when the profile is closed."""
    return Held()
