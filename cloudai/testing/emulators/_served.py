"""The real endpoint server behind an emulated endpoint: ``python -m cloudai.server`` with one
model, in a process of its own, on loopback."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cloudai.testing.emulators import _keeper

_STARTING: Final = 120.0
"""Seconds that a model may take to load."""
_ANSWERING: Final = 60.0
"""Seconds that an answer may take; SageMaker's own limit of a model container (2026-11)."""
_ON_THE_WAY: Final = 1.0
"""Seconds in which a request that was meant for a server still reaches it."""


class ServedModel:
    """A model that is served.

    Parameters
    ----------
    model: its directory. place: a folder for the server's log, which is made.
    handler: a Python file with load and predict, or SageMaker's functions; None: the model's own.
    env: of the server, beside this process's; None there takes a variable away.
    """

    def __init__(
        self,
        model: Path,
        place: Path,
        *,
        handler: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._problem: str | None = None
        self._ready = False
        self._began = time.monotonic()
        place.mkdir(parents=True, exist_ok=True)
        self._log = place / "server.log"
        command = [sys.executable, "-P", "-m", "cloudai.server", "--model", f"model={model}"]
        command += ["--workers", "1", "--no-access-log"]
        if handler is not None:
            command += ["--handler", str(handler)]
        around = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("CLOUDAI_", "AIP_", "SAGEMAKER_", "AZUREML_"))
        }
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            self._log.open("wb") as log,
        ):
            self._port: int = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [*command, "--socket", str(listener.fileno())],
                env=_keeper.kept({**around, **(env or {})}),
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def log(self) -> str:
        """What the server has written."""
        return self._log.read_text("utf-8", "replace")

    def starting(self) -> bool:
        """Whether it still loads; asks once, and does not wait."""
        with self._lock:
            return self._look()

    def problem(self) -> str | None:
        """Waits until the model is loaded; why it is not, with the log's end, or None."""
        with self._lock:
            while self._look():
                time.sleep(0.02)
            return self._problem

    def _look(self) -> bool:
        if self._ready or self._problem is not None:
            return False
        if self._process.poll() is not None:
            self._problem = self.log()[-4000:] or "the server ended without a word"
        elif time.monotonic() > self._began + _STARTING:
            self._problem = f"the model was not loaded within {_STARTING:g} s\n{self.log()[-4000:]}"
            self._kill()
        else:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._ready = self._send("GET", "/ping", b"", {})[0] == 200
        return not self._ready and self._problem is None

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """The server's answer: status, content type and body."""
        problem = self.problem()
        if problem is not None:
            return 500, "text/plain", problem.encode()
        try:
            return self._send("POST", path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            return 500, "text/plain", f"the server broke off: {error}".encode()

    def _send(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWERING)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        finally:
            connection.close()

    def _kill(self) -> None:
        if self._process.poll() is None:  # else its id may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, *, gently: bool = False) -> None:
        """Ends it; ``gently`` lets it answer what it was asked, and does not wait for that."""
        if gently:
            threading.Thread(target=self._drain, daemon=True).start()
            return
        self._kill()
        self._process.wait()

    def _drain(self) -> None:
        time.sleep(_ON_THE_WAY)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ANSWERING)
        self.close()
