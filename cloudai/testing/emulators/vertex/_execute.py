"""Runs what is submitted, on this machine: jobs in a subprocess, models in this process.

Buckets are no file system here: a job's ``gs://`` inputs are laid out in a folder before its
start, and its model is put into the bucket when it has ended well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudai._core.handler import Handler, load_handler
from cloudai.errors import CloudAIError
from cloudai.testing.emulators.vertex._http import Refused

if TYPE_CHECKING:
    from cloudai.testing.emulators.vertex import VertexEmulator


class LocalExecutor:
    """Runs Python jobs whose source came through the bucket, and models with a handler.

    Parameters
    ----------
    cloud: whose buckets and logs are used.
    """

    def __init__(self, cloud: VertexEmulator) -> None:
        self._cloud = cloud
        self._folder = tempfile.TemporaryDirectory(prefix="cloudai-vertex-run-")
        self._models: dict[str, Handler] = {}
        self._loading = threading.Lock()

    def close(self) -> None:
        self._folder.cleanup()

    def _lay_out(self, uri: str, target: Path) -> Path:
        """The objects below a URI, or the one it names, as files; the folder, or the file."""
        storage = self._cloud.storage
        alone = storage.get(uri.rstrip("/"))
        if alone is not None:
            target.mkdir(parents=True, exist_ok=True)
            file = target / uri.rstrip("/").rpartition("/")[2]
            file.write_bytes(alone)
            return file
        base = uri.rstrip("/") + "/"
        target.mkdir(parents=True, exist_ok=True)
        for name in storage.names(base):
            file = target / name[len(base) :]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(storage.get(name) or b"")
        return target

    def on_training_job(self, job: dict[str, Any]) -> _Run | None:
        pool = job["jobSpec"]["workerPoolSpecs"][0]
        work = pool.get("pythonPackageSpec") or pool["containerSpec"]
        packages = work.get("packageUris") or [
            part.replace("/gcs/", "gs://", 1)
            for part in work.get("command", ())
            if part.startswith("/gcs/")
        ]
        archive = self._cloud.storage.get(packages[0]) if packages else None
        if archive is None:
            return None
        folder = Path(self._folder.name) / job["name"].rpartition("/")[2]
        folder.mkdir()
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder / "package", filter="data")
        task = next((folder / "package").glob("*/cloudai_job/task.py"))
        env = {one["name"]: one.get("value", "") for one in work.get("env", ())}
        for name, value in env.items():
            if name.startswith("CLOUDAI_INPUT_") and value.startswith("gs://"):
                env[name] = str(self._lay_out(value, folder / "inputs" / name))
        base = job["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix", "")
        outputs: dict[str, str] = {}
        for variable, part in (
            ("CLOUDAI_MODEL_DIR", "model"),
            ("CLOUDAI_CHECKPOINT_DIR", "checkpoints"),
            ("CLOUDAI_OUTPUT_DIR", "output"),
        ):
            outputs[str(folder / part)] = env.get(variable) or f"{base.rstrip('/')}/{part}"
            env[variable] = str(folder / part)
        host = self._cloud.url.removeprefix("http://")
        started = subprocess.Popen(
            [sys.executable, str(task), *work.get("args", ())],
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(folder),
                "GCE_METADATA_HOST": host,
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": self._cloud.url,
                "AIP_MODEL_DIR": f"{base}/model/",
                "TMPDIR": str(folder),
                **env,
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        return _Run(self._cloud, job, started, outputs)

    def on_deploy(self, model: dict[str, Any]) -> str | None:
        """Loads the model that has a handler; another one is left to the script."""
        uri = model.get("artifactUri")
        if not uri:
            return None
        with self._loading:
            folder = Path(tempfile.mkdtemp(dir=self._folder.name))
            self._lay_out(uri, folder)
            try:
                self._models[model["name"]] = load_handler(folder)
            except CloudAIError as error:
                return str(error)
        return None

    def on_predict(
        self, model: dict[str, Any], instances: list[Any], parameters: Any
    ) -> list[Any] | None:
        found = self._models.get(model["name"])
        if found is None:
            return None
        try:
            return found.predict(instances, parameters or {})
        except CloudAIError as error:
            # A container's answer other than 200 is passed on in the message.
            import msgspec

            about = {"type": type(error).__name__, "message": error.message}
            told = msgspec.json.encode({"error": about}).decode()
            raise Refused(500, "INTERNAL", told) from None


class _Run:
    """A job's process; its output becomes log entries."""

    def __init__(
        self,
        cloud: VertexEmulator,
        job: dict[str, Any],
        process: subprocess.Popen[str],
        outputs: dict[str, str],
    ) -> None:
        self._cloud = cloud
        self._job = job
        self._process = process
        self._outputs = outputs
        self._killed = False
        self._ended: tuple[int, str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        labels = {"job_id": self._job["name"].rpartition("/")[2], "task_name": "workerpool0-0"}
        assert self._process.stdout is not None  # noqa: S101
        with self._process.stdout:
            for line in self._process.stdout:
                self._cloud.logging.write("ml_job", labels, line.rstrip("\n"))
        code = self._process.wait()
        for folder, uri in self._outputs.items():
            for file in Path(folder).rglob("*"):
                if file.is_file():
                    name = file.relative_to(folder).as_posix()
                    self._cloud.storage.put(f"{uri.rstrip('/')}/{name}", file.read_bytes())
        told = f"The replica workerpool0-0 exited with a non-zero status of {code}."
        self._ended = (code, told)

    def ended(self) -> tuple[int, str] | None:
        return self._ended

    def kill(self) -> None:
        if self._process.poll() is None:
            import signal
            from contextlib import suppress

            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
