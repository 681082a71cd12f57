"""What holds in every test: no network but loopback, and a home of its own."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from cloudai.testing import block_network


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Generator[None]:
    """Nothing here reaches another machine."""
    with block_network():
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ledger, jobs and models of a test lie in a folder of its own, and no cloudai setting of
    whoever runs the tests counts."""
    import os

    for name in [name for name in os.environ if name.startswith("CLOUDAI_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("CLOUDAI_HOME", str(home))
    # A cloudai.toml in the user's own config folder is none of a test's business.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    return home
