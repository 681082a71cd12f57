"""cloudai: one interface to training jobs, endpoints, batch transform, chat and embeddings on
AWS, Azure, Vertex AI and this machine.

Every public name is here, and loads what it needs on first use: ``import cloudai`` itself
imports no SDK, no torch, no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloudai._version import __version__ as __version__

if TYPE_CHECKING:
    from cloudai._core.calls.telemetry import instrument as instrument
    from cloudai._core.profiles.config import Profile as Profile
    from cloudai._core.profiles.registry import CAPABILITIES as CAPABILITIES
    from cloudai._core.profiles.registry import Key as Key
    from cloudai._core.profiles.registry import ProviderSpec as ProviderSpec
    from cloudai._core.profiles.secrets import Secret as Secret
    from cloudai.client import AsyncClient as AsyncClient
    from cloudai.client import Client as Client
    from cloudai.client._tools import tool as tool
    from cloudai.client.compare import compare as compare
    from cloudai.errors import *  # noqa: F403
    from cloudai.types import *  # noqa: F403

_HOMES = {
    "Profile": "cloudai._core.profiles.config",
    "CAPABILITIES": "cloudai._core.profiles.registry",
    "Key": "cloudai._core.profiles.registry",
    "ProviderSpec": "cloudai._core.profiles.registry",
    "Secret": "cloudai._core.profiles.secrets",
    "instrument": "cloudai._core.calls.telemetry",
    "AsyncClient": "cloudai.client",
    "Client": "cloudai.client",
    "tool": "cloudai.client._tools",
    "compare": "cloudai.client.compare",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__all__":
        found = __dir__()
    elif name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'cloudai' has no attribute {name!r}")
    else:
        for home in ("cloudai.errors", "cloudai.types"):
            module = import_module(home)
            if name in module.__all__:
                found = getattr(module, name)
                break
        else:
            raise AttributeError(f"module 'cloudai' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    from cloudai import errors, types

    return sorted({*_HOMES, *errors.__all__, *types.__all__, "__version__"})
