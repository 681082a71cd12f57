"""SageMaker's CreateTrainingJob: the request; and DescribeTrainingJob: the snapshot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cloudai import bootstrap
from cloudai._core.files.paths import here
from cloudai._core.numerals import numeral
from cloudai.errors import UnsupportedByProvider
from cloudai.formats.native import merge
from cloudai.providers.aws import catalog, common
from cloudai.types import JobStatus, MetricPoint, State, TrainingJob
from cloudai.types._base import invalid

# Limits of CreateTrainingJob that botocore's model does not hold (API reference and SageMaker
# quotas, read 2026-11).
DEFAULT_RUNTIME: Final = 86_400
"""Seconds; SageMaker's own default."""
MAX_RUNTIME: Final = 28 * 86_400
DEFAULT_DISK: Final = 30
"""GiB; enough for the framework images' layers and a small data set."""

CODE: Final = "code"
SOURCE: Final = "source.tar.gz"

_ENTRYPOINT: Final = (
    "set -e; mkdir -p /opt/ml/code; tar -xzf /opt/ml/input/data/code/source.tar.gz "
    "-C /opt/ml/code; cd /opt/ml/code; "
    'exec "$(command -v python3 || command -v python)" cloudai_start.py'
)
"""Unpacks the source and becomes its start; each word of an entrypoint ends at 256 characters."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job's things go, and what it works under; from the profile.

    Parameters
    ----------
    role: its ARN. base: the job's own prefix, ``s3://bucket/cloudai/NAME``.
    image: of its container. machines: instance types, in order of preference.
    """

    role: str
    base: str
    image: str
    machines: list[str]
    kms_key: str | None = None
    vpc: dict[str, list[str]] | None = None


def channel_uri(spec: TrainingJob, name: str, base: str) -> str:
    """Where SageMaker finds an input: its own URI, or where a local one is put."""
    uri = spec.input(name).uri
    return uri if uri.startswith("s3://") else f"{base}/input/{name}/"


def request(spec: TrainingJob, place: Place) -> dict[str, Any]:
    """The arguments of CreateTrainingJob."""
    runtime = DEFAULT_RUNTIME if spec.timeout is None else math.ceil(spec.timeout)
    algorithm: dict[str, Any] = {"TrainingImage": place.image, "TrainingInputMode": "File"}
    if spec.kind == "script":
        algorithm["ContainerEntrypoint"] = ["/bin/sh", "-c", _ENTRYPOINT]
    else:
        if spec.command:
            algorithm["ContainerEntrypoint"] = list(spec.command)
        if spec.args:
            algorithm["ContainerArguments"] = list(spec.args)
    if spec.metrics:
        algorithm["MetricDefinitions"] = [
            {"Name": metric.name, "Regex": metric.regex} for metric in spec.metrics
        ]
    body: dict[str, Any] = {
        "TrainingJobName": spec.name,
        "AlgorithmSpecification": algorithm,
        "RoleArn": place.role,
    }
    if spec.hyperparameters:
        body["HyperParameters"] = {
            name: _hyperparameter(value, spec.kind) for name, value in spec.hyperparameters.items()
        }
    channels = [_channel(name, spec, place.base) for name in spec.inputs]
    if spec.kind == "script":
        channels.append(_s3_channel(CODE, f"{place.base}/{CODE}/", "File"))
    if channels:
        body["InputDataConfig"] = channels
    output: dict[str, Any] = {"S3OutputPath": spec.outputs.model or f"{place.base}/output"}
    if place.kms_key is not None:
        output["KmsKeyId"] = place.kms_key
    body["OutputDataConfig"] = output
    body["ResourceConfig"] = _resources(spec, place)
    stopping: dict[str, int] = {"MaxRuntimeInSeconds": runtime}
    body["StoppingCondition"] = stopping
    checkpoints = spec.outputs.checkpoints or f"{place.base}/checkpoints"
    body["CheckpointConfig"] = {"S3Uri": checkpoints, "LocalPath": "/opt/ml/checkpoints"}
    if spec.spot is not None:
        body["EnableManagedSpotTraining"] = True
        wait = spec.spot.max_wait
        # Without a word on it: as long again as the job itself may run.
        most = min(2 * runtime, MAX_RUNTIME) if wait is None else math.ceil(wait)
        stopping["MaxWaitTimeInSeconds"] = max(most, runtime) if wait is None else most
    env = _environment(spec, place)
    if env:
        body["Environment"] = env
    if spec.retry.max:
        body["RetryStrategy"] = {"MaximumRetryAttempts": spec.retry.max}
    if place.vpc is not None:
        body["VpcConfig"] = place.vpc
    body["Tags"] = common.tags(spec.tags, spec.idempotency_key, spec.name or "", "training")
    return merge(body, spec.native.get("aws", {}))


