"""A server as a real process over loopback, and a client of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

ECHO = """
import os, time

INPUT_SCHEMA = {"type": "number"}
OUTPUT_SCHEMA = {"type": "number"}

def load(model_dir):
    return 2

def predict(model, inputs, params):
    if "gate" in params:  # it tells that it has begun, and waits until it is let go
        open(params["gate"] + ".begun", "w").close()
        while not os.path.exists(params["gate"]):
            time.sleep(0.005)
    if "sleep" in params:
        time.sleep(params["sleep"])
    if params.get("count"):
        return [len(inputs) for _ in inputs]
    if "die" in inputs:
        os.kill(os.getpid(), 9)
    if params.get("pid"):
        return [os.getpid() for _ in inputs]
    if params.get("echo"):
        return inputs
    if params.get("confidence"):
        return [{"label": "a", "confidence": x} for x in inputs]
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in inputs):
        raise ValueError("not a number")
    return [x * model for x in inputs]
"""


class Running:
    """A server process and a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.port = 0
        self.http = httpx.Client(timeout=30)

    def wait(self, path: str = "/ping", seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not self.port:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            for event in self.events("listening"):
                self.port = int(event["url"].rpartition(":")[2])
                scheme = event["url"].partition(":")[0]
                self.http.base_url = httpx.URL(f"{scheme}://127.0.0.1:{self.port}")
            time.sleep(0.02)
        while self.http.get(path).status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in told if event["event"] == name]

    def predict(self, *inputs: Any, headers: dict[str, str] | None = None, **params: Any) -> Any:
        body = {"inputs": inputs, "params": params}
        return self.http.post("/predict", json=body, headers=headers)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(30)
        self.http.close()
        return code

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = self.http.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


class Blocker:
    """A request that keeps a server's only worker busy until it is let go, so that what waits
    meanwhile is known, however fast the machine is."""

    def __init__(self, server: Running, folder: Path, *inputs: Any) -> None:
        self._server = server
        self._gate = folder / "gate"
        self._threads = ThreadPoolExecutor(1)
        self._asked = self._threads.submit(server.predict, *inputs, gate=str(self._gate))
        _until(self._gate.with_name("gate.begun").exists)

    def let(self, count: int) -> None:
        """Returns once so many inputs wait behind it."""
        _until(lambda: self._server.metric("cloudai_queue_depth") == count)

    def release(self) -> Any:
        """Lets it go; its answer."""
        self._gate.touch()
        with self._threads:
            return self._asked.result()


def _until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


Start = Callable[..., Running]


def model(folder: Path, source: str = ECHO) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handler.py").write_text(source)
    return folder


def launch(log: Path, *arguments: str, env: dict[str, str] | None = None) -> Running:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cloudai.server", "--port", "0", *arguments],
            stdout=file,
            stderr=file,
            env={**os.environ, **(env or {})},
        )
    return Running(process, log)
