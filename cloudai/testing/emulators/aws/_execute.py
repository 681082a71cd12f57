"""Runs the emulated account's work for real: training jobs by their own entrypoints in processes
of this machine, with what SageMaker puts into a container; models behind their own inference
code."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from cloudai.errors import InvalidRequest
from cloudai.providers.aws.container import start
from cloudai.testing.emulators.aws import _container, _stores, _toolkit
from cloudai.testing.emulators.aws._served import ProcessServed, Unserved
from cloudai.testing.emulators.aws._state import (
    AwsState,
    Fate,
    Run,
    ScriptedExecutor,
    Served,
    Snapshot,
)
from cloudai.testing.emulators.common.command import Command
from cloudai.testing.emulators.common.local_models import LocalModels

# Ends a job of which only the image would know what to do.
_NOTHING: Final = """
import sys
sys.exit("cloudai's emulator pulls no image, such as {image}. It runs the job's ContainerEntrypoint"
         ", or the script that the hyperparameters sagemaker_program and"
         " sagemaker_submit_directory name")
"""
_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL; SageMaker gives 120."""


class LocalExecutor(ScriptedExecutor):
    """Runs the user's own code. Images are not pulled: the Python of this process stands in for
    the container's.

    Parameters
    ----------
    folder: where it all lies. starting: seconds before a job starts.
    models: answers chat and embeddings; None leaves them to rules.

    Attributes
    ----------
    env: what jobs find in their environment beside this process's: the way to the emulator.
    """

    def __init__(
        self, folder: Path, starting: float = 0.0, models: LocalModels | None = None
    ) -> None:
        super().__init__()
        self.models = models
        self.env: dict[str, str] = {}
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

    def train(self, job: dict[str, Any], cloud_state: AwsState) -> Run:
        if self.fates:  # told beforehand: it is not run
            return super().train(job, cloud_state)
        place = self._place(job["TrainingJobName"])
        run = ProcessRun(job, place, cloud_state.now(), self.starting, self.env)
        self._open.append(run)
        return run

    def interrupt(self, name: str) -> None:
        """Takes the machines of a spot job away, and gives it others: it starts anew with what
        it had written into its checkpoints' folder. Raises LookupError for another job."""
        for one in self._open:
            if isinstance(one, ProcessRun) and one.name == name and one.spot:
                one.interrupt()
                return
        raise LookupError(f"no spot job {name!r} was started here")

    def transform(self, job: dict[str, Any], cloud_state: AwsState) -> tuple[Fate, Served]:
        return self._fate(), self.serve(job["Container"], cloud_state)

    def serve(self, container: dict[str, Any], cloud_state: AwsState) -> Served:
        try:
            served = ProcessServed(container, self._place("model"), self.env)
        except InvalidRequest as error:  # its archive cannot be unpacked
            return Unserved(str(error))
        self._open.append(served)
        return served

    def close(self) -> None:
        """Ends what still runs."""
        for one in self._open:
            one.close()
        self._open.clear()


