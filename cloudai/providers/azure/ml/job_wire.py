"""Command jobs: ``TrainingJob`` into the request, answers into snapshots. No I/O."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shlex
from typing import Any, Final

from cloudai._core import frameworks
from cloudai._core.metrics import MetricPatterns
from cloudai._core.numerals import numeral
from cloudai.bootstrap import arguments, variable
from cloudai.errors import CloudAIError, InvalidRequest
from cloudai.providers.azure.ml import images
from cloudai.providers.azure.ml.machines import machine
from cloudai.providers.azure.ml.workspace import datastore_uri
from cloudai.types import JobStatus, MetricPoint, State, TrainingJob, Violation

KEY: Final = "cloudai_key"
NAME: Final = "cloudai_name"
METRICS: Final = "cloudai.metrics"
TIMEOUT: Final = "cloudai.timeout"
BOOTSTRAP: Final = "_cloudai_bootstrap.py"
SOURCE: Final = "cloudai"
_EXIT: Final = re.compile(r"cloudai: exit code (\d+) after (\d+) s")
_LOG: Final = "ExperimentRun/dcid.{}/user_logs/"
LOGS: Final = (f"{_LOG}std_log.txt", f"{_LOG}std_log_process_{{}}.txt")
"""A job's log in the artifacts' datastore, and that of each process of a job that has several
(the guide "View and analyze logs", read 2026-11)."""
_GRACE: Final = 600
_OUTPUTS: Final = {"model": "model", "checkpoints": "checkpoints", "output": "data"}
"""The job's outputs, and the field of ``Outputs`` that places each."""

STATES: Final[dict[str, State]] = {
    "notstarted": State.QUEUED,
    "scheduled": State.QUEUED,
    "queued": State.QUEUED,
    "paused": State.QUEUED,
    "starting": State.STARTING,
    "provisioning": State.STARTING,
    "preparing": State.STARTING,
    "running": State.RUNNING,
    "finalizing": State.RUNNING,
    "cancelrequested": State.STOPPING,
    "completed": State.SUCCEEDED,
    "failed": State.FAILED,
    "canceled": State.CANCELLED,
}


def job_id(spec: TrainingJob) -> str:
    """The job's name in the workspace: what it is called, and a part of its key, so that a
    second submission with the key meets the first."""
    digest = hashlib.sha256((spec.idempotency_key or "").encode()).hexdigest()[:12]
    return f"{(spec.name or 'job')[:60]}-{digest}"


def violations(spec: TrainingJob) -> list[Violation]:
    """What the service would refuse, or what cannot be asked of it."""
    found: list[Violation] = []
    if spec.kind == "finetune":
        found.append(
            Violation(
                "kind",
                "finetune runs on Azure OpenAI.",
                "Use a profile without workspace, or a script.",
            )
        )
    native = spec.native.get("azure", {})
    for name in set(native) - {"compute", "environment", "experiment", "properties"}:
        mend = "There are: compute, environment, experiment, properties."
        found.append(Violation(f"native.azure.{name}", "is not known here.", mend))
    if "compute" not in native:
        try:
            machine(spec.resources)
        except CloudAIError as error:
            found.append(Violation("resources.accelerator", str(error)))
    found += frameworks.check(spec)
    try:
        environment(spec)
    except InvalidRequest as error:
        found.append(Violation("framework", error.message, error.hint or ""))
    if spec.secrets:
        found.append(
            Violation(
                "secrets",
                "cannot be handed over by the service.",
                "Read Key Vault in the script, with the job's identity.",
            )
        )
    if spec.spot is not None and spec.spot.require_checkpoint and not spec.outputs.checkpoints:
        found.append(
            Violation(
                "spot",
                "needs a place for checkpoints, or each restart begins from scratch.",
                'Set outputs.checkpoints="azureml://…", or spot.require_checkpoint=False.',
            )
        )
    for name in ("model", "checkpoints", "data"):
        uri = getattr(spec.outputs, name)
        if uri is not None and not uri.startswith(("azureml://", "https://", "abfss://")):
            found.append(Violation(f"outputs.{name}", f"{uri!r} is no azureml:// or https:// URI."))
    return found


def dropped(spec: TrainingJob) -> list[str]:
    """What the spec asks for and a command job cannot carry."""
    found: list[str] = []
    if spec.retry.max:
        found.append("retry: the service starts no failed job again; spot jobs it does")
    if spec.spot is not None and spec.spot.max_wait is not None:
        found.append("spot.max_wait: the service waits as long as it takes")
    if spec.resources.disk is not None:
        found.append("resources.disk: the machine's own")
    return found


