"""What holds in every test: no network but loopback, and a home of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support import answers

from cloudai.testing import block_network

# Several tests run at a time, and torch's threads of one spin on the cores that the others need.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests start some thousand processes, which would compile cloudai's source each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


_ATTACK = re.compile(r"_k\d+(_|\Z)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Attacks are known by the row in their name. The long tests begin first, so that at the end
    no worker is left alone with one."""
    for item in items:
        if _ATTACK.search(item.name.partition("[")[0]) or "attack" in item.path.parts:
            item.add_marker(pytest.mark.attack)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Nothing here reaches another machine. So no authority but the emulators' own has to be
    trusted: one stands for the usual 140, which requests reads anew, for 30 ms, with each
    connection."""
    end = "-----END CERTIFICATE-----\n"
    with block_network(), pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("certifi"):
            import certifi

            bundle = tmp_path_factory.mktemp("authorities") / "bundle.pem"
            bundle.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
            for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
                patch.setenv(name, str(bundle))
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ledger, jobs and models of a test lie in a folder of its own, and no cloudai setting of
    whoever runs the tests counts."""
    for name in [name for name in os.environ if name.startswith("CLOUDAI_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("CLOUDAI_HOME", str(home))
    # A cloudai.toml in the user's own config folder is none of a test's business.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    return home


@pytest.fixture(autouse=True, scope="session")
def _judged_answers() -> Generator[None]:
    """What the emulators answer in any test fits what the vendors publish of their answers."""
    from cloudai.testing.emulators.common import server

    before = server.EmulatorServer.__init__

    def made(self: Any, app: Any, *args: Any, **about: Any) -> None:
        before(self, answers.judged(app), *args, **about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.EmulatorServer, "__init__", made)
        yield
    assert not answers.FAULTS, "\n".join(
        f"{operation}: {fault}"
        for operation, faults in sorted(answers.FAULTS.items())
        for fault in sorted(faults)
    )
