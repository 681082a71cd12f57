"""Training jobs in Vertex AI's words: CustomJob (aiplatform v1).

Longer than other modules: one request, of which each function writes a part.
"""

from __future__ import annotations

import math
import re
from datetime import date
from typing import Any, Final

import msgspec

from cloudai._core import frameworks
from cloudai._core.files.paths import here
from cloudai._core.numerals import numeral, seconds
from cloudai.bootstrap import arguments, variable
from cloudai.errors import InvalidRequest
from cloudai.formats.native import merge
from cloudai.providers.vertex import catalog, common, images
from cloudai.providers.vertex.errors import no_capacity
from cloudai.providers.vertex.training.package import ARCHIVE, ROOT
from cloudai.types import JobStatus, Metric, State, TrainingJob, Violation

METRICS: Final = "CLOUDAI_METRICS"
"""The variable of a job that keeps its metric patterns, for whoever asks for its status."""

# CustomJobSpec.network (aiplatform v1): by the project's number.
_NETWORK: Final = re.compile(r"projects/[^/\s]+/global/networks/[^/\s]+\Z")

# "Training limits", Vertex AI quotas page (read 2025-11): a job runs 28 days at most.
MAX_TIMEOUT: Final = 28 * 24 * 3600

_UNPACK: Final = (
    'to="${TMPDIR:-/tmp}/cloudai" && mkdir -p "$to" && tar -xzf "$0" -C "$to" && '
    f'exec python3 "$to/{ROOT}/task.py" "$@"'
)


class Place(msgspec.Struct, frozen=True):
    """Where a job is made.

    Parameters
    ----------
    project, location: of the job. base: the gs:// URI below which all of its files lie.
    service_account, network: the profile's, or None.
    reserved: names of address ranges of the network, from which alone addresses are given.
    """

    project: str
    location: str
    base: str
    service_account: str | None = None
    network: str | None = None
    reserved: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        return f"{self.base}/source/{ARCHIVE}"

    def input(self, name: str) -> str:
        """Where an input that lies on this machine is put."""
        return f"{self.base}/inputs/{name}"


def violations(spec: TrainingJob, place: Place) -> list[Violation]:
    """What Vertex AI would refuse."""
    found: list[Violation] = []
    found += common.check_labels(spec.tags)
    try:
        machine = catalog.machine(spec.resources, place.location)
        if spec.kind == "script" and spec.image is None:
            images.choose(spec.framework, "training", gpu=machine.vendor is not None)
    except catalog.Unavailable as error:
        found.append(Violation("resources.accelerator", error.problem, error.mend))
    except InvalidRequest as error:
        found.append(Violation("framework", error.message, error.hint or ""))
    found += frameworks.check(spec)
    if place.location in {"global", "us", "eu"}:
        found.append(
            Violation("location", f"jobs do not run in {place.location!r}.", "Name a region.")
        )
    if place.network is not None and not _NETWORK.match(place.network):
        found.append(
            Violation(
                "network",
                f"{place.network!r} is not the name of a network.",
                "Such as projects/12345/global/networks/my-vpc.",
            )
        )
    if place.reserved and place.network is None:
        found.append(
            Violation("reserved_ip_ranges", "ranges of no network.", "Set network as well.")
        )
    if spec.timeout is not None and spec.timeout > MAX_TIMEOUT:
        found.append(
            Violation(
                "timeout", f"{numeral(spec.timeout)} s is more than {MAX_TIMEOUT} s (28 days)."
            )
        )
    for kind in spec.retry.on if spec.retry.max else ():
        if kind == "failed":
            found.append(
                Violation(
                    "retry.on",
                    "Vertex AI does not restart a script that failed.",
                    'Use on=("preempted",), or submit it again.',
                )
            )
        elif kind == "capacity":
            found.append(
                Violation(
                    "retry.on",
                    "Vertex AI does not try again for capacity.",
                    'Queue for it: native={"vertex": {"jobSpec": {"scheduling": '
                    '{"strategy": "FLEX_START"}}}}.',
                )
            )
    for name, ref in spec.secrets.items():
        if ref.store != "secretmanager":
            found.append(
                Violation(
                    f"secrets.{name}",
                    f"a job on Vertex AI cannot read from {ref.store!r}.",
                    "Put it into Secret Manager: store='secretmanager'.",
                )
            )
        elif spec.kind == "container":
            found.append(
                Violation(
                    f"secrets.{name}",
                    "nothing fetches secrets in a container of your own.",
                    "Read Secret Manager in it, or use kind='script'.",
                )
            )
    found += common.check_env(spec.env)
    for name in spec.inputs:
        uri = spec.input(name).uri
        if here(uri) is None and not uri.startswith("gs://"):
            found.append(
                Violation(f"inputs.{name}", f"{uri!r} is not read by Vertex AI.", "Use gs://.")
            )
    for name in ("model", "checkpoints", "data"):
        uri = getattr(spec.outputs, name)
        if uri is not None and not uri.startswith("gs://"):
            found.append(
                Violation(f"outputs.{name}", f"{uri!r} is not a gs:// URI.", "Leave it out.")
            )
    return found


