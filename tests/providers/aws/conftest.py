"""The emulated account, empty for each test; nothing is run but what a test scripts."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from cloudai import Client
from cloudai.testing.emulators.aws import BUCKET, ROLE, AwsEmulator, ScriptedExecutor

_MADE: list[AwsEmulator] = []


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Generator[AwsEmulator]:
    """One server a process, as moto keeps one account."""
    if not _MADE:
        _MADE.append(AwsEmulator())
    emulator = _MADE[0].start(ScriptedExecutor())
    emulator.faults.clear()
    for name, value in emulator.env.items():
        if name != "AWS_ENDPOINT_URL":
            monkeypatch.setenv(name, value)
    yield emulator
    emulator.faults.clear()


@pytest.fixture
def keys(aws: AwsEmulator) -> dict[str, Any]:
    """The keys of a client at the emulator."""
    return {
        "provider": "aws",
        "region": aws.region,
        "endpoint_url": aws.url,
        "role": ROLE,
        "bucket": BUCKET,
    }


@pytest.fixture
def client(keys: dict[str, Any]) -> Generator[Client]:
    made = Client(**keys)
    yield made
    made.close()


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A script's folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text("print('trained')\n")
    (folder / "requirements.txt").write_text("six\n")
    return str(folder)
