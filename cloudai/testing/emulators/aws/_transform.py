"""SageMaker's batch transform jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cloudai.testing.emulators.aws import _named_fates, _stores
from cloudai.testing.emulators.aws._sagemaker import (
    existing,
    invalid,
    listed,
    must_exist,
    new,
    summary,
)
from cloudai.testing.emulators.aws._state import STATE, Echo


def create_transform_job(region: str, parameters: dict[str, Any]) -> Any:
    model = existing(region, "Model", parameters["ModelName"])
    source = parameters["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    if not _stores.under(source):
        raise invalid(f"No S3 objects found under S3 URL {source!r}")
    must_exist(parameters["TransformOutput"]["S3OutputPath"], "TransformOutput")
    made = new(region, "TransformJob", parameters)
    container = {**(model.get("PrimaryContainer") or model["Containers"][0])}
    container["Environment"] = {
        **container.get("Environment", {}),
        **parameters.get("Environment", {}),
    }
    told = _named_fates.fate("batch", "SageMaker")
    if told is not None and told.end != "Completed":  # it is not run
        fate, served = told, Echo(None, None)
    else:
        fate, served = STATE.executor.transform({**parameters, "Container": container}, STATE)
    made["Fate"], made["Served"], made["Began"] = fate, served, STATE.now()
    return {"TransformJobArn": made["Arn"]}


def _transform(job: dict[str, Any]) -> tuple[str, float | None, str | None]:
    """Status, end and reason; the output is written at the end."""
    if "End" in job:
        return job["End"]
    fate = job["Fate"]
    now, begin = STATE.now(), job["Began"]
    over = begin + fate.starting + fate.running
    stopped = job.get("Stopped")
    if stopped is not None:
        if now < stopped + fate.stopping:
            return "Stopping", None, None
        job["End"] = ("Stopped", stopped + fate.stopping, None)
    elif now < over:
        return "InProgress", None, None
    elif fate.end != "Completed":
        words = fate.reason or "ClientError: See job logs for more information"
        job["End"] = ("Failed", over, words)
    else:
        job["End"] = _transformed(job, over)
    job["Served"].close()
    return job["End"]


def _transformed(job: dict[str, Any], over: float) -> tuple[str, float, str | None]:
    served = job["Served"]
    problem = served.problem()
    if problem is not None:
        return "Failed", over, f"AlgorithmError: See job logs for more information. {problem}"
    source = job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    kind = job["TransformInput"].get("ContentType", "application/json")
    target = job["TransformOutput"]["S3OutputPath"].rstrip("/")
    limit = job.get("MaxPayloadInMB", 6) * 1024 * 1024
    for key, data in _stores.under(source).items():
        parts: list[bytes] = []
        for record in _records(job, data, limit):
            if len(record) > limit:
                return "Failed", over, "ClientError: the payload is over MaxPayloadInMB"
            status, _, answer = served.invoke(record, kind, kind)
            if status >= 400:
                return "Failed", over, f"ClientError: {status}, {answer[:300].decode()}"
            parts.append(answer.rstrip(b"\n"))
        line = job["TransformOutput"].get("AssembleWith") == "Line"
        made = b"".join(part + b"\n" for part in parts) if line else b"".join(parts)
        _stores.write(f"{target}/{key.rpartition('/')[2]}.out", made)
    return "Completed", over, None


def _records(job: dict[str, Any], data: bytes, limit: int) -> list[bytes]:
    """The input as it is cut for the container, by SplitType and BatchStrategy."""
    if job["TransformInput"].get("SplitType", "None") != "Line":
        return [data]
    lines = [line for line in data.split(b"\n") if line]
    if job.get("BatchStrategy") == "SingleRecord":
        return lines
    made: list[bytes] = []
    batch = b""
    for line in lines:
        if batch and len(batch) + len(line) + 1 > limit:
            made.append(batch)
            batch = b""
        batch += line + b"\n"
    return [*made, batch] if batch else made


def describe_transform_job(region: str, parameters: dict[str, Any]) -> Any:
    job = existing(region, "TransformJob", parameters["TransformJobName"])
    status, ended, reason = _transform(job)
    hidden = {"Arn", "Tags", "Fate", "Served", "Began", "Stopped", "End", "LastModifiedTime"}
    made = {key: value for key, value in job.items() if key not in hidden}
    made["TransformJobStatus"] = status
    if status != "InProgress" or STATE.now() >= job["Began"] + job["Fate"].starting:
        made["TransformStartTime"] = STATE.wall(job["Began"] + job["Fate"].starting)
    if ended is not None:
        made["TransformEndTime"] = STATE.wall(ended)
    if reason is not None:
        made["FailureReason"] = reason
    return made


def stop_transform_job(region: str, parameters: dict[str, Any]) -> Any:
    job = existing(region, "TransformJob", parameters["TransformJobName"])
    status, _, _ = _transform(job)
    if status != "InProgress":
        raise invalid(f"The request was rejected because the transform job is in status {status}.")
    job["Stopped"] = STATE.now()


def list_transform_jobs(region: str, parameters: dict[str, Any]) -> Any:
    rows: list[dict[str, Any]] = []
    for one in listed(region, "TransformJob", parameters):
        status, ended, reason = _transform(one)
        rows.append(
            {
                **summary(one, "TransformJob"),
                "TransformJobStatus": status,
                "TransformEndTime": STATE.wall(ended),
                **({"FailureReason": reason} if reason else {}),
            }
        )
    return {"TransformJobSummaries": rows}


OPERATIONS: Final[dict[str, Callable[[str, dict[str, Any]], Any]]] = {
    "CreateTransformJob": create_transform_job,
    "DescribeTransformJob": describe_transform_job,
    "StopTransformJob": stop_transform_job,
    "ListTransformJobs": list_transform_jobs,
}
