"""AWS's own inference toolkits in the place of SageMaker's containers: sagemaker-pytorch-inference
under TorchServe, sagemaker-huggingface-inference-toolkit under multi-model-server."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from environments import clean_env, python_of

from cloudai.testing.emulators.aws import AwsState, Fate, LocalExecutor, Served, _stores

# Their configuration goes into the container's folder instead of /etc.
_START: Final = {
    "pytorch": (
        "from sagemaker_pytorch_serving_container import serving, torchserve\n"
        "torchserve.TS_CONFIG_FILE = CONFIG\n"
        "serving.main()\n"
    ),
    "huggingface": (
        "from sagemaker_huggingface_inference_toolkit import mms_model_server, serving\n"
        "from sagemaker_inference import model_server\n"
        "model_server.MMS_CONFIG_FILE = mms_model_server.MMS_CONFIG_FILE = CONFIG\n"
        "serving.main()\n"
    ),
}
_COMING_UP: Final = 120.0
_ANSWERING: Final = 60.0
"""Seconds that SageMaker gives a real-time answer (developer guide, read 2026-11)."""


class Theirs:
    """A server that is not ours, in a process of its own.

    Parameters
    ----------
    program: what runs. place: its folder, where its log goes too. asked: the path of requests.
    answering: seconds that a caller waits for an answer.
    """

    health = "/ping"
    asked = "/invocations"

    def __init__(
        self, program: list[str], place: Path, port: int, env: dict[str, str], answering: float
    ) -> None:
        self.answering = answering
        self._port = port
        self._log = place / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                program, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._problem: str | None = None
        self._ready = False

    def problem(self) -> str | None:
        """Waits until it answers; why it does not."""
        end = time.monotonic() + _COMING_UP
        while not self._ready and self._problem is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._ready = self._send("GET", self.health, b"", {})[0] == 200
            if self._process.poll() is not None or time.monotonic() > end:
                self._problem = self.log()[-6000:]
            time.sleep(0.1)
        return self._problem

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text("utf-8", "replace")

    def post(
        self, route: str, body: bytes, headers: dict[str, str] | None = None
    ) -> tuple[int, str, bytes]:
        """The answer; ``route`` is what our own server would be asked, and is not looked at."""
        problem = self.problem()
        if problem is not None:
            return 500, "text/plain", problem.encode()
        try:
            status, kind, pieces = self._send("POST", self.asked, body, headers or {})
            return status, kind, b"".join(pieces)
        except (OSError, http.client.HTTPException) as error:
            return 500, "text/plain", f"no answer: {error}".encode()

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, str, bytes]:
        return self.post("", body, {"Content-Type": content_type, "Accept": accept})

    def stream(
        self, body: bytes, content_type: str, accept: str
    ) -> tuple[int, str, Iterator[bytes]]:
        self.problem()
        headers = {"Content-Type": content_type, "Accept": accept}
        return self._send("POST", self.asked, body, headers)

    def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str, Iterator[bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self.answering)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()

        def pieces() -> Iterator[bytes]:
            try:
                while piece := answer.read1(1 << 16):
                    yield piece
            finally:
                connection.close()

        return answer.status, answer.headers.get("Content-Type", ""), pieces()

    def close(self, *, gently: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class ToolkitServed(Theirs):
    """One container: the model's archive unpacked below a folder that stands for /opt/ml."""

    def __init__(self, environments: Path, container: dict[str, Any], place: Path) -> None:
        toolkit = "huggingface" if "huggingface" in container["Image"] else "pytorch"
        _stores.unpack(container["ModelDataUrl"], place / "model")
        python = python_of(environments, toolkit)
        port = free_port()
        env = clean_env(
            SAGEMAKER_BASE_DIR=str(place),
            SAGEMAKER_BIND_TO_PORT=str(port),
            TEMP=str(place),
            **container.get("Environment", {}),
        )
        env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
        program = f"CONFIG = {str(place / 'server.properties')!r}\n{_START[toolkit]}"
        super().__init__([str(python), "-c", program], place, port, env, _ANSWERING)


def free_port(first: int = 21_000) -> int:
    """A free one that multi-model-server takes: it refuses the higher ones."""
    for port in range(first, 32_000):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


class Toolkits(LocalExecutor):
    """Endpoints and transform jobs in AWS's toolkits; training as ever."""

    def __init__(self, folder: Path, environments: Path) -> None:
        super().__init__(folder)
        self.environments = environments
        self.last: ToolkitServed | None = None

    def serve(self, container: dict[str, Any], cloud_state: AwsState) -> Served:
        if self.last is not None:
            self.last.close()  # the toolkit takes one server a machine
        self.last = ToolkitServed(self.environments, container, self._place("model"))
        self._open.append(self.last)  # type: ignore[arg-type]
        return self.last

    def transform(self, job: dict[str, Any], cloud_state: AwsState) -> tuple[Fate, Served]:
        served = self.serve(job["Container"], cloud_state)
        asked = job.get("ModelClientConfig", {}).get("InvocationsTimeoutInSeconds", 600)
        self.last.answering = asked  # type: ignore[union-attr]
        return self._fate(), served


def java() -> str | None:
    """The Java that both servers run on; None where there is none."""
    return shutil.which("java")
