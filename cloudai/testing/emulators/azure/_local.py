"""An executor that really does Azure ML's work on this machine: commands, endpoints and batches,
each in a process of its own."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cloudai._core.files.unpack import lay_out
from cloudai.errors import CloudAIError, InvalidRequest
from cloudai.formats.openai import completion
from cloudai.testing.emulators.azure import _scoring
from cloudai.testing.emulators.azure._asked import asked, refused
from cloudai.testing.emulators.azure._ml import ModelError, Running
from cloudai.testing.emulators.azure._scripted import ScriptedExecutor
from cloudai.testing.emulators.azure._state import GROUP, Deployed
from cloudai.testing.emulators.common.command import Command
from cloudai.testing.emulators.common.local_models import LocalModels
from cloudai.testing.emulators.common.served import ServedModel
from cloudai.types import ChatChunk

# Of the models' own vectors (Azure OpenAI models page, read 2025-08).
_DIMENSIONS = {"text-embedding-3-large": 3072}

_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL of a job that is cancelled."""
_MOUNT = "/var/azureml-app/azureml-models"
"""Where models are mounted by default ("Use a custom container", read 2026-11)."""

_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_DEFAULT_STORE: Final = "azureml://datastores/workspaceblobstore/paths"
_PLACE = re.compile(r"\$\{\{(inputs|outputs)\.(\w+)\}\}")


