"""Azure ML's own server (azureml-inference-server-http) in the place of a managed online
deployment's container: it runs the scoring script that `deploy` uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from environments import clean_env, python_of
from toolkits import Theirs, free_port

from cloudai.testing.emulators.azure import LocalExecutor
from cloudai.testing.emulators.azure._local import Running, _write


class AzureServed(Theirs):
    """A scoring script and its model, in folders as Azure ML lays them out."""

    health = "/"
    asked = "/score"

    def __init__(self, environments: Path, script: Path, model: Path, env: dict[str, str]) -> None:
        python = python_of(environments, "azureml")
        port = free_port()
        program = [
            str(python.parent / "azmlinfsrv"), "--entry_script", str(script), "--model_dir",
            str(model), "--port", str(port), "--health_port", str(free_port(port + 1)),
        ]  # fmt: skip
        super().__init__(program, script.parent, port, clean_env(**env), 60.0)


class AzureServer(LocalExecutor):
    """Online deployments in Azure ML's server; jobs and batches as ever."""

    def __init__(self, environments: Path) -> None:
        super().__init__()
        self.environments = environments

    def _script(self, job: Running, properties: dict[str, Any], root: Path) -> Any:
        asked = properties["codeConfiguration"]
        _write(root / "code", job.asset(asked["codeId"], "codeUri"))
        _write(root / "model" / "files", job.asset(properties["model"], "modelUri"))
        return AzureServed(
            self.environments,
            root / "code" / asked["scoringScript"],
            root / "model",
            properties.get("environmentVariables") or {},
        )
