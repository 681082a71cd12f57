"""Training jobs on this machine: the user's script in a supervised process tree.

A job that a signal from outside ended (the system's memory killer, ``kill -9``) is FAILED with
exit code 128 + signal and a reason that names it, or PREEMPTED for a spot job; with
``retry.on`` holding ``preempted``, it is started anew in the same directories, so that it goes
on from its newest checkpoint, with ``CLOUDAI_RESTART_COUNT`` set.

An existing directory in ``outputs`` is used as it is: what the script writes there under a name
that exists already replaces it.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.files.paths import here, local_path
from cloudai._core.files.tree import copy, source
from cloudai.bootstrap import arguments
from cloudai.engine import hardware
from cloudai.errors import CloudAIError, InvalidRequest, UnsupportedByProvider
from cloudai.providers.local.jobs import checks, environment, finetuning, launch
from cloudai.providers.local.jobs.base import GRACE, LocalJobs, module_command
from cloudai.providers.local.jobs.checks import PROVIDER, no_uri
from cloudai.providers.local.profile import describe
from cloudai.types import TrainingJob, Upload
from cloudai.types._base import invalid

_DOWNLOAD: Final = "Download it first and give its path."


class LocalTraining(LocalJobs[TrainingJob]):
    """``Jobs[TrainingJob]`` on this machine."""

    kind = "training"

    def _problems(self, spec: TrainingJob) -> list[CloudAIError]:
        problems = checks.platform(spec.image if spec.kind != "container" else None)
        if spec.kind == "container":
            problems.append(
                UnsupportedByProvider(
                    "kind='container'",
                    provider=PROVIDER,
                    alternative="Use kind='script' with the same program: it runs in this Python, "
                    "with `requirements` installed.",
                    field="kind",
                    value=spec.kind,
                )
            )
        elif spec.kind == "finetune":
            problems += finetuning.problems(spec, self.profile)
        else:
            problems += _script_problems(spec, self.home)
        if spec.resources.nodes > 1:
            problems.append(
                UnsupportedByProvider(
                    f"resources.nodes={spec.resources.nodes}",
                    provider=PROVIDER,
                    alternative="There is one machine: use resources.nproc for several processes "
                    "on it.",
                    field="resources.nodes",
                    value=spec.resources.nodes,
                )
            )
        problems += _path_problems(spec)
        return [
            *problems,
            *checks.accelerator(spec.resources, self.device),
            *checks.processes(spec.resources, self.device),
            *checks.secrets(spec.secrets),
        ]

    def _dropped(self, spec: TrainingJob) -> list[str]:
        dropped = checks.dropped(spec)
        if spec.spot is not None:
            dropped.append("spot: nothing is taken back here; a kill from outside counts as it")
        if spec.tags:
            dropped.append("tags are kept with the spec, and nowhere shown")
        if spec.framework != "pytorch":
            dropped.append(f"framework={spec.framework!r}: this Python's own packages")
        return dropped

    def _sheet(self, spec: TrainingJob, folder: Path) -> dict[str, Any]:
        finetune = spec.kind == "finetune"
        entry = "finetune.py" if finetune else str(spec.entry)
        cwd = folder if finetune else folder / "source"
        hyperparameters = finetuning.named(spec) if finetune else spec.hyperparameters
        given = list(spec.args)
        if finetune:
            given += finetuning.arguments(spec, self.profile)
        elif spec.hyperparameter_args:
            given += arguments(hyperparameters)
        gpus = checks.gpus_for(spec.resources, self.device)
        nproc = spec.resources.nproc or (
            len(gpus or ()) if spec.resources.accelerator is not None else 1
        )
        shell = entry.endswith(".sh")
        nproc = 1 if shell else max(1, nproc)
        env = environment.build(
            name=folder.name,
            folder=folder,
            cwd=cwd,
            entry=entry,
            inputs=_inputs(spec),
            model=_output(spec.outputs.model, folder / "model"),
            checkpoints=_output(spec.outputs.checkpoints, folder / "checkpoints"),
            output=_output(spec.outputs.data, folder / "output"),
            hyperparameters=hyperparameters,
            arguments=given,
            nproc=nproc,
            cpus=spec.resources.cpus,
            gpus=gpus,
            gpus_here=len(hardware.gpus(self.device)),
        )
        return {
            "python": "/bin/sh" if shell else sys.executable,
            "script": [*module_command(finetuning.MODULE), *given] if finetune else [entry, *given],
            "nproc": nproc,
            "cwd": str(cwd),
            "env": {**env, **spec.env},
            "secrets": {name: msgspec.to_builtins(ref) for name, ref in spec.secrets.items()},
            "profile": describe(self.profile),
            "requirements": str(cwd / spec.requirements) if spec.requirements else None,
            "retry": {"max": spec.retry.max, "on": list(spec.retry.on)},
            "timeout": spec.timeout,
            "metrics": [[metric.name, metric.regex] for metric in spec.metrics]
            + (finetuning.METRICS if finetune else []),
            "grace": GRACE,
            "spot": spec.spot is not None,
        }

    def _command(self, sheet: dict[str, Any]) -> list[str]:
        return launch.command(sheet["python"], sheet["script"], sheet["nproc"])

    def _fill(self, spec: TrainingJob, folder: Path, final: Path) -> None:
        if spec.kind == "script":
            copy(source(spec, self.home), folder / "source")
        for name, given in (
            ("model", spec.outputs.model),
            ("checkpoints", spec.outputs.checkpoints),
            ("output", spec.outputs.data),
        ):
            _output(given, folder / name).mkdir(parents=True, exist_ok=True)
        environment.link_channels(folder, _inputs(spec))

    def _travels(self, spec: TrainingJob) -> tuple[Upload, ...]:
        if spec.kind != "script":
            return ()
        return (source(spec, self.home).upload("source", str(spec.source)),)

    def _outputs(self, row: sqlite3.Row) -> dict[str, str]:
        env = msgspec.json.decode(row["sheet"])["env"]
        return {
            name: env[variable]
            for name, variable in (
                ("model", "CLOUDAI_MODEL_DIR"),
                ("checkpoints", "CLOUDAI_CHECKPOINT_DIR"),
                ("output", "CLOUDAI_OUTPUT_DIR"),
            )
            if _filled(env[variable])
        }


def _filled(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _inputs(spec: TrainingJob) -> dict[str, Path]:
    return {name: _place(spec.input(name).uri) for name in spec.inputs}


def _output(given: str | None, default: Path) -> Path:
    return _place(given) if given else default


def _place(uri: str) -> Path:
    """The path; of a place elsewhere, which ``_path_problems`` tells of, some path for the plan."""
    return here(uri) or Path(uri)


def _script_problems(spec: TrainingJob, home: Path) -> list[CloudAIError]:
    if here(str(spec.source)) is None:
        return [no_uri("source", str(spec.source), _DOWNLOAD)]
    try:
        source(spec, home)
    except InvalidRequest as error:
        return [error]
    return []


def _path_problems(spec: TrainingJob) -> list[CloudAIError]:
    problems: list[CloudAIError] = []
    for name in spec.inputs:
        uri = spec.input(name).uri
        if here(uri) is None:
            problems.append(no_uri(f"inputs.{name}", uri, _DOWNLOAD))
        elif not local_path(uri).exists():
            problems.append(
                invalid(
                    f"inputs.{name}",
                    uri,
                    "does not exist",
                    f"Looked at {local_path(uri)}; give the path of a file or a directory.",
                )
            )
    for field in ("model", "checkpoints", "data"):
        given = getattr(spec.outputs, field)
        if given is None:
            continue
        if here(given) is None:
            problems.append(
                no_uri(f"outputs.{field}", given, "Give a path, and upload it afterwards.")
            )
        elif local_path(given).exists() and not local_path(given).is_dir():
            problems.append(invalid(f"outputs.{field}", given, "is a file", "Give a directory."))
    return problems
