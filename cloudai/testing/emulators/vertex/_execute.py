"""Runs what is submitted, on this machine: jobs in a process a replica, models behind
the real endpoint server.

Buckets are no file system here: a job's ``gs://`` inputs are laid out in a folder before its
start, and its model is put into the bucket when it has ended well.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.files.unpack import unpack
from cloudai._core.handlers.container import PORT
from cloudai.errors import InvalidRequest
from cloudai.testing.emulators.common.command import Command
from cloudai.testing.emulators.common.served import ServedModel
from cloudai.testing.emulators.vertex import _image as image
from cloudai.testing.emulators.vertex._http import Refused
from cloudai.testing.emulators.vertex._jobs import Execution
from cloudai.testing.emulators.vertex._surroundings import Cloud, Mounts, variables


class LocalExecutor:
    """Runs Python packages and containers' commands, and models with a handler. Images are not
    pulled: see ``_image`` for the Python that stands in for a model container's.

    Parameters
    ----------
    cloud: whose buckets and logs are used.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._folder = tempfile.TemporaryDirectory(prefix="cloudai-vertex-run-")
        self._models: dict[str, ServedModel] = {}
        self._loading = threading.Lock()
        self._begun: dict[str, float] = {}

    def close(self) -> None:
        """Ends what it serves, and removes its files."""
        for served in self._models.values():
            served.close()
        self._models.clear()
        self._folder.cleanup()

    def on_training_job(self, job: dict[str, Any]) -> Execution:
        """Runs all replicas of a job whose source came through the bucket, or that names its
        command; one of which only the image knows what to do fails, as one whose files cannot be
        laid out."""
        try:
            return self._run(job)
        except InvalidRequest as error:
            return _Refusal(str(error))
        except OSError as error:
            return _Refusal(f"The command could not be started: {error}")

    def _run(self, job: dict[str, Any]) -> Execution:
        pools = job["jobSpec"]["workerPoolSpecs"]
        folder = Path(self._folder.name) / job["name"].rpartition("/")[2]
        mounts = Mounts(self._cloud, folder / "gcs")
        replicas: list[tuple[str, list[str], dict[str, str]]] = []
        cluster = {
            f"workerpool{number}": ["127.0.0.1:2222"] * int(pool.get("replicaCount", 1))
            for number, pool in enumerate(pools)
        }
        port = str(_free_port())
        for number, pool in enumerate(pools):
            work = pool.get("pythonPackageSpec") or pool["containerSpec"]
            for index in range(int(pool.get("replicaCount", 1))):
                name = f"workerpool{number}-{index}"
                place = folder / name
                place.mkdir(parents=True)
                command = self._command(work, place)
                if command is None:
                    image = work.get("imageUri") or work.get("executorImageUri")
                    return _Refusal(
                        f"cloudai's emulator pulls no image, such as {image}: it runs a "
                        "container's command, or a Python package that is in its bucket."
                    )
                env = {one["name"]: one.get("value", "") for one in work.get("env", ())}
                if "pythonModule" not in work:
                    command = [mounts.placed(word) for word in command]
                env = {variable: mounts.placed(text) for variable, text in env.items()}
                task = {"type": f"workerpool{number}", "index": index}
                spec = {"cluster": cluster, "environment": "cloud", "task": task}
                env["CLUSTER_SPEC"] = msgspec.json.encode(spec).decode()
                env.setdefault("MASTER_PORT", port)
                env |= {"TMPDIR": str(place), "HOME": str(place)}
                env = {**self._machine(job), **env, "CLOUDAI_GCS_ROOT": str(folder / "gcs")}
                for text in env.values():
                    if text.startswith("gs://"):
                        mounts.lay_out(text)
                replicas.append((name, command, env))
        started = {
            name: Command(command, cwd=folder / name, env=env, out=None)
            for name, command, env in replicas
        }
        return _Run(self._cloud, job, started, mounts.outputs)

    def _machine(self, job: dict[str, Any]) -> dict[str, str]:
        """What every machine has in its environment."""
        return {
            # The interpreter that runs the emulator is the image's.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "GCE_METADATA_HOST": self._cloud.url.removeprefix("http://"),
            **variables(self._cloud, job),
        }

    def _command(self, work: dict[str, Any], place: Path) -> list[str] | None:
        """What a replica runs; None where only its image knows."""
        if "packageUris" in work:
            # The service installs it with pip; unpacked it is importable as well.
            roots: list[str] = []
            for number, uri in enumerate(work["packageUris"]):
                archive = self._cloud.storage.get(uri)
                if archive is None:
                    return None
                unpack(BytesIO(archive), place / "package" / str(number))
                roots += map(str, (place / "package" / str(number)).iterdir())
            start = f"import runpy, sys; sys.path[:0] = {roots!r}; "
            start += f"runpy.run_module({work['pythonModule']!r}, run_name='__main__')"
            return [sys.executable, "-c", start, *work.get("args", ())]
        if not work.get("command"):
            return None
        return [*work["command"], *work.get("args", ())]

    def starting(self, model: dict[str, Any]) -> bool:
        """See ``Executor.starting``."""
        served = self._serving(model)
        if served is None or not served.starting():
            return False
        now = self._cloud.clock.now()
        patience = _patience(model.get("containerSpec", {}))
        if now - self._begun.setdefault(model["name"], now) > patience:
            served.fail(f"The container was restarted: it was not alive within {patience} s.")
        return True

    def on_deploy(self, model: dict[str, Any]) -> str | None:
        """See ``Executor.on_deploy``. The real endpoint server takes the container's place; a
        model without files is left to the script."""
        served = self._serving(model)
        problem = None if served is None else served.problem()
        if problem is not None:
            self.on_delete(model)
        return problem

    def _serving(self, model: dict[str, Any]) -> ServedModel | None:
        with self._loading:
            if model["name"] not in self._models and model.get("artifactUri"):
                self._models[model["name"]] = self._serve(model)
            return self._models.get(model["name"])

    def _serve(self, model: dict[str, Any]) -> ServedModel:
        uri = model["artifactUri"]
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        container = model.get("containerSpec", {})
        env = {one["name"]: one.get("value", "") for one in container.get("env", ())}
        ports = container.get("ports") or [{"containerPort": PORT}]
        env = {
            **self._cloud.env,
            "AIP_STORAGE_URI": uri,
            "AIP_HTTP_PORT": str(ports[0]["containerPort"]),
            "AIP_PREDICT_ROUTE": container.get("predictRoute", ""),
            "AIP_HEALTH_ROUTE": container.get("healthRoute", ""),
            "GCE_METADATA_HOST": self._cloud.url.removeprefix("http://"),
            "TMPDIR": str(folder),
            "CLOUDAI_WORKERS": "1",  # this machine is no replica's own
            **env,
        }
        command: list[str] | None = None
        if container.get("command"):
            command = [*container["command"], *container.get("args", ())]
            env |= image.surroundings(container["imageUri"], folder)
        health = container.get("healthRoute") or "/ping"
        return ServedModel(None, folder, env=env, health=health, command=command)

    def on_delete(self, model: dict[str, Any]) -> None:
        """See ``Executor.on_delete``."""
        with self._loading:
            served = self._models.pop(model["name"], None)
            self._begun.pop(model["name"], None)
        if served is not None:
            served.close()

    def on_predict(
        self, model: dict[str, Any], instances: list[Any], parameters: Any
    ) -> list[Any] | None:
        """See ``Executor.on_predict``."""
        found = self._models.get(model["name"])
        if found is None:
            return None
        body = msgspec.json.encode({"instances": instances, "parameters": parameters or {}})
        route = model.get("containerSpec", {}).get("predictRoute") or "/predict"
        status, _, answer = found.post(route, body, {"Content-Type": "application/json"})
        if status != 200:
            # A container's answer other than 200 is passed on in the message.
            raise Refused(500, "INTERNAL", answer.decode("utf-8", "replace"))
        return msgspec.json.decode(answer)["predictions"]

    def on_raw(
        self, model: dict[str, Any], body: bytes, kind: str
    ) -> tuple[str, Iterator[bytes]] | None:
        """See ``Executor.on_raw``."""
        found = self._models.get(model["name"])
        if found is None:
            return None
        route = model.get("containerSpec", {}).get("predictRoute") or "/predict"
        status, made, pieces = found.ask(route, body, {"Content-Type": kind})
        if status != 200:
            raise Refused(500, "INTERNAL", b"".join(pieces).decode("utf-8", "replace"))
        return made, pieces