def environment(spec: TrainingJob) -> dict[str, Any] | None:
    """The body of the environment to be made; None where one is named. Raises InvalidRequest for a
    framework without an image."""
    if "environment" in spec.native.get("azure", {}) or spec.kind == "finetune":
        return None
    gpu = spec.resources.accelerator is not None
    image = spec.image or images.job(spec.framework, gpu=gpu)
    return {"properties": {"image": image, "osType": "Linux"}}


def environment_name(body: dict[str, Any]) -> str:
    """A name that tells the environment's content."""
    text = json.dumps(body, sort_keys=True).encode()
    return f"cloudai-{hashlib.sha256(text).hexdigest()[:32]}"


def encode(
    spec: TrainingJob,
    *,
    code: str | None,
    environment: str,
    inputs: dict[str, str],
    compute: str | None,
) -> dict[str, Any]:
    """The body of ``PUT jobs/ID``.

    Parameters
    ----------
    code, environment, compute: ids in Resource Manager. inputs: URIs by name.
    """
    native = spec.native.get("azure", {})
    id = job_id(spec)
    places: dict[str, Any] = {}
    for name, field in _OUTPUTS.items():
        uri = getattr(spec.outputs, field) or datastore_uri(f"{SOURCE}/{id}/{name}")
        places[name] = {"jobOutputType": "uri_folder", "mode": "ReadWriteMount", "uri": uri}
    resources: dict[str, Any] = {"instanceCount": spec.resources.nodes}
    if compute is None:
        resources["instanceType"] = machine(spec.resources)
    variables = {**spec.env, "CLOUDAI_HPS": json.dumps(spec.hyperparameters)}
    if spec.resources.nproc is not None:
        variables["CLOUDAI_NPROC"] = str(spec.resources.nproc)
    kept: dict[str, str] = {
        **native.get("properties", {}),
        METRICS: json.dumps([[m.name, m.regex] for m in spec.metrics]),
    }
    properties: dict[str, Any] = {
        "jobType": "Command",
        "displayName": spec.name,
        "experimentName": native.get("experiment", "cloudai"),
        "command": command(spec, inputs),
        "environmentId": environment,
        "environmentVariables": variables,
        "inputs": {
            name: {
                "jobInputType": "uri_file" if _is_file(uri) else "uri_folder",
                "uri": uri,
                "mode": "Download" if spec.input(name).mode == "copy" else "ReadOnlyMount",
            }
            for name, uri in inputs.items()
        },
        "outputs": places,
        "resources": resources,
        "tags": {**spec.tags, KEY: spec.idempotency_key or "", NAME: spec.name or ""},
        "properties": kept,
    }
    if code is not None:
        properties["codeId"] = code
    if compute is not None:
        properties["computeId"] = compute
    tensorflow = spec.kind == "script" and spec.framework.startswith("tensorflow")
    if tensorflow:
        variables["CLOUDAI_FRAMEWORK"] = "tensorflow"
    if spec.resources.nodes > 1 and tensorflow:
        # The service tells each machine by TF_CONFIG.
        properties["distribution"] = {
            "distributionType": "TensorFlow",
            "workerCount": spec.resources.nodes,
        }
    elif spec.resources.nodes > 1:
        # One process a machine: the bootstrap starts torchrun there.
        properties["distribution"] = {
            "distributionType": "PyTorch",
            "processCountPerInstance": 1,
        }
    if spec.timeout is not None:
        kept[TIMEOUT] = numeral(spec.timeout)
        # The command ends itself in time; the service's limit is for a machine that hangs.
        limit = f"PT{int(spec.timeout) + _GRACE}S"
        properties["limits"] = {"jobLimitsType": "Command", "timeout": limit}
    if spec.spot is not None:
        properties["queueSettings"] = {"jobTier": "Spot"}
    return {"properties": properties}


def _is_file(uri: str) -> bool:
    last = uri.rstrip("/").rpartition("/")[2]
    return "." in last and not uri.endswith("/")


