"""Batch transforms on this machine: the batch runner in a supervised process.

The worker keeps its progress beside the output, so that a worker that was killed is started
again by its supervisor (``retry``, 2 times unless the spec says otherwise) and goes on, and a
batch whose supervisor was killed goes on when it is submitted again. A batch of the same name
and spec that ended without success is run on under its own id.

``predict`` is called from one thread: a handler of PyTorch uses all cores by itself.
``concurrency`` counts for endpoints.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.batches import spool, transforms
from cloudai._core.batches.runner import check_paths
from cloudai._core.files.paths import here, local_path
from cloudai._core.handlers.handler import find_handler
from cloudai.engine import openmp
from cloudai.errors import CloudAIError, Conflict, InvalidRequest
from cloudai.providers.local.jobs import checks, launch
from cloudai.providers.local.jobs.base import GRACE, LocalJobs, module_command
from cloudai.providers.local.jobs.checks import no_uri
from cloudai.providers.local.profile import describe
from cloudai.types import BatchTransform
from cloudai.types._base import invalid

_WORKER: Final = "cloudai.providers.local.jobs.batch_worker"
_DOWNLOAD: Final = "Download it first and give its path."
_UNFINISHED: Final = frozenset({"FAILED", "CANCELLED", "TIMED_OUT", "PREEMPTED"})


class LocalBatch(LocalJobs[BatchTransform]):
    """``Jobs[BatchTransform]`` on this machine."""

    kind = "batch"

    def _problems(self, spec: BatchTransform) -> list[CloudAIError]:
        problems = checks.platform(spec.image)
        paths = _paths(spec)
        uris = [no_uri(field, value, _DOWNLOAD) for field, value in paths if here(value) is None]
        problems += uris
        if not uris:
            problems += _file_problems(spec)
        if spec.requirements is not None and not local_path(spec.requirements).is_file():
            problems.append(
                invalid(
                    "requirements",
                    spec.requirements,
                    "is not a file",
                    f"Looked at {local_path(spec.requirements)}.",
                )
            )
        try:
            if spec.chat is not None:
                transforms.chat_request(spec.chat, spec.params)
            elif spec.embeddings is not None:
                transforms.embedding_request(spec.embeddings, spec.params)
        except InvalidRequest as error:
            problems.append(error)
        return [
            *problems,
            *checks.accelerator(spec.resources, self.device),
            *checks.secrets(spec.secrets),
        ]

    def _dropped(self, spec: BatchTransform) -> list[str]:
        dropped = checks.dropped(spec)
        if spec.shards > 1:
            dropped.append(f"shards={spec.shards}: one process, which uses all cores")
        return dropped

    def _resolved(self, spec: BatchTransform) -> BatchTransform:
        changes: dict[str, Any] = {
            "input": str(local_path(spec.input)),
            "output": str(local_path(spec.output)),
        }
        if spec.model_uri is not None:
            changes["model"] = str(local_path(spec.model_uri))
        if spec.handler is not None:
            changes["handler"] = str(local_path(spec.handler))
        return msgspec.structs.replace(spec, **changes)

    def _sheet(self, spec: BatchTransform, folder: Path) -> dict[str, Any]:
        gpus = checks.gpus_for(spec.resources, self.device)
        env = {"PYTHONUNBUFFERED": "1", "CLOUDAI_JOB_ID": folder.name}
        openmp.short(env)
        if spec.resources.cpus is not None:
            env["OMP_NUM_THREADS"] = str(spec.resources.cpus)
        if gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        return {
            "python": sys.executable,
            "script": [*module_command(_WORKER), str(self.home), folder.name],
            "nproc": 1,
            # A model's relative path means what it meant to the client.
            "cwd": os.getcwd(),
            "env": {**env, **spec.env},
            "secrets": {name: msgspec.to_builtins(ref) for name, ref in spec.secrets.items()},
            "profile": describe(self.profile),
            "requirements": str(local_path(spec.requirements)) if spec.requirements else None,
            "retry": {"max": spec.retry.max, "on": list(spec.retry.on)},
            "timeout": spec.timeout,
            "metrics": [],
            "grace": GRACE,
            "spot": False,
        }

    def _command(self, sheet: dict[str, Any]) -> list[str]:
        return launch.command(sheet["python"], sheet["script"], sheet["nproc"])

    def _fill(self, spec: BatchTransform, folder: Path, final: Path) -> None:
        local_path(spec.output).parent.mkdir(parents=True, exist_ok=True)

    def _again(self, spec: BatchTransform, row: sqlite3.Row) -> bool:
        if row["state"] not in _UNFINISHED:
            return False
        if row["key"] == spec.idempotency_key and row["native_state"] != "lost":
            return False
        before = msgspec.json.decode(row["spec"])
        now = msgspec.json.decode(msgspec.json.encode(self._resolved(spec)))
        return {**before, "idempotency_key": None} == {**now, "idempotency_key": None}

    def _outputs(self, row: sqlite3.Row) -> dict[str, str]:
        if row["state"] not in {"SUCCEEDED", "PARTIAL"}:
            return {}
        spec = json.loads(row["spec"])
        found = {"output": spec["output"]}
        errors = f"{spec['output']}.errors.jsonl"
        if row["errors"] and spec.get("on_error") == "dead_letter" and os.path.exists(errors):
            found["errors"] = errors
        return found

    def _removed(self, row: sqlite3.Row) -> None:
        spool.forget(Path(json.loads(row["spec"])["output"]), row["id"])


def _paths(spec: BatchTransform) -> list[tuple[str, str]]:
    given = {
        "input": spec.input,
        "output": spec.output,
        "model": spec.model_uri,
        "handler": spec.handler,
    }
    return [(field, value) for field, value in given.items() if value is not None]


def _file_problems(spec: BatchTransform) -> list[CloudAIError]:
    problems: list[CloudAIError] = []
    try:
        _, output = check_paths(spec)
        # With progress beside it, the output may be this batch's own: the runner finds out.
        if output.exists() and not spec.overwrite and not spool.path_of(output).exists():
            problems.append(
                Conflict(
                    f"the output {output} exists",
                    provider="local",
                    hint="Use overwrite=True to replace it, or name another output.",
                )
            )
    except InvalidRequest as error:
        problems.append(error)
    if spec.model_uri is not None:
        handler = None if spec.handler is None else local_path(spec.handler)
        try:
            find_handler(local_path(spec.model_uri), handler)
        except InvalidRequest as error:
            problems.append(error)
    return problems