def _hyperparameter(value: Any, kind: str) -> str:
    # As JSON a script gets the value with its type; a container of one's own (SageMaker's built-in
    # algorithms, say) wants a text bare.
    if kind == "container" and isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _resources(spec: TrainingJob, place: Place) -> dict[str, Any]:
    nodes = spec.resources.nodes
    made: dict[str, Any] = {"VolumeSizeInGB": math.ceil(spec.resources.disk or DEFAULT_DISK)}
    if len(place.machines) > 1 and spec.spot is None:
        # SageMaker itself takes the first one that has capacity.
        made["InstancePreferences"] = [
            {"InstanceType": name, "InstanceCount": nodes} for name in place.machines
        ]
    else:
        made |= {"InstanceType": place.machines[0], "InstanceCount": nodes}
    volumes = common.volume_key(place.kms_key, place.machines)
    if volumes is not None:
        made["VolumeKmsKeyId"] = volumes
    return made


def machines(body: Mapping[str, Any]) -> list[str]:
    """The instance types that a request asks for, the first choice first."""
    about = body["ResourceConfig"]
    if "InstanceType" in about:
        return [about["InstanceType"]]
    found = about.get("InstancePreferences") or about.get("InstanceGroups", ())
    return [row["InstanceType"] for row in found]


def _channel(name: str, spec: TrainingJob, base: str) -> dict[str, Any]:
    given = spec.input(name)
    mode = {"copy": "File", "stream": "FastFile", "mount": "FastFile"}[given.mode]
    return _s3_channel(name, channel_uri(spec, name, base), mode)


def _s3_channel(name: str, uri: str, mode: str) -> dict[str, Any]:
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": uri,
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def _environment(spec: TrainingJob, place: Place) -> dict[str, str]:
    env = dict(spec.env)
    if spec.kind == "container":
        return _contract(spec) | env
    if spec.framework.startswith("tensorflow"):
        env["CLOUDAI_FRAMEWORK"] = "tensorflow"
    else:
        machine = catalog.MACHINES.get(place.machines[0])
        # Which of several machines it will be is known there alone: the start counts its GPUs.
        known = machine.chips if machine is not None and len(place.machines) == 1 else 0
        nproc = spec.resources.nproc or known
        if nproc:
            env.setdefault("CLOUDAI_NPROC", str(nproc))
    return env


_ML: Final = "/opt/ml"
_VALUE: Final = 512
"""Characters in a variable's value at most (TrainingEnvironmentValue, botocore)."""


def _contract(spec: TrainingJob) -> dict[str, str]:
    """The variables of the in-job contract for a container of one's own: nothing derives them
    there. What SageMaker does not carry is in its own /opt/ml/input/config."""
    inputs = {
        name: "/".join([f"{_ML}/input/data/{name}", *single(spec, name)]) for name in spec.inputs
    }
    env = bootstrap.contract(
        inputs=inputs,
        model=f"{_ML}/model",
        checkpoints=f"{_ML}/checkpoints",
        output=f"{_ML}/output/data",
        hyperparameters=spec.hyperparameters,
    )
    return {name: value for name, value in env.items() if len(value) <= _VALUE}


def single(spec: TrainingJob, name: str) -> list[str]:
    """The file's name of an input that is one file, which SageMaker puts into the channel's
    folder; empty for a folder. An object in S3 is taken for a file by the dot in its name."""
    uri = spec.input(name).uri
    path = here(uri)
    if path is not None:
        return [path.name] if path.is_file() else []
    last = uri.rpartition("/")[2]
    return [last] if "." in last else []


def job_file(spec: TrainingJob, region: str, fabric: Mapping[str, Mapping[str, str]]) -> bytes:
    """``cloudai_job.json``, which tells the container's start what to do.

    Parameters
    ----------
    fabric: the network's variables by instance type, for jobs of several machines.
    """
    script = [spec.entry or "", *spec.args]
    if spec.hyperparameter_args:
        script += bootstrap.arguments(spec.hyperparameters)
    return msgspec.json.encode(
        {
            "script": script,
            "requirements": spec.requirements,
            "secrets": {
                name: {"store": ref.store, "name": ref.name, "version": ref.version}
                for name, ref in spec.secrets.items()
            },
            "region": region,
            "files": {name: file for name in spec.inputs for file in single(spec, name)},
            "fabric": fabric,
        }
    )


FIELDS: Final[Mapping[str, str]] = {
    "TrainingJobName": "name",
    "HyperParameters": "hyperparameters",
    "InputDataConfig": "inputs",
    "Environment": "env",
    "Tags": "tags",
    "ResourceConfig.InstanceCount": "resources.nodes",
    "ResourceConfig.VolumeSizeInGB": "resources.disk",
    "AlgorithmSpecification.MetricDefinitions": "metrics",
    "AlgorithmSpecification.ContainerEntrypoint": "command",
    "AlgorithmSpecification.ContainerArguments": "args",
    "AlgorithmSpecification.TrainingImage": "image",
    "RetryStrategy": "retry.max",
    "OutputDataConfig.S3OutputPath": "outputs.model",
    "CheckpointConfig": "outputs.checkpoints",
    "StoppingCondition": "timeout",
    "RoleArn": "role",
}
"""Parts of the request → the spec's fields, for what AWS's model would refuse."""

