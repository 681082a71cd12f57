"""Clients of places that run what they are given."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from cloudai import Client
from cloudai.testing.clouds import emulated


@contextlib.contextmanager
def client_of(place: str, folder: Path) -> Generator[Client]:
    with contextlib.ExitStack() as stack:
        if place == "local":
            yield stack.enter_context(Client(provider="local", home=folder / "home"))
            return
        cloud = stack.enter_context(emulated(place, execute=True, speed=50.0))
        stack.enter_context(cloud.applied())
        yield stack.enter_context(cloud.client())