def _patience(container: dict[str, Any]) -> int:
    """Seconds until a container has to answer: as its startup probe says; without one it is asked
    at once whether it lives, and restarted after four tries ("Custom container requirements for
    inference", Google Cloud documentation, read 2026-11)."""
    probe = container.get("startupProbe")
    if probe is None:
        return 40
    return int(probe.get("periodSeconds") or 10) * int(probe.get("failureThreshold") or 3)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Refusal:
    """A job that cannot be run here."""

    def __init__(self, why: str) -> None:
        self._why = why

    def ended(self) -> tuple[int, str]:
        return 1, self._why

    def kill(self) -> None:
        return None


class _Run:
    """A job's processes, one a replica; their output becomes log entries."""

    def __init__(
        self,
        cloud: Cloud,
        job: dict[str, Any],
        processes: dict[str, Command],
        outputs: dict[str, str],
    ) -> None:
        self._cloud = cloud
        self._job = job
        self._processes = processes
        self._outputs = outputs
        self._failed: tuple[int, str] | None = None
        self._ended: tuple[int, str] | None = None
        self._threads = [
            threading.Thread(target=self._follow, args=one, daemon=True)
            for one in processes.items()
        ]
        for thread in self._threads:
            thread.start()
        threading.Thread(target=self._finish, daemon=True).start()

    def _follow(self, name: str, process: Command) -> None:
        labels = {"job_id": self._job["name"].rpartition("/")[2], "task_name": name}
        code = process.follow(lambda line: self._cloud.logging.write("ml_job", labels, line))
        if code and self._failed is None:
            # One replica's failure is the job's: the service takes the others down.
            told = f"The replica {name} exited with a non-zero status of {code}."
            self._failed = (code, told)
            self.kill()

    def _finish(self) -> None:
        for thread in self._threads:
            thread.join()
        for folder, uri in self._outputs.items():
            for file in Path(folder).rglob("*"):
                if file.is_file():
                    name = file.relative_to(folder).as_posix()
                    self._cloud.storage.put(f"{uri.rstrip('/')}/{name}", file.read_bytes())
        self._ended = self._failed or (0, "")

    def ended(self) -> tuple[int, str] | None:
        return self._ended

    def kill(self) -> None:
        for process in self._processes.values():
            process.signal(signal.SIGKILL)
