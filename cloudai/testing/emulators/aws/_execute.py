"""Runs the emulated account's work for real: training scripts in processes of this machine, with
SageMaker's environment in place of its container; models behind their own inference code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Final

from cloudai.testing.emulators.aws import _stores, _worker
from cloudai.testing.emulators.aws._world import Fate, Look, Run, ScriptedExecutor, Served, World

_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL; SageMaker gives 120."""


class LocalExecutor(ScriptedExecutor):
    """Runs the user's own code. Images are not pulled: the Python of this process stands in for
    the container's.

    Parameters
    ----------
    folder: where it all lies. starting: seconds before a job starts.
    """

    def __init__(self, folder: Path, starting: float = 0.0) -> None:
        super().__init__()
        self.folder = folder
        self.starting = starting
        self._count = 0
        self._open: list[ProcessRun | ProcessServed] = []
        self._lock = threading.Lock()

    def _place(self, name: str) -> Path:
        with self._lock:
            self._count += 1
            place = self.folder / f"{self._count:04d}-{name}"
        place.mkdir(parents=True)
        return place

    def train(self, job: dict[str, Any], world: World) -> Run:
        run = ProcessRun(job, self._place(job["TrainingJobName"]), world.now(), self.starting)
        self._open.append(run)
        return run

    def transform(self, job: dict[str, Any], world: World) -> tuple[Fate, Served]:
        return self._fate(), self.serve(job["Container"], world)

    def serve(self, container: dict[str, Any], world: World) -> Served:
        served = ProcessServed(container, self._place("model"))
        self._open.append(served)
        return served

    def close(self) -> None:
        """Ends what still runs."""
        for one in self._open:
            one.close()
        self._open.clear()


class ProcessRun:
    """A training job as a process group."""

    def __init__(self, job: dict[str, Any], place: Path, now: float, starting: float) -> None:
        self._place = place
        self._created = now
        self._starting = starting
        self._job = job
        self._most: float = job["StoppingCondition"].get("MaxRuntimeInSeconds", 86400)
        self._stopped: float | None = None
        self._late = False
        self._killed: float | None = None
        self._lines: list[tuple[float, str]] = []
        self._read = 0
        self._ended: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started: float | None = None
        if not starting:
            self._start(now)

    def _start(self, now: float) -> None:
        self._started = now
        env, command, cwd = self._prepare()
        with (self._place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _prepare(self) -> tuple[dict[str, str], list[str], Path]:
        job, place = self._job, self._place
        env = {**os.environ, **job.get("Environment", {})}
        for name in ("model", "output", "checkpoints", "code"):
            (place / name).mkdir()
        for channel in job.get("InputDataConfig", []):
            name = channel["ChannelName"]
            target = place / "input" / name
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            _fetch(uri, target)
            env[f"SM_CHANNEL_{name.upper()}"] = str(target)
        texts = job.get("HyperParameters", {})
        env |= {
            "SM_MODEL_DIR": str(place / "model"),
            "SM_OUTPUT_DATA_DIR": str(place / "output"),
            "SM_HPS": json.dumps({name: json.loads(text) for name, text in texts.items()}),
            "CLOUDAI_CHECKPOINT_DIR": str(place / "checkpoints"),
        }
        packed = place / "input" / "code" / "source.tar.gz"
        about = job["AlgorithmSpecification"]
        command = [*about.get("ContainerEntrypoint", []), *about.get("ContainerArguments", [])]
        if packed.is_file():
            with tarfile.open(packed) as archive:
                archive.extractall(place / "code", filter="data")
            # What the entrypoint's shell line does in /opt/ml.
            command = [sys.executable, "cloudai_start.py"]
        return env, command or [sys.executable, "-c", ""], place / "code"

    def stop(self, now: float) -> None:
        if self._stopped is None:
            self._stopped = now
            self._signal(signal.SIGTERM)
            self._killed = time.monotonic() + _GRACE

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def look(self, now: float) -> Look:
        if self._process is None and self._ended is None:
            if self._stopped is not None:
                self._ended = now
            elif now < self._created + self._starting:
                return Look(status="InProgress", secondary="Starting")
            else:
                self._start(now)
        code = self._process.poll() if self._process is not None else 0
        self._tail(now)
        if code is None:
            return self._running(now)
        if self._ended is None:
            self._ended = now
        found = self._end(code)
        found.logs = list(self._lines)
        found.checkpoints = _files(self._place / "checkpoints")
        return found

    def _running(self, now: float) -> Look:
        started = self._started or now
        if self._stopped is None and now - started > self._most:
            self._late = True
            self.stop(now)
        if self._killed is not None and time.monotonic() > self._killed:
            self._signal(signal.SIGKILL)
        stopping = self._stopped is not None
        return Look(
            status="Stopping" if stopping else "InProgress",
            secondary="Stopping" if stopping else "Training",
            started=started,
            logs=list(self._lines),
        )

    def _end(self, code: int) -> Look:
        ended, started = self._ended, self._started
        model = self._place / "model"
        if self._late:
            return Look(status="Stopped", secondary="MaxRuntimeExceeded", started=started,
                        ended=ended, files=_files(model))  # fmt: skip
        if self._stopped is not None:
            return Look(status="Stopped", secondary="Stopped", started=started, ended=ended)
        if code:
            return Look(
                status="Failed", secondary="Failed", started=started, ended=ended,
                reason="AlgorithmError: ExecuteUserScriptError: , exit code: "
                f"{code if code > 0 else 128 - code}",
            )  # fmt: skip
        return Look(status="Completed", secondary="Completed", started=started, ended=ended,
                    files=_files(model))  # fmt: skip

    def _tail(self, now: float) -> None:
        log = self._place / "log"
        if not log.is_file():
            return
        data = log.read_bytes()[self._read :]
        whole = data if self._process is None or self._process.poll() is not None else (
            data[: data.rfind(b"\n") + 1]
        )  # fmt: skip
        self._read += len(whole)
        text = whole.decode("utf-8", "replace")
        self._lines += [(now, line) for line in text.splitlines() if line]

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


def _fetch(uri: str, target: Path) -> None:
    """What lies at or below a URI, as a directory."""
    _, prefix = _stores.split(uri)
    target.mkdir(parents=True)
    for key, data in _stores.under(uri).items():
        name = key.removeprefix(prefix).lstrip("/") or key.rpartition("/")[2]
        if prefix and not prefix.endswith("/") and key != prefix:
            name = key.removeprefix(prefix.rpartition("/")[0]).lstrip("/")
            name = name.partition("/")[2] or name
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


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
