"""An emulated Azure for each test, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

import cloudai
from cloudai.testing.emulators.azure import AzureEmulator


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Generator[AzureEmulator]:
    """A running emulator, with a chat and an embedding deployment, in this process's
    environment."""
    with AzureEmulator(speed=20.0) as made:
        made.deploy("smart")
        made.deploy("embed", model="text-embedding-3-small")
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def client(azure: AzureEmulator) -> Generator[cloudai.Client]:
    """A client with the resource's key."""
    with cloudai.Client(provider="azure", api_key=azure.key) as made:
        yield made


@pytest.fixture
def connect(azure: AzureEmulator) -> Generator[Callable[..., cloudai.Client]]:
    """Makes clients with other keys; closes them."""
    made: list[cloudai.Client] = []

    def make(**keys: Any) -> cloudai.Client:
        made.append(cloudai.Client(provider="azure", **keys))
        return made[-1]

    yield make
    for one in made:
        one.close()