def notes(spec: TrainingJob, location: str) -> list[str]:
    """What holds today and will not for long; ``spec`` has no violations."""
    if spec.kind != "script" or spec.image is not None:
        return []
    gpu = catalog.machine(spec.resources, location).vendor is not None
    ends = images.choose(spec.framework, "training", gpu=gpu).ends_soon(date.today())
    return [] if ends is None else [ends]


def dropped(spec: TrainingJob) -> list[str]:
    """What the spec asks for and Vertex AI does not carry."""
    found: list[str] = []
    if spec.retry.max:
        found.append("retry.max: Vertex AI itself decides how often it restarts a worker")
    flex = _strategy(spec) == "FLEX_START"
    if spec.spot is not None and spec.spot.max_wait is not None and not flex:
        found.append("spot.max_wait: only FLEX_START jobs have a limit of waiting")
    copied = [name for name in spec.inputs if spec.input(name).mode == "copy"]
    if spec.kind == "container" and copied:
        found.append(f"inputs {', '.join(copied)}: mounted, not copied, in a container of your own")
    if spec.kind == "container" and spec.hyperparameters:
        found.append("hyperparameters: as arguments and CLOUDAI_HPS; nothing else derives them")
    return found


def _strategy(spec: TrainingJob) -> str | None:
    native: Any = spec.native.get("vertex", {})
    for key in ("jobSpec", "scheduling", "strategy"):
        native = native.get(key) if isinstance(native, dict) else None
    return native


def staged(spec: TrainingJob, place: Place, name: str) -> str:
    """The gs:// URI of an input: its own, or where what lies on this machine is put. A file
    keeps its name."""
    uri = spec.input(name).uri
    path = here(uri)
    if path is None:
        return uri
    return f"{place.input(name)}/{path.name}" if path.is_file() else place.input(name)


def encode(spec: TrainingJob, place: Place) -> dict[str, Any]:
    """The CustomJob to create. ``spec`` has no violations."""
    machine = catalog.machine(spec.resources, place.location)
    pool: dict[str, Any] = {
        "machineSpec": {"machineType": machine.type},
        "replicaCount": "1",
        **_work(spec, place, machine),
    }
    if machine.vendor is not None:
        pool["machineSpec"]["acceleratorType"] = machine.vendor
        pool["machineSpec"]["acceleratorCount"] = machine.count
    if spec.resources.disk is not None:
        # The kind of disk is left to the service: not every machine takes every kind.
        pool["diskSpec"] = {"bootDiskSizeGb": max(100, math.ceil(spec.resources.disk))}
    pools = [pool]
    if spec.resources.nodes > 1:
        pools.append({**pool, "replicaCount": str(spec.resources.nodes - 1)})
    job: dict[str, Any] = {
        "workerPoolSpecs": pools,
        "baseOutputDirectory": {"outputUriPrefix": f"{place.base}/output"},
        "scheduling": _scheduling(spec),
    }
    if place.service_account is not None:
        job["serviceAccount"] = place.service_account
    if place.network is not None:
        job["network"] = place.network
    if place.reserved:
        job["reservedIpRanges"] = list(place.reserved)
    body = {
        "displayName": spec.name or "job",
        "jobSpec": job,
        "labels": common.labels(spec.tags, spec.idempotency_key, spec.name),
    }
    return merge(body, spec.native.get("vertex", {}))


