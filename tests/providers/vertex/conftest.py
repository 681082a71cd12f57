"""What the tests of the vertex provider share: the emulator, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("google.auth", reason="needs the extra vertex")
pytest.importorskip("google.cloud.aiplatform_v1", reason="needs the extra vertex")

from cloudai import AsyncClient, Client
from cloudai.testing.emulators.vertex import VertexEmulator

GOOGLE_VARIABLES = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "GCLOUD_PROJECT",
    "GOOGLE_CLOUD_LOCATION",
    "GOOGLE_CLOUD_REGION",
    "CLOUD_ML_REGION",
    "STORAGE_EMULATOR_HOST",
)


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No state and no credential of this machine."""
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "home"))
    for name in GOOGLE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cloud() -> Iterator[VertexEmulator]:
    with VertexEmulator() as emulator:
        yield emulator


@pytest.fixture
def client(cloud: VertexEmulator) -> Iterator[Client]:
    with Client(provider="vertex", **cloud.keys()) as made:
        yield made


@pytest.fixture
def aclient(cloud: VertexEmulator) -> AsyncClient:
    return AsyncClient(provider="vertex", **cloud.keys())