def command(spec: TrainingJob, inputs: dict[str, str]) -> str:
    """What the container's shell runs: the contract's variables, the script under its time
    limit, and a last line that tells the exit code, which the service keeps to itself."""
    places = [f'{variable("CLOUDAI_INPUT_", name)}="${{{{inputs.{name}}}}}"' for name in inputs]
    places += [
        f'{variable_name}="${{{{outputs.{output}}}}}"'
        for variable_name, output in (
            ("CLOUDAI_MODEL_DIR", "model"),
            ("CLOUDAI_CHECKPOINT_DIR", "checkpoints"),
            ("CLOUDAI_OUTPUT_DIR", "output"),
        )
    ]
    if spec.kind == "container":
        script = shlex.join(spec.command) if spec.command else "true"
    else:
        given = [str(spec.entry), *spec.args]
        if spec.hyperparameter_args:
            given += arguments(spec.hyperparameters)
        script = f"python {BOOTSTRAP} {shlex.join(given)}"
    limit = f"timeout -k 30 {numeral(spec.timeout)} " if spec.timeout is not None else ""
    install = ""
    if spec.kind == "script" and spec.requirements is not None:
        # Beside what the image has, as pip reads the file in the source.
        pip = "python -m pip install --no-input --disable-pip-version-check -r"
        install = f"{pip} {shlex.quote(spec.requirements)} && "
    return (
        f"begun=$(date +%s); {install}{limit}env {' '.join(places)} {script}; code=$?; "
        'echo "cloudai: exit code $code after $(( $(date +%s) - begun )) s"; exit $code'
    )


def logs_of(job: dict[str, Any]) -> list[str]:
    """Where a job's logs lie, one a machine."""
    properties = job["properties"]
    nodes = int((properties.get("resources") or {}).get("instanceCount") or 1)
    if not properties.get("distribution"):
        return [LOGS[0].format(job["name"])]
    return [LOGS[1].format(job["name"], number) for number in range(nodes)]


def status(job: dict[str, Any], log: str | None) -> JobStatus:
    """A snapshot.

    Parameters
    ----------
    log: the whole log of a job that has ended; None for others.
    """
    properties: dict[str, Any] = job["properties"]
    native = str(properties.get("status") or "NotStarted")
    state = STATES.get(native.lower(), State.UNKNOWN)
    kept: dict[str, str] = properties.get("properties") or {}
    tags: dict[str, str] = properties.get("tags") or {}
    about: dict[str, Any] = job.get("systemData") or {}
    created = _time(about.get("createdAt"))
    code: int | None = None
    reason: str | None = None
    tail: tuple[str, ...] = ()
    metrics: dict[str, tuple[MetricPoint, ...]] = {}
    ended = _time(about.get("lastModifiedAt")) if state.done else None
    if log is not None:
        lines = log.splitlines()
        # Of several machines that fails the job which failed first.
        told = sorted((int(code) == 0, int(took), int(code)) for code, took in _EXIT.findall(log))
        code = told[0][2] if told else None
        at = ended or created or 0.0
        patterns = MetricPatterns(json.loads(kept.get(METRICS) or "[]"))
        metrics = patterns.points((line, at) for line in lines)
        if state is State.FAILED:
            own = [line for line in lines if not _EXIT.fullmatch(line)]
            tail = tuple(own[-20:])
            reason = f"the command ended with exit code {code}" if code is not None else None
            # `timeout` ends with these, and so may the command itself; its seconds are whole.
            late = TIMEOUT in kept and told and told[0][1] + 1 >= float(kept[TIMEOUT])
            if code in {124, 137} and late:
                state, code = State.TIMED_OUT, None
                reason = f"it ran longer than its timeout of {kept[TIMEOUT]} s"
    outputs: dict[str, str] = {}
    if state is State.SUCCEEDED:
        # The service does not always say where it put one that was not told where (azure-ai-ml
        # 1.35, ``JobOperations._get_named_output_uri``, looks in this place).
        outputs = {
            name: str((one or {}).get("uri") or datastore_uri(f"azureml/{job['name']}/{name}"))
            for name, one in (properties.get("outputs") or {}).items()
        }
    return JobStatus(
        id=str(job["name"]),
        state=state,
        name=tags.get(NAME) or properties.get("displayName"),
        idempotency_key=tags.get(KEY) or None,
        reason=reason or (properties.get("error") or {}).get("message"),
        native_state=native,
        created_at=created,
        ended_at=ended,
        exit_code=code,
        outputs=outputs,
        metrics=metrics,
        log_tail=tail,
    )


def _time(text: Any) -> float | None:
    if not text:
        return None
    return datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