def _scheduling(spec: TrainingJob) -> dict[str, Any]:
    scheduling: dict[str, Any] = {}
    if spec.timeout is not None:
        scheduling["timeout"] = seconds(spec.timeout)
    if spec.spot is not None:
        scheduling["strategy"] = "SPOT"
        if spec.spot.max_wait is not None and _strategy(spec) == "FLEX_START":
            scheduling["maxWaitDuration"] = seconds(spec.spot.max_wait)
    if spec.retry.max and "preempted" in spec.retry.on:
        scheduling["restartJobOnWorkerRestart"] = True
    else:
        # A failure is the user's to see, rather than six starts of it.
        scheduling["disableRetries"] = True
    return scheduling


def _work(spec: TrainingJob, place: Place, machine: catalog.Machine) -> dict[str, Any]:
    env = [{"name": name, "value": value} for name, value in environment(spec, place, machine)]
    made = arguments(spec.hyperparameters) if spec.hyperparameter_args else []
    args = [*spec.args, *made]
    if spec.kind == "container":
        container: dict[str, Any] = {"imageUri": spec.image, "env": env}
        if spec.command:
            container["command"] = list(spec.command)
        if args:
            container["args"] = args
        return {"containerSpec": container}
    args = [spec.entry or "", *args]
    uri = spec.image
    if uri is None:
        gpu = machine.vendor is not None
        uri = images.uri(images.choose(spec.framework, "training", gpu=gpu), place.location)
    return {
        "containerSpec": {
            "imageUri": uri,
            "command": ["sh", "-c", _UNPACK, _mounted(place.source)],
            "args": args,
            "env": env,
        }
    }


def environment(spec: TrainingJob, place: Place, machine: catalog.Machine) -> list[tuple[str, str]]:
    """The job's variables, in order."""
    env = dict(spec.env)
    copied: list[str] = []
    for name in spec.inputs:
        given = spec.input(name)
        env[variable("CLOUDAI_INPUT_", name)] = staged(spec, place, name)
        if given.mode == "copy":
            copied.append(name)
    env["CLOUDAI_HPS"] = _json(spec.hyperparameters)
    for name, uri, folder in (
        ("CLOUDAI_MODEL_DIR", spec.outputs.model, "model"),
        ("CLOUDAI_CHECKPOINT_DIR", spec.outputs.checkpoints, "checkpoints"),
        ("CLOUDAI_OUTPUT_DIR", spec.outputs.data, "output"),
    ):
        if uri is None and spec.kind == "container":
            uri = f"{place.base}/output/{folder}"  # a script's bootstrap finds it out there
        if uri is not None:
            env[name] = uri
    if spec.kind == "container":
        # Nothing derives paths in a container of one's own: the mounts are told as they are.
        env |= {name: _mounted(uri) for name, uri in env.items() if name.startswith("CLOUDAI_")}
    nproc = spec.resources.nproc or machine.count or 1
    if spec.framework.startswith("tensorflow") and spec.kind == "script":
        env["CLOUDAI_FRAMEWORK"] = "tensorflow"
    elif nproc > 1:
        env["CLOUDAI_NPROC"] = str(nproc)
    if spec.metrics:
        env[METRICS] = _json({metric.name: metric.regex for metric in spec.metrics})
    if spec.kind == "script":
        if copied:
            env["CLOUDAI_VERTEX_COPY"] = _json(copied)
        if spec.requirements is not None:
            env["CLOUDAI_REQUIREMENTS"] = spec.requirements
        if spec.secrets:
            env["CLOUDAI_VERTEX_SECRETS"] = _json(
                {
                    name: _secret(ref.name, ref.version, place.project)
                    for name, ref in spec.secrets.items()
                }
            )
    return sorted(env.items())


