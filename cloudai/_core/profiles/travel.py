"""A profile on its way to a worker process: as the client has it, whatever the worker's environment
and folder say."""

from __future__ import annotations

from typing import Any

import msgspec

from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Config, Profile
from cloudai._core.profiles.registry import NETWORK_KEYS
from cloudai._core.profiles.secrets import Secret
from cloudai.types import SecretRef
from cloudai.types._base import met


def pack(profile: Profile) -> dict[str, Any]:
    """JSON that ``unpack`` makes the profile of. It holds the secrets that have no reference: it
    goes over a pipe, and into no file."""
    plain: dict[str, Any] = {
        "home": str(profile.home),
        "retries": profile.retries,
        "timeout": profile.timeout,
    }
    references: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    for key in (*profile.spec.keys, *NETWORK_KEYS):
        value = profile.get(key.name)
        if isinstance(value, Secret):
            secrets[key.name] = str(value.reveal())
        elif isinstance(value, SecretRef):
            references[key.name] = msgspec.to_builtins(value)
        elif value is not None:
            plain[key.name] = str(value) if key.kind == "path" else value
    return {
        "name": profile.name,
        "provider": profile.provider,
        "plain": plain,
        "references": references,
        "secrets": secrets,
    }


def unpack(about: dict[str, Any]) -> Profile:
    """The profile. References are fetched when they are needed, as the client would."""
    references = {
        name: msgspec.convert(value, met(SecretRef)) for name, value in about["references"].items()
    }
    secrets = {name: Secret(value) for name, value in about["secrets"].items()}
    return Profile(
        about["name"],
        registry.spec(about["provider"]),
        {**about["plain"], **references, **secrets},
        fetch=lambda ref, asker: Config().fetch(ref, asker),
    )
