"""Servers as real processes over loopback."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from running_server import ECHO, Running, Start, launch, model


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Starts a server: ``start(*arguments, source=..., env=..., ready=True)``."""
    started: list[Running] = []

    def begin(
        *arguments: str,
        source: str = ECHO,
        env: dict[str, str] | None = None,
        ready: bool = True,
    ) -> Running:
        where = tmp_path / f"server{len(started)}"
        given = list(arguments)
        if "--model" not in given and "--config" not in given and source:
            given += ["--model", str(model(where, source))]
        if "--workers" not in given:
            given += ["--workers", "1"]
        running = launch(tmp_path / f"log{len(started)}", *given, env=env)
        started.append(running)
        if ready:
            running.wait()
        return running

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(10)
        running.http.close()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    """One server for all tests of a module that leave it as it was."""
    folder = tmp_path_factory.mktemp("echo")
    limits = {"body": 100_000, "items": 1000, "body_timeout": 1.0, "batch": 64}
    config = {
        "models": [{"name": "m", "variants": [{"path": str(model(folder / "m"))}]}],
        "workers": 1,
        "limits": limits,
    }
    (folder / "server.json").write_text(json.dumps(config))
    running = launch(folder / "log", "--config", str(folder / "server.json"))
    running.wait()
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait(10)
    running.http.close()