class LocalExecutor(ScriptedExecutor):
    """Runs command jobs and serves models as the platform would: the code's files in a folder,
    inputs downloaded, outputs uploaded, the log as it comes.

    Parameters
    ----------
    models: this machine's models, to answer chat and embeddings; None leaves them to rules.

    Attributes
    ----------
    env: what jobs and models find in their environment beside this process's: the way to the
        emulator.
    """

    def __init__(self, models: LocalModels | None = None) -> None:
        super().__init__()
        self.models = models
        self._folder = tempfile.TemporaryDirectory(prefix="cloudai-azureml-")
        self.env: dict[str, str] = {}
        self._served: dict[tuple[str, str], tuple[ServedModel, str]] = {}
        self._running: set[Command] = set()
        self._lock = threading.Lock()
        self._count = 0

    def close(self) -> None:
        """Ends what it runs and serves, and removes its files."""
        with self._lock:
            running = list(self._running)
        for process in running:
            process.signal(signal.SIGKILL)
            process.wait()
        for served, _ in self._served.values():
            served.close()
        self._served.clear()
        self._folder.cleanup()

    def chat(self, deployment: Deployed, body: dict[str, Any]) -> dict[str, Any]:
        """See ``Executor.chat``."""
        if self.models is None or self.replies:
            return super().chat(deployment, body)
        try:
            reply = self.models.reply(asked(body, deployment.model))
        except CloudAIError as error:
            raise refused(error) from None
        made = completion.completion(deployment.model, reply)
        return {
            **made["choices"][0]["message"],
            "finish_reason": made["choices"][0]["finish_reason"],
            "usage": made["usage"],
        }

    def stream(self, deployment: Deployed, body: dict[str, Any]) -> Iterator[ChatChunk] | None:
        """See ``Executor.stream``."""
        if self.models is None or self.replies:
            return None
        try:
            chunks = self.models.stream(asked(body, deployment.model))
            first = next(chunks)
        except CloudAIError as error:
            raise refused(error) from None
        return itertools.chain([first], chunks)

    def embed(self, deployment: Deployed, text: str, dimensions: int) -> list[float]:
        """See ``Executor.embed``."""
        if self.models is None:
            return super().embed(deployment, text, dimensions)
        try:
            (vector,), _ = self.models.vectors([text], dimensions)
        except CloudAIError as error:
            raise refused(error) from None
        return vector

    def dimensions(self, deployment: Deployed) -> int:
        """See ``Executor.dimensions``."""
        if self.models is None:
            return super().dimensions(deployment)
        return _DIMENSIONS.get(deployment.model, 1536)

    def _place(self) -> Path:
        with self._lock:
            self._count += 1
            made = Path(self._folder.name, str(self._count))
        made.mkdir()
        return made

    def train(self, job: Running) -> str:
        """See ``Executor.train``."""
        properties = job.body["properties"]
        root = self._place()
        if "batch" in properties:
            return self._batch(job, properties["batch"], root)
        if "codeId" in properties:
            _write(root / "code", job.asset(properties["codeId"], "codeUri"))
        (root / "code").mkdir(exist_ok=True)
        places: dict[tuple[str, str], Path] = {}
        literals: dict[str, str] = {}
        for name, given in (properties.get("inputs") or {}).items():
            if given["jobInputType"] == "literal":
                literals[name] = str(given.get("value", ""))
                continue
            place = root / "inputs" / name
            files = job.files(given["uri"])
            _write(place, files)
            is_file = given["jobInputType"] == "uri_file"
            places["inputs", name] = place / next(iter(files)) if is_file else place
        for name in properties.get("outputs") or {}:
            places["outputs", name] = root / "outputs" / name
            places["outputs", name].mkdir(parents=True)

        def placed(match: re.Match[str]) -> str:
            if match[1] == "inputs" and match[2] in literals:
                return literals[match[2]]
            if (match[1], match[2]) not in places:
                raise InvalidRequest(f"{match[0]} is no input or output of this job")
            return str(places[match[1], match[2]])

        # $[[ … ]] is left out where an optional input of it is not given.
        command = _OPTIONAL.sub(
            lambda part: part[1] if _given(part[1], literals, places) else "",
            properties["command"],
        )
        command = _PLACE.sub(placed, command)
        env = {
            **_variables(job, properties),
            **{f"AZUREML_{kind[:-1].upper()}_{name}": str(p) for (kind, name), p in places.items()},
            **(properties.get("environmentVariables") or {}),
        }
        code = self._run(job, ["bash", "-c", command], root / "code", env)
        for name, given in (properties.get("outputs") or {}).items():
            # Where it was not told, as azure-ai-ml 1.35 looks for it (_get_named_output_uri).
            uri = given.get("uri") or f"{_DEFAULT_STORE}/azureml/{job.name}/{name}"
            for file in sorted(places["outputs", name].rglob("*")):
                if file.is_file():
                    inner = file.relative_to(places["outputs", name]).as_posix()
                    job.put(uri, inner, file.read_bytes())
        return "Completed" if code == 0 else "Failed"

    def _run(self, job: Running, words: list[str], cwd: Path, env: dict[str, str]) -> int:
        """Runs a command of a job, whose output is its log. Gives the exit code."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        running = Command(
            words, cwd=cwd, env={**os.environ, **self.env, **env, "PATH": path}, out=None
        )
        with self._lock:
            self._running.add(running)
        threading.Thread(target=_stop_when_told, args=(job, running), daemon=True).start()
        code = running.follow(lambda line: job.log(f"{line}\n"))
        with self._lock:
            self._running.discard(running)
        return code

    def serve(self, job: Running, endpoint: str, deployment: str) -> str | None:
        """See ``Executor.serve``. The real endpoint server takes the place of Azure ML's; it
        calls the scoring script's ``init`` and ``run``."""
        properties = job.body["properties"]
        root = self._place()
        held = job.held(properties["environmentId"])["properties"]
        routes: dict[str, Any] = held.get("inferenceConfig") or {}
        scoring = "/invocations"
        try:
            if properties.get("codeConfiguration") is None:
                scoring = routes["scoringRoute"]["path"]
                served = self._container(job, properties, routes, root)
            else:
                served = self._script(job, properties, root)
        except InvalidRequest as error:  # its files cannot be laid out
            return str(error)
        problem = served.problem()
        if problem is not None:
            served.close()
            return problem
        with self._lock:
            before = self._served.get((endpoint, deployment))
            self._served[endpoint, deployment] = served, scoring
        if before is not None:
            before[0].close()
        return None

    def _script(self, job: Running, properties: dict[str, Any], root: Path) -> ServedModel:
        _write(root / "code", job.asset(properties["codeConfiguration"]["codeId"], "codeUri"))
        _write(root / "model" / "files", job.asset(properties["model"], "modelUri"))
        script = root / "code" / properties["codeConfiguration"]["scoringScript"]
        return ServedModel(
            root / "model",
            root,
            handler=Path(_scoring.__file__),
            env={
                **self.env,
                **(properties.get("environmentVariables") or {}),
                "AZUREML_MODEL_DIR": str(root / "model"),
                _scoring.SCRIPT: str(script),
            },
        )

    def _container(
        self, job: Running, properties: dict[str, Any], routes: dict[str, Any], root: Path
    ) -> ServedModel:
        """An image of one's own; the folder ``mount`` stands for where the model is mounted."""
        name, version = properties["model"].split("/")[-3::2]
        _write(
            root / "mount" / name / version / "files", job.asset(properties["model"], "modelUri")
        )
        mount = properties.get("modelMountPath") or _MOUNT
        given: dict[str, str] = properties.get("environmentVariables") or {}
        env = {
            "AZUREML_MODEL_DIR": f"{mount}/{name}/{version}",
            **given,
        }
        env = {variable: text.replace(mount, str(root / "mount")) for variable, text in env.items()}
        return ServedModel(
            None,
            root,
            env={**self.env, **env},
            health=routes["readinessRoute"]["path"],
            port=routes["scoringRoute"]["port"],
        )

    def unserve(self, endpoint: str, deployment: str) -> None:
        """See ``Executor.unserve``."""
        with self._lock:
            found = self._served.pop((endpoint, deployment), None)
        if found is not None:
            found[0].close()

    def log(self, endpoint: str, deployment: str) -> str:
        """See ``Executor.log``."""
        with self._lock:
            found = self._served.get((endpoint, deployment))
        return found[0].log() if found is not None else ""

    def score(self, endpoint: str, deployment: str, body: str) -> Any:
        """See ``Executor.score``."""
        headers = {"Content-Type": "application/json"}
        served, route = self._served[endpoint, deployment]
        status, _, answer = served.post(route, body.encode(), headers)
        if status != 200:
            raise ModelError(status, answer.decode("utf-8", "replace"))
        return answer

    def _batch(self, job: Running, about: dict[str, Any], root: Path) -> str:
        deployment = about["deployment"]
        asked = deployment["codeConfiguration"]
        model = deployment["model"]
        model = model if isinstance(model, str) else model["assetId"]
        try:
            _write(root / "code", job.asset(asked["codeId"], "codeUri"))
            _write(root / "model" / "files", job.asset(model, "modelUri"))
            _write(root / "input", job.files(about["input"]))
        except InvalidRequest as error:  # its files cannot be laid out
            job.log(f"{error}\n")
            return "Failed"
        (root / "output").mkdir()
        env = {
            **(deployment.get("environmentVariables") or {}),
            "AZUREML_MODEL_DIR": str(root / "model"),
            "AZUREML_BI_OUTPUT_PATH": str(root / "output"),
            _scoring.SCRIPT: str(root / "code" / asked["scoringScript"]),
        }
        files = map(str, sorted((root / "input").iterdir()))
        code = self._run(job, [sys.executable, "-P", _scoring.__file__, *files], root, env)
        if job.cancelled.is_set():
            return "Canceled"
        if code != 0:
            return "Failed"
        for file in sorted((root / "output").iterdir()):
            job.put(about["output"], file.name, file.read_bytes())
        return "Completed"