_SECONDARY: Final[dict[str, State]] = {
    "MaxRuntimeExceeded": State.TIMED_OUT,
    "MaxWaitTimeExceeded": State.EXPIRED,
    "Interrupted": State.QUEUED,
    "Pending": State.QUEUED,
    "Starting": State.STARTING,
    "Restarting": State.STARTING,
    "LaunchingMLInstances": State.STARTING,
    "PreparingTrainingStack": State.STARTING,
    "Downloading": State.STARTING,
    "DownloadingTrainingImage": State.STARTING,
    "Training": State.RUNNING,
    "Updating": State.RUNNING,
    "Uploading": State.RUNNING,
}
_STATUS: Final[dict[str, State]] = {
    "Completed": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Stopping": State.STOPPING,
    "Stopped": State.CANCELLED,
    "Deleting": State.STOPPING,
}
_EXIT: Final = re.compile(r"exit ?code:? *(\d+)", re.IGNORECASE)


def state(status: str, secondary: str) -> State:
    """The neutral state. ``Stopped`` alone would hide that time had run out."""
    if status in {"InProgress", "Stopped"} and secondary in _SECONDARY:
        return _SECONDARY[secondary]
    return _STATUS.get(status, State.UNKNOWN)


def seconds(value: Any) -> float | None:
    """A time of boto3 as Unix seconds."""
    return None if value is None else value.timestamp()


def status(described: Mapping[str, Any], metrics: dict[str, tuple[MetricPoint, ...]]) -> JobStatus:
    """The snapshot that DescribeTrainingJob gives."""
    native, secondary = described["TrainingJobStatus"], described.get("SecondaryStatus", "")
    found = state(native, secondary)
    reason = described.get("FailureReason")
    exit_code = _EXIT.search(reason) if reason else None
    history = described.get("SecondaryStatusTransitions", ())
    if found is State.TIMED_OUT:
        limit = described.get("StoppingCondition", {}).get("MaxRuntimeInSeconds")
        reason = f"MaxRuntimeExceeded: it ran longer than its {limit} s"
    elif found is State.EXPIRED:
        reason = "MaxWaitTimeExceeded: it got no spot capacity in time"
    outputs: dict[str, str] = {}
    if found is State.SUCCEEDED:
        model = described.get("ModelArtifacts", {}).get("S3ModelArtifacts")
        if model:
            outputs["model"] = model
            outputs["output"] = model.removesuffix("model.tar.gz") + "output.tar.gz"
    checkpoints = described.get("CheckpointConfig", {}).get("S3Uri")
    if checkpoints:
        outputs["checkpoints"] = checkpoints
    return JobStatus(
        id=described["TrainingJobName"],
        name=described["TrainingJobName"],
        state=found,
        reason=reason,
        native_state=f"{native}/{secondary}" if secondary else native,
        created_at=seconds(described.get("CreationTime")),
        started_at=seconds(described.get("TrainingStartTime")),
        ended_at=seconds(described.get("TrainingEndTime")),
        exit_code=int(exit_code[1]) if exit_code else 0 if found is State.SUCCEEDED else None,
        restarts=sum(1 for step in history if step["Status"] in {"Interrupted", "Restarting"}),
        outputs=outputs,
        metrics=metrics,
        cost=_cost(described),
        capacity=found is State.FAILED and common.no_capacity(reason),
    )


def _cost(described: Mapping[str, Any]) -> float | None:
    """Dollars for the billable seconds; None for spot, whose price moves."""
    billed = described.get("BillableTimeInSeconds")
    about = described.get("ResourceConfig", {})
    name = about.get("SelectedInstanceType") or about.get("InstanceType", "")
    price = catalog.price(name)
    if billed is None or price is None:
        return None
    if described.get("EnableManagedSpotTraining"):
        return None
    count = about.get("SelectedInstanceCount") or about.get("InstanceCount", 1)
    return round(billed / 3600 * price * count, 6)


def check_retry(spec: TrainingJob) -> None:
    """Refuses to start anew for want of machines: RetryStrategy is for internal errors of the
    service (CreateTrainingJob, API reference, read 2026-11)."""
    if spec.retry.max and "capacity" in spec.retry.on:
        raise UnsupportedByProvider(
            "retry.on='capacity'",
            provider="aws",
            alternative="Submit again after JobCapacityError, or name more in resources.any_of",
            field="retry.on",
        )


def check_spot(spec: TrainingJob) -> None:
    """Refuses a wait that is shorter than the run."""
    if spec.spot is None or spec.spot.max_wait is None:
        return
    runtime = DEFAULT_RUNTIME if spec.timeout is None else spec.timeout
    if spec.spot.max_wait < runtime:
        raise invalid(
            "spot.max_wait",
            spec.spot.max_wait,
            f"is below the {numeral(runtime)} s that the job may run",
            "It counts the running time in: give more, or a shorter timeout.",
        )