class ProcessRun:
    """A training job: a process group for each of its machines, in a folder each that stands for
    ``/opt/ml``. All of them are on this machine, so that their names are not looked up."""

    def __init__(
        self,
        job: dict[str, Any],
        place: Path,
        now: float,
        starting: float,
        env: dict[str, str] | None = None,
    ) -> None:
        self._env = env or {}
        self._place = place
        self._created = now
        self._starting = starting
        self._job = job
        self.name: str = job["TrainingJobName"]
        self.spot: bool = job.get("EnableManagedSpotTraining", False)
        self._interruptions = 0
        self._interrupted = False
        self._most: float = job["StoppingCondition"].get("MaxRuntimeInSeconds", 86400)
        self._stopped: float | None = None
        self._late = False
        self._killed: float | None = None
        self._lines: list[tuple[float, str, str]] = []
        self._read: dict[str, int] = {}
        self._ended: float | None = None
        self._problem: str | None = None
        self._processes: dict[str, Command] = {}
        self._started: float | None = None
        about = job["ResourceConfig"]
        preferred = about.get("InstancePreferences") or [about]
        self._machine: str = preferred[0].get("InstanceType", "ml.m5.xlarge")
        self._hosts = [f"algo-{n + 1}" for n in range(preferred[0].get("InstanceCount", 1))]
        if not starting:
            self._start(now)

    def _start(self, now: float) -> None:
        self._started = now
        port = _free_port()
        for host in self._hosts:
            root = self._root(host)
            try:
                env = self._prepare(root, host)
            except InvalidRequest as error:
                self._problem = f"ClientError: Data download failed: {error}"
                return
            if len(self._hosts) > 1:
                env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            command = _container.command(self._command(), root)
            with (root / "log").open("wb") as log:
                code = root / "code"
                self._processes[host] = Command(
                    command, cwd=code if code.is_dir() else root, env=env, out=log
                )

    def _command(self) -> list[str]:
        """What the container runs: its entrypoint, or SageMaker's toolkit in the image."""
        about = self._job["AlgorithmSpecification"]
        words = [*about.get("ContainerEntrypoint", []), *about.get("ContainerArguments", [])]
        if words:
            return words
        if "sagemaker_program" in self._job.get("HyperParameters", {}):
            return [sys.executable, "-m", _toolkit.__name__]
        return [sys.executable, "-c", _NOTHING.format(image=about.get("TrainingImage"))]

    def _root(self, host: str) -> Path:
        """The folder that stands for a machine's /opt/ml; another one after an interruption."""
        return self._place / f"{host}.{self._interruptions}"

    def interrupt(self) -> None:
        self._interrupted = True
        self._signal(signal.SIGTERM)
        self._killed = time.monotonic() + _GRACE

    def _again(self, now: float) -> None:
        """Starts anew after an interruption, from the checkpoints that are in S3."""
        self._tail(now)
        self._store_checkpoints()
        self._interrupted, self._killed = False, None
        self._interruptions += 1
        self._read.clear()
        self._start(now)

    def _store_checkpoints(self) -> None:
        where = self._job.get("CheckpointConfig", {}).get("S3Uri")
        files = _files(self._root(self._hosts[0]) / "checkpoints") if where else {}
        for name, data in files.items():
            _stores.write(f"{where.rstrip('/')}/{name}", data)

    def _prepare(self, root: Path, host: str) -> dict[str, str]:
        """What SageMaker puts into ``/opt/ml``, and the environment."""
        job = self._job
        config = root / "input" / "config"
        for folder in (config, *(root / name for name in ("model", "output/data", "checkpoints"))):
            folder.mkdir(parents=True)
        channels = job.get("InputDataConfig", [])
        for channel in channels:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            _stores.lay_out(uri, root / "input" / "data" / channel["ChannelName"])
        checkpoints = job.get("CheckpointConfig", {}).get("S3Uri")
        if checkpoints:
            _stores.lay_out(f"{checkpoints.rstrip('/')}/", root / "checkpoints")
        described: dict[str, Any] = {
            "resourceconfig": {
                "current_host": host,
                "current_instance_type": self._machine,
                "hosts": self._hosts,
                "network_interface_name": "lo",
            },
            "inputdataconfig": {
                one["ChannelName"]: {
                    "TrainingInputMode": one.get("InputMode", "File"),
                    "S3DistributionType": "FullyReplicated",
                }
                for one in channels
            },
            "hyperparameters": job.get("HyperParameters", {}),
        }
        for name, value in described.items():
            (config / f"{name}.json").write_text(json.dumps(value))
        # The Python of this process stands in for the container's.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        source = str(start.typed(job.get("HyperParameters", {}).get("sagemaker_submit_directory")))
        if source.startswith("s3://"):
            _stores.unpack(source, root / "code")
        env = {name: text for name, text in os.environ.items() if not name.startswith("SM_")}
        env |= self._env
        env |= {
            "PATH": path,
            "CLOUDAI_ML_ROOT": _container.root(root),
            "AWS_REGION": os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
            "TRAINING_JOB_NAME": job["TrainingJobName"],
        }
        given = job.get("Environment", {})
        if not _container.mounts():
            given = {name: text.replace(_container.ROOT, str(root)) for name, text in given.items()}
        return {**env, **given}

    def stop(self, now: float) -> None:
        if self._stopped is None:
            self._stopped = now
            self._signal(signal.SIGTERM)
            self._killed = time.monotonic() + _GRACE

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.signal(number)

    def _code(self) -> int | None:
        """The exit code; None while a machine is at work. A machine that fails ends the job."""
        codes = [process.poll() for process in self._processes.values()]
        bad = next((code for code in codes if code), None)
        if bad is not None and None in codes and self._killed is None:
            self._signal(signal.SIGTERM)
            self._killed = time.monotonic() + _GRACE
        if self._killed is not None and time.monotonic() > self._killed:
            self._signal(signal.SIGKILL)
        if None in codes:
            return None
        return bad or 0

    def look(self, now: float) -> Snapshot:
        if self._problem is not None:
            return Snapshot(status="Failed", secondary="Failed", ended=self._started,
                        started=self._started, reason=self._problem)  # fmt: skip
        if not self._processes and self._ended is None:
            if self._stopped is not None:
                self._ended = now
            elif now < self._created + self._starting:
                return Snapshot(status="InProgress", secondary="Starting")
            else:
                self._start(now)
        code = self._code()
        if code is not None and self._interrupted and self._stopped is None:
            self._again(now)
            code = None
        self._tail(now)
        if code is None:
            return self._running(now)
        if self._ended is None:
            self._ended = now
        found = self._end(code)
        found.logs = list(self._lines)
        found.interruptions = self._interruptions
        found.checkpoints = _files(self._root(self._hosts[0]) / "checkpoints")
        return found

    def _running(self, now: float) -> Snapshot:
        started = self._started or now
        if self._stopped is None and now - started > self._most:
            self._late = True
            self.stop(now)
        stopping = self._stopped is not None
        return Snapshot(
            status="Stopping" if stopping else "InProgress",
            secondary="Stopping" if stopping else "Training",
            started=started,
            logs=list(self._lines),
            interruptions=self._interruptions,
        )

    def _end(self, code: int) -> Snapshot:
        ended, started = self._ended, self._started
        first = self._root(self._hosts[0])
        if self._late:
            return Snapshot(status="Stopped", secondary="MaxRuntimeExceeded", started=started,
                        ended=ended, files=_files(first / "model"))  # fmt: skip
        if self._stopped is not None:
            return Snapshot(status="Stopped", secondary="Stopped", started=started, ended=ended)
        if code:
            told = first / "output" / "failure"
            text = told.read_text("utf-8", "replace")[:1024] if told.is_file() else ""
            return Snapshot(
                status="Failed", secondary="Failed", started=started, ended=ended,
                reason=f"AlgorithmError: ExecuteUserScriptError: {text}, exit code: "
                f"{code if code > 0 else 128 - code}",
            )  # fmt: skip
        return Snapshot(
            status="Completed", secondary="Completed", started=started, ended=ended,
            files=_files(first / "model"), outputs=_files(first / "output" / "data"),
        )  # fmt: skip

    def _tail(self, now: float) -> None:
        for host in self._hosts:
            log = self._root(host) / "log"
            if not log.is_file():
                continue
            process = self._processes.get(host)
            over = process is None or process.poll() is not None
            data = log.read_bytes()[self._read.get(host, 0) :]
            whole = data if over else data[: data.rfind(b"\n") + 1]
            self._read[host] = self._read.get(host, 0) + len(whole)
            text = whole.decode("utf-8", "replace")
            self._lines += [(now, line, host) for line in text.splitlines() if line]

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