def _mounted(uri: str) -> str:
    """Where Vertex AI mounts a bucket's URI in every job."""
    return uri.replace("gs://", "/gcs/", 1) if uri.startswith("gs://") else uri


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _secret(name: str, version: str | None, project: str) -> str:
    resource = name if name.startswith("projects/") else f"projects/{project}/secrets/{name}"
    return f"{resource}/versions/{version or 'latest'}"


def _pool(job: dict[str, Any]) -> dict[str, Any]:
    pools = job.get("jobSpec", {}).get("workerPoolSpecs") or [{}]
    return pools[0]


def env_of(job: dict[str, Any]) -> dict[str, str]:
    """The variables of a CustomJob."""
    pool = _pool(job)
    work = pool.get("containerSpec") or pool.get("pythonPackageSpec") or {}
    return {one["name"]: one.get("value", "") for one in work.get("env", ())}


def metrics_of(job: dict[str, Any]) -> tuple[Metric, ...]:
    """The metric patterns of a CustomJob."""
    try:
        patterns = msgspec.json.decode(env_of(job).get(METRICS, "{}"), type=dict[str, str])
    except msgspec.DecodeError:
        return ()
    return tuple(Metric(name=name, regex=regex) for name, regex in patterns.items())


def hours(job: dict[str, Any], now: float) -> float | None:
    """US dollars so far, by the dated table; None where the machine is not in it."""
    began = common.seconds(job.get("startTime"))
    if began is None:
        return 0.0
    ended = common.seconds(job.get("endTime")) or now
    total = 0.0
    for pool in job.get("jobSpec", {}).get("workerPoolSpecs", ()):
        price = catalog.hour(pool.get("machineSpec", {}).get("machineType", ""))
        if price is None:
            return None
        total += price * int(pool.get("replicaCount") or 1)
    spot = job.get("jobSpec", {}).get("scheduling", {}).get("strategy") == "SPOT"
    return total * max(0.0, ended - began) / 3600 * (catalog.SPOT_SHARE if spot else 1.0)


def _uri(env: dict[str, str], name: str, otherwise: str) -> str:
    """The URI of what a variable names, by its mount or as it is."""
    given = env.get(name) or otherwise
    return given.replace("/gcs/", "gs://", 1) if given.startswith("/gcs/") else given


def status(job: dict[str, Any], now: float) -> JobStatus:
    """A CustomJob as a snapshot; ``now`` in Unix seconds."""
    native = str(job.get("state") or "JOB_STATE_UNSPECIFIED")
    state, reason, exit_code = common.ending(common.state(native), job.get("error"))
    if native == "JOB_STATE_PAUSED":
        reason = reason or "it is paused, and goes on when it is resumed"
    env = env_of(job)
    base = job.get("jobSpec", {}).get("baseOutputDirectory", {}).get("outputUriPrefix", "")
    base = base.rstrip("/")
    outputs: dict[str, str] = {}
    if base and state is not State.QUEUED:
        outputs["checkpoints"] = _uri(env, "CLOUDAI_CHECKPOINT_DIR", f"{base}/checkpoints")
    if base and state is State.SUCCEEDED:
        outputs["model"] = _uri(env, "CLOUDAI_MODEL_DIR", f"{base}/model")
        outputs["output"] = _uri(env, "CLOUDAI_OUTPUT_DIR", f"{base}/output")
    return JobStatus(
        id=str(job.get("name", "")),
        state=state,
        name=job.get("displayName"),
        idempotency_key=job.get("labels", {}).get(common.KEY_LABEL),
        reason=reason,
        native_state=native,
        created_at=common.seconds(job.get("createTime")),
        started_at=common.seconds(job.get("startTime")),
        ended_at=common.seconds(job.get("endTime")),
        exit_code=0 if state is State.SUCCEEDED else exit_code,
        outputs=outputs,
        cost=hours(job, now),
        capacity=state is State.FAILED and no_capacity(reason),
    )
