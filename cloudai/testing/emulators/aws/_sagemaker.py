"""SageMaker's control plane: jobs with a life, models, endpoint configs, endpoints."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any, Final

from cloudai.testing.emulators.aws import _named_fates, _stores
from cloudai.testing.emulators.aws._state import ACCOUNT, STATE, Refused, ScriptedRun, Snapshot

_ARN: Final = {
    "TrainingJob": "training-job",
    "TransformJob": "transform-job",
    "Model": "model",
    "EndpointConfig": "endpoint-config",
    "Endpoint": "endpoint",
}
"""SageMaker's kinds, and what their ARNs call them."""


def invalid(text: str) -> Refused:
    return Refused("ValidationException", text)


def _arn(region: str, kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{_ARN[kind]}/{name}"


def new(region: str, kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Puts a resource of this kind into the account; its parameters are its description."""
    name = parameters[f"{kind}Name"]
    if STATE.get(region, kind, name) is not None:
        code = "ResourceInUse" if kind.endswith("Job") else "ValidationException"
        raise Refused(
            code, f"Cannot create already existing {_ARN[kind]} {_arn(region, kind, name)!r}."
        )
    now = STATE.now()
    made = {
        **{key: value for key, value in parameters.items() if key != "Tags"},
        "Arn": _arn(region, kind, name),
        f"{kind}Arn": _arn(region, kind, name),
        "CreationTime": STATE.wall(now),
        "LastModifiedTime": STATE.wall(now),
        "Tags": list(parameters.get("Tags", [])),
    }
    STATE.put(region, kind, name, made)
    return made


def existing(region: str, kind: str, name: str) -> dict[str, Any]:
    found = STATE.get(region, kind, name)
    if found is None:
        if kind.endswith("Job"):
            raise invalid("Requested resource not found.")
        raise invalid(f'Could not find {_ARN[kind]} "{_arn(region, kind, name)}".')
    return found


def must_exist(uri: str, what: str) -> None:
    bucket, _ = _stores.split(uri)
    if not _stores.has_bucket(bucket):
        raise invalid(f"{what}: the bucket of {uri} does not exist")


# Training.


def create_training_job(region: str, parameters: dict[str, Any]) -> Any:
    about = parameters.get("AlgorithmSpecification", {})
    if ("TrainingImage" in about) == ("AlgorithmName" in about):
        raise invalid("Exactly one of TrainingImage and AlgorithmName has to be given")
    if "ResourceConfig" not in parameters or "StoppingCondition" not in parameters:
        raise invalid("ResourceConfig and StoppingCondition are required")
    limits = parameters["StoppingCondition"]
    if parameters.get("EnableManagedSpotTraining"):
        if limits.get("MaxWaitTimeInSeconds", 0) < limits.get("MaxRuntimeInSeconds", 86400):
            raise invalid("MaxWaitTimeInSeconds must be at least MaxRuntimeInSeconds")
    elif "MaxWaitTimeInSeconds" in limits:
        raise invalid("MaxWaitTimeInSeconds is for EnableManagedSpotTraining alone")
    for channel in parameters.get("InputDataConfig", []):
        source = channel["DataSource"].get("S3DataSource")
        if source is not None and not _stores.under(source["S3Uri"]):
            raise invalid(f"No S3 objects found under S3 URL {source['S3Uri']!r} given in input "
                          "data source.")  # fmt: skip
    must_exist(parameters["OutputDataConfig"]["S3OutputPath"], "OutputDataConfig")
    made = new(region, "TrainingJob", parameters)
    key = (region, "TrainingJob", parameters["TrainingJobName"])
    told = _named_fates.fate("training", "SageMaker")
    if told is not None:  # it is not run
        STATE.runs[key] = ScriptedRun(told, parameters, STATE.now())
    else:
        STATE.runs[key] = STATE.executor.train({**parameters}, STATE)
    return {"TrainingJobArn": made["Arn"]}


def looked(region: str, name: str) -> tuple[dict[str, Any], Snapshot]:
    job = existing(region, "TrainingJob", name)
    if "Ended" in job:
        return job, job["Ended"]
    look: Snapshot = STATE.runs[(region, "TrainingJob", name)].look(STATE.now())
    logged = job.setdefault("Logged", {})
    for host in sorted({host for _, _, host in look.logs}):
        lines = [(at, text) for at, text, where in look.logs if where == host]
        stream = f"{name}/{host}-1700000000"
        logged[host] = _stores.log(
            region, "/aws/sagemaker/TrainingJobs", stream, lines, logged.get(host, 0)
        )
    if look.ended is not None:
        job["Ended"] = look
        checkpoints = job.get("CheckpointConfig", {}).get("S3Uri")
        for path, data in look.checkpoints.items() if checkpoints else ():
            _stores.write(f"{checkpoints.rstrip('/')}/{path}", data)
        # SageMaker keeps the model of a job that was stopped or ran out of time, too.
        if look.files:
            _stores.write(_artifacts(job), _stores.tarred(look.files))
        if look.outputs:
            beside = _artifacts(job).removesuffix("model.tar.gz") + "output.tar.gz"
            _stores.write(beside, _stores.tarred(look.outputs))
    return job, look


def _artifacts(job: dict[str, Any]) -> str:
    base = job["OutputDataConfig"]["S3OutputPath"].rstrip("/")
    return f"{base}/{job['TrainingJobName']}/output/model.tar.gz"


def describe_training_job(region: str, parameters: dict[str, Any]) -> Any:
    job, look = looked(region, parameters["TrainingJobName"])
    made: dict[str, Any] = {
        key: value for key, value in job.items() if key not in {"Arn", "Tags", "Ended", "Logged"}
    }
    made |= {
        "TrainingJobStatus": look.status,
        "SecondaryStatus": look.secondary,
        "SecondaryStatusTransitions": _transitions(job, look),
        "ModelArtifacts": {"S3ModelArtifacts": _artifacts(job)},  # botocore: always there
    }
    if look.started is not None:
        made["TrainingStartTime"] = STATE.wall(look.started)
    if look.ended is not None:
        made["TrainingEndTime"] = STATE.wall(look.ended)
        seconds = int(look.ended - (look.started or look.ended))
        made["TrainingTimeInSeconds"] = made["BillableTimeInSeconds"] = seconds
    if look.reason is not None:
        made["FailureReason"] = look.reason
    return made


def _transitions(job: dict[str, Any], look: Snapshot) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"Status": "Starting", "StartTime": job["CreationTime"]}]
    at = STATE.wall(look.started) or job["CreationTime"]
    for _ in range(look.interruptions):
        found.append({"Status": "Training", "StartTime": at})
        found.append({"Status": "Interrupted", "StartTime": at})
    if look.started is not None:
        found.append({"Status": "Training", "StartTime": at})
    if found[-1]["Status"] != look.secondary:
        found.append({"Status": look.secondary, "StartTime": STATE.wall(look.ended) or at})
    return found


def stop_training_job(region: str, parameters: dict[str, Any]) -> Any:
    name = parameters["TrainingJobName"]
    _, look = looked(region, name)
    if look.ended is not None:
        raise invalid(
            f"The request was rejected because the training job is in status {look.status}."
        )
    STATE.runs[(region, "TrainingJob", name)].stop(STATE.now())


def delete_training_job(region: str, parameters: dict[str, Any]) -> Any:
    name = parameters["TrainingJobName"]
    _, look = looked(region, name)
    if look.ended is None:
        raise Refused("ResourceInUse", f"The training job is in status {look.status}.")
    STATE.drop(region, "TrainingJob", name)


def list_training_jobs(region: str, parameters: dict[str, Any]) -> Any:
    found: list[dict[str, Any]] = []
    for one in listed(region, "TrainingJob", parameters):
        job, look = looked(region, one["TrainingJobName"])
        found.append(
            {
                **summary(job, "TrainingJob"),
                "TrainingJobStatus": look.status,
                "SecondaryStatus": look.secondary,
                "TrainingEndTime": STATE.wall(look.ended),
            }
        )
    return {"TrainingJobSummaries": found}


def listed(region: str, kind: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    word = parameters.get("NameContains", "")
    return [one for one in STATE.of(region, kind) if word.lower() in one[f"{kind}Name"].lower()]


def summary(value: dict[str, Any], kind: str) -> dict[str, Any]:
    names = (f"{kind}Name", f"{kind}Arn", "CreationTime", "LastModifiedTime")
    return {name: value[name] for name in names if name in value}


# Models and endpoint configs.


def create_model(region: str, parameters: dict[str, Any]) -> Any:
    containers = [*parameters.get("Containers", [])]
    if "PrimaryContainer" in parameters:
        containers.append(parameters["PrimaryContainer"])
    if not containers or "ExecutionRoleArn" not in parameters:
        raise invalid("A container and ExecutionRoleArn are required")
    for container in containers:
        uri = container.get("ModelDataUrl")
        if uri is not None and _stores.read(uri) is None:
            raise invalid(f"Could not find model data at {uri}.")
        source = container.get("ModelDataSource", {}).get("S3DataSource")
        if source is not None and not _stores.under(source["S3Uri"]):
            raise invalid(f"Could not find model data at {source['S3Uri']}.")
    return {"ModelArn": new(region, "Model", parameters)["Arn"]}


def create_endpoint_config(region: str, parameters: dict[str, Any]) -> Any:
    for variant in parameters.get("ProductionVariants", []):
        existing(region, "Model", variant["ModelName"])
        if ("ServerlessConfig" in variant) == ("InstanceType" in variant):
            raise invalid("Exactly one of ServerlessConfig and InstanceType has to be given")
        if "InstanceType" in variant and "InitialInstanceCount" not in variant:
            raise invalid("InitialInstanceCount is required with InstanceType")
    made = new(region, "EndpointConfig", parameters)
    return {"EndpointConfigArn": made["Arn"]}


def _describe(kind: str) -> Callable[[str, dict[str, Any]], Any]:
    def describe(region: str, parameters: dict[str, Any]) -> Any:
        one = existing(region, kind, parameters[f"{kind}Name"])
        return {key: value for key, value in one.items() if key not in {"Arn", "Tags"}}

    return describe


def _delete(kind: str) -> Callable[[str, dict[str, Any]], Any]:
    def delete(region: str, parameters: dict[str, Any]) -> Any:
        name = parameters[f"{kind}Name"]
        existing(region, kind, name)
        STATE.drop(region, kind, name)

    return delete


def _list(kind: str) -> Callable[[str, dict[str, Any]], Any]:
    def list_(region: str, parameters: dict[str, Any]) -> Any:
        found = [summary(one, kind) for one in listed(region, kind, parameters)]
        return {f"{kind}s": found}

    return list_


# Endpoints.


# Tags.


def list_tags(region: str, parameters: dict[str, Any]) -> Any:
    found = STATE.by_arn(parameters["ResourceArn"])
    if found is None:
        raise invalid(f"Could not find {parameters['ResourceArn']}.")
    return {"Tags": found["Tags"]}


def add_tags(region: str, parameters: dict[str, Any]) -> Any:
    found = STATE.by_arn(parameters["ResourceArn"])
    if found is None:
        raise invalid(f"Could not find {parameters['ResourceArn']}.")
    fresh = {tag["Key"]: tag for tag in [*found["Tags"], *parameters["Tags"]]}
    found["Tags"] = list(fresh.values())
    return {"Tags": found["Tags"]}


def delete_tags(region: str, parameters: dict[str, Any]) -> Any:
    found = STATE.by_arn(parameters["ResourceArn"])
    if found is None:
        raise invalid(f"Could not find {parameters['ResourceArn']}.")
    found["Tags"] = [tag for tag in found["Tags"] if tag["Key"] not in parameters["TagKeys"]]
    return {}


def tagged(region: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What the tagging service finds among the emulated resources."""
    kinds = [kind.partition(":")[2] for kind in asked.get("ResourceTypeFilters", [])]
    found: list[dict[str, Any]] = []
    for (where, _, _), value in STATE.resources.items():
        arn = value["Arn"]
        what = arn.rpartition(":")[2].partition("/")[0]
        tags = {tag["Key"]: tag["Value"] for tag in value["Tags"]}
        wanted = all(
            rule["Key"] in tags and (not rule.get("Values") or tags[rule["Key"]] in rule["Values"])
            for rule in asked.get("TagFilters", [])
        )
        if where == region and wanted and any(fnmatch.fnmatch(what, kind) for kind in kinds):
            rows = [{"Key": key, "Value": text} for key, text in tags.items()]
            found.append({"ResourceARN": arn, "Tags": rows})
    return found


OPERATIONS: Final[dict[str, Callable[[str, dict[str, Any]], Any]]] = {
    "CreateTrainingJob": create_training_job,
    "DescribeTrainingJob": describe_training_job,
    "StopTrainingJob": stop_training_job,
    "DeleteTrainingJob": delete_training_job,
    "ListTrainingJobs": list_training_jobs,
    "CreateModel": create_model,
    "DescribeModel": _describe("Model"),
    "DeleteModel": _delete("Model"),
    "ListModels": _list("Model"),
    "CreateEndpointConfig": create_endpoint_config,
    "DescribeEndpointConfig": _describe("EndpointConfig"),
    "DeleteEndpointConfig": _delete("EndpointConfig"),
    "ListEndpointConfigs": _list("EndpointConfig"),
    "ListTags": list_tags,
    "AddTags": add_tags,
    "DeleteTags": delete_tags,
}