def _given(text: str, literals: dict[str, str], places: dict[tuple[str, str], Path]) -> bool:
    return all(
        match[2] in literals or (match[1], match[2]) in places for match in _PLACE.finditer(text)
    )


def _variables(job: Running, properties: dict[str, Any]) -> dict[str, str]:
    """What Azure ML itself tells a command job."""
    return {
        "AZUREML_RUN_ID": job.name,
        "AZUREML_ROOT_RUN_ID": job.name,
        "AZUREML_EXPERIMENT_NAME": properties.get("experimentName") or "Default",
        "AZUREML_ARM_SUBSCRIPTION": job.cloud_state.subscription,
        "AZUREML_ARM_RESOURCEGROUP": GROUP,
        "AZUREML_ARM_WORKSPACE_NAME": job.cloud_state.workspace,
        "AZUREML_ARM_PROJECT_NAME": properties.get("experimentName") or "Default",
        "AZUREML_NODE_COUNT": str((properties.get("resources") or {}).get("instanceCount") or 1),
    }


def _write(folder: Path, files: dict[str, bytes]) -> None:
    lay_out(folder, files, "the asset")


def _stop_when_told(job: Running, command: Command) -> None:
    while command.poll() is None:
        if job.cancelled.wait(0.05):
            command.signal(signal.SIGTERM)
            until = time.monotonic() + _GRACE
            while command.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            command.signal(signal.SIGKILL)
            return
