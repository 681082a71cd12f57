"""A profile across processes: what a job records of it, and how its worker has it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cloudai._core.profiles.config import Config, Profile
from cloudai.providers.local.spec import SPEC


def describe(profile: Profile) -> dict[str, Any]:
    """What finds the profile again: JSON, without secrets."""
    keys = {key.name: profile.get(key.name) for key in SPEC.keys if key.kind != "secret"}
    return {
        "name": profile.name,
        "cwd": os.getcwd(),
        "keys": {name: str(value) for name, value in keys.items() if value is not None},
        "home": str(profile.home),
    }


def reopen(about: dict[str, Any]) -> Profile:
    """The profile that ``describe`` told of, read anew from the same cloudai.toml."""
    config = Config(start=Path(about["cwd"]))
    keys = {**about["keys"], "home": about["home"]}
    if about["name"] in config.profiles:
        return config.profile(about["name"], **keys)
    return config.profile(provider=SPEC.name, **keys)
