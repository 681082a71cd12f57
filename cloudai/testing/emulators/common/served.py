"""The real endpoint server behind an emulated endpoint: ``python -m cloudai.server`` with one
model, in a process of its own, on loopback.

It also takes the place of an image of one's own that ``cloudai package`` made: no image is pulled,
the server is started by what the platform tells the container, and asked at the routes that the
platform was told. What only the image holds, such as a handler beside the model, is not there.
"""

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cloudai.server.config import port_from
from cloudai.testing.emulators.common import keeper

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
    model: its directory; None: the environment tells it, as it tells a container.
    place: a folder for the server's log, which is made.
    handler: a Python file with load and predict, or SageMaker's functions; None: the model's own.
    env: of the server, beside this process's.
    health: the route that answers 200 once the model is loaded.
    port: where the platform asks the container; None: wherever it listens.
    command: what the container runs, in place of a server of this package's; it is told by
        ``AIP_HTTP_PORT`` where to listen.
    """

    def __init__(
        self,
        model: Path | None,
        place: Path,
        *,
        handler: Path | None = None,
        env: Mapping[str, str] | None = None,
        health: str = "/ping",
        port: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self._health = health
        self._problem: str | None = None
        place.mkdir(parents=True, exist_ok=True)
        self._log = place / "server.log"
        served = [sys.executable, "-P", "-m", "cloudai.server", "--no-access-log"]
        if model is not None:
            served += ["--model", f"model={model}"]
        if not env or not env.get("CLOUDAI_WORKERS"):
            served += ["--workers", "1"]  # this machine is no replica's own
        if handler is not None:
            served += ["--handler", str(handler)]
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
            told = {**around, **(env or {})}
            passed = listener.fileno()
            if command is not None:
                listener.close()  # the command listens there itself
                told |= {"AIP_HTTP_PORT": str(self._port), "CLOUDAI_HOST": "127.0.0.1"}
            self._process = subprocess.Popen(
                command or [*served, "--socket", str(passed)],
                env=keeper.kept(told),
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[] if command else [passed],
                start_new_session=True,
            )
        listens = port_from(env or {})
        if port is not None and listens != port:
            # Here every server listens where there is room; a container would not be reached.
            self.fail(f"the container listens on port {listens}, and is asked on port {port}")
        self._watch = threading.Thread(target=self._wait, args=(time.monotonic(),), daemon=True)
        self._watch.start()

    def log(self) -> str:
        """What the server has written."""
        return self._log.read_text("utf-8", "replace")

    def starting(self) -> bool:
        """Whether it still loads; does not wait."""
        return self._watch.is_alive()

    def problem(self) -> str | None:
        """Waits until the model is loaded; why it is not, with the log's end, or None."""
        self._watch.join()
        return self._problem

    def _wait(self, began: float) -> None:
        while self._problem is None:
            if self._process.poll() is not None:
                self._problem = self.log()[-4000:] or "the server ended without a word"
            elif time.monotonic() > began + _STARTING:
                self.fail(f"the model was not loaded within {_STARTING:g} s\n{self.log()[-4000:]}")
            else:
                status = 0
                with contextlib.suppress(OSError, http.client.HTTPException):
                    status, _, pieces = self._send("GET", self._health, b"", {})
                    for _ in pieces:  # which ends the connection
                        pass
                if status == 200:
                    return
                if status == 404:
                    self.fail(f"the container has no route {self._health}")
                time.sleep(0.02)

    def fail(self, problem: str) -> None:
        """Ends it as one that does not come up."""
        self._problem = problem
        self._kill()

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """The server's answer: status, content type and body."""
        status, kind, pieces = self.ask(path, body, headers)
        try:
            return status, kind, b"".join(pieces)
        except ConnectionError as error:
            return 500, "text/plain", str(error).encode()

    def ask(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, str, Iterator[bytes]]:
        """The same as soon as the server begins to answer: its body in the pieces in which it is
        written. They raise ConnectionError where the server breaks off."""
        problem = self.problem()
        if problem is not None:
            return 500, "text/plain", iter([problem.encode()])
        try:
            return self._send("POST", path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            return 500, "text/plain", iter([f"the server broke off: {error}".encode()])

    def _send(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, str, Iterator[bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWERING)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        return answer.status, answer.headers.get("Content-Type", ""), _chunks(connection, answer)

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


def _chunks(
    connection: http.client.HTTPConnection, answer: http.client.HTTPResponse
) -> Iterator[bytes]:
    try:
        while piece := answer.read1(1 << 16):
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"the server broke off: {error}") from error
    finally:
        answer.close()
        connection.close()
