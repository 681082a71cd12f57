"""Models behind their own inference code, in processes of this machine."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import IO, Any

from cloudai.testing.emulators.aws import _stores, _worker


class ProcessServed:
    """A model in a process of its own, which loads ``code/inference.py`` as the containers do."""

    def __init__(self, container: dict[str, Any], place: Path) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: str | None = None
        uri = container.get("ModelDataUrl")
        data = _stores.read(uri) if uri else None
        model = place / "model"
        model.mkdir()
        if data is not None:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(model, filter="data")
        self._env = {**os.environ, **container.get("Environment", {})}
        self._model = model
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", _worker.__name__, str(self._model)],
            env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._ready = False

    def problem(self) -> str | None:
        with self._lock:
            return self._wait()

    def _wait(self) -> str | None:
        if not self._ready and self._problem is None:
            status, _, text = self._receive()
            self._ready = status == 200
            if not self._ready:
                self._problem = text.decode("utf-8", "replace")
        return self._problem

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, str, bytes]:
        with self._lock:
            problem = self._wait()
            if problem is not None:
                return 500, "text/plain", problem.encode()
            stdin: Any = self._process.stdin if self._process else None
            _worker.write(stdin, content_type.encode(), accept.encode(), body)
            return self._receive()

    def _receive(self) -> tuple[int, str, bytes]:
        stdout: IO[bytes] | Any = self._process.stdout if self._process else None
        try:
            status, kind, body = _worker.read(stdout)
        except EOFError:
            return 500, "text/plain", b"the container died"
        return int(status), kind.decode(), body

    def close(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        shutil.rmtree(self._model, ignore_errors=True)
