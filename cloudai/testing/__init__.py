"""For tests of programs that use cloudai, and of providers for it.

``FakeScript`` tells the fake provider what to answer; ``emulated`` starts an emulated cloud;
``cloudai.testing.conformance`` holds the
suite that every provider passes; ``cloudai.testing.plugin`` gives pytest its fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudai.testing.clouds import EmulatedCloud as EmulatedCloud
    from cloudai.testing.clouds import emulated as emulated
    from cloudai.testing.fake import FakeScript as FakeScript
    from cloudai.testing.network import NetworkBlocked as NetworkBlocked
    from cloudai.testing.network import block_network as block_network
    from cloudai.testing.record import Recorder as Recorder

_HOMES = {
    "EmulatedCloud": "cloudai.testing.clouds",
    "emulated": "cloudai.testing.clouds",
    "FakeScript": "cloudai.testing.fake",
    "NetworkBlocked": "cloudai.testing.network",
    "block_network": "cloudai.testing.network",
    "Recorder": "cloudai.testing.record",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: pytest imports this package at every start, whatever it tests.
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cloudai.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOMES)
