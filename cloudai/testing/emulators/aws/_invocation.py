"""Bedrock's model invocation jobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from cloudai.testing.emulators.aws import _named_fates, _stores
from cloudai.testing.emulators.aws._bedrock import converse_body, invoke_body
from cloudai.testing.emulators.aws._runtime import Answer, error
from cloudai.testing.emulators.aws._state import ACCOUNT, STATE
from cloudai.testing.emulators.aws._validate import refuse

MIN_RECORDS: Final = 100
"""Records that a job has to have at least (Bedrock quotas, read 2026-11)."""


def create_model_invocation_job(
    region: str, path: str, headers: Any, body: bytes, query: Any
) -> Answer:
    asked = msgspec.json.decode(body)
    refuse("bedrock", "CreateModelInvocationJob", asked)
    token = asked.get("clientRequestToken")
    with STATE.lock:
        for one in STATE.of(region, "InvocationJob"):
            if token is not None and one.get("clientRequestToken") == token:
                return _json({"jobArn": one["Arn"]})
            if one["jobName"] == asked["jobName"]:
                return error(400, "ConflictException", "The job name is in use.")
        source = asked["inputDataConfig"]["s3InputDataConfig"]["s3Uri"]
        files = _stores.under(source)
        lines = sum(len(data.splitlines()) for data in files.values())
        if not files:
            return error(400, "ValidationException", f"Could not find the input at {source}.")
        arn = f"arn:aws:bedrock:{region}:{ACCOUNT}:model-invocation-job/{uuid.uuid4().hex[:12]}"
        told = _named_fates.fate("batch", "Bedrock")
        made = {
            **asked,
            "Arn": arn,
            "jobArn": arn,
            "Tags": [{"Key": t["key"], "Value": t["value"]} for t in asked.get("tags", ())],
            "CreationTime": STATE.now(),
            "Fate": getattr(STATE.executor, "default", None),
            "Lines": lines,
        }
        if told is not None:
            made["Fate"] = told
        elif hasattr(STATE.executor, "_fate"):
            made["Fate"] = STATE.executor._fate()  # type: ignore[attr-defined]
        STATE.put(region, "InvocationJob", arn, made)
    return _json({"jobArn": arn})


def _json(value: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, msgspec.json.encode(value)


def _state(job: dict[str, Any]) -> tuple[str, str | None]:
    """Status and message; the output is written at the end."""
    if "End" in job:
        return job["End"]
    fate = job["Fate"]
    now = STATE.now()
    over = job["CreationTime"] + (fate.starting + fate.running if fate else 0.0)
    if "Stopped" in job:
        job["End"] = ("Stopped", None)
        job["Ended"] = now
    elif job["Lines"] < MIN_RECORDS:
        told = f"Batch job contains less records ({job['Lines']}) than the required minimum"
        job["End"] = ("Failed", f"{told} of: {MIN_RECORDS}")
        job["Ended"] = now
    elif now < over:
        return "InProgress", None
    elif fate is not None and fate.end not in {"Completed", "PartiallyCompleted"}:
        job["End"] = ("Expired" if fate.end == "Expired" else "Failed", fate.reason or fate.end)
        job["Ended"] = over
    else:
        job["End"] = _finish(job, partly=fate is not None and fate.end == "PartiallyCompleted")
        job["Ended"] = over
    return job["End"]


def _finish(job: dict[str, Any], *, partly: bool) -> tuple[str, str | None]:
    """Answers the records; ``partly``: every second one fails."""
    source = job["inputDataConfig"]["s3InputDataConfig"]["s3Uri"]
    base = job["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"].rstrip("/")
    number = job["Arn"].rpartition("/")[2]
    good = bad = 0
    for key, data in _stores.under(source).items():
        lines: list[bytes] = []
        for line in data.splitlines():
            record = msgspec.json.decode(line)
            asked = record["modelInput"]
            if partly and (good + bad) % 2:
                made: Any = error(500, "InternalServerException", "emulated failure")
            elif job.get("modelInvocationType") == "Converse":
                made = converse_body(job["modelId"], asked)
            else:
                found = invoke_body(job["modelId"], asked)
                made = found[0] if len(found) == 2 else found
            if isinstance(made, tuple):
                told = msgspec.json.decode(made[2])["message"]
                record["error"] = {"errorCode": made[0], "errorMessage": told}
                bad += 1
            else:
                record["modelOutput"] = made
                good += 1
            lines.append(msgspec.json.encode(record))
        STATE.random.shuffle(lines)  # the real service keeps no order
        name = key.rpartition("/")[2]
        _stores.write(f"{base}/{number}/{name}.out", b"".join(line + b"\n" for line in lines))
    job["Counts"] = (good, bad)
    return ("PartiallyCompleted" if bad else "Completed"), None


def _job(region: str, path: str) -> dict[str, Any] | None:
    name = unquote(path).removeprefix("/model-invocation-job/").removesuffix("/stop")
    return STATE.get(region, "InvocationJob", name) or next(
        (one for one in STATE.of(region, "InvocationJob") if one["Arn"].endswith(f"/{name}")), None
    )


def _missing() -> Answer:
    return error(404, "ResourceNotFoundException", "The provided job could not be found.")


def _described(job: dict[str, Any]) -> dict[str, Any]:
    status, message = _state(job)
    good, bad = job.get("Counts", (0, 0))
    made = {
        name: job[name]
        for name in (
            "jobArn", "jobName", "modelId", "clientRequestToken", "roleArn", "inputDataConfig",
            "outputDataConfig", "modelInvocationType", "timeoutDurationInHours",
        )
        if name in job
    }  # fmt: skip
    made |= {"status": status, "submitTime": _iso(job["CreationTime"])}
    made |= {"totalRecordCount": job["Lines"], "processedRecordCount": good + bad}
    made |= {"successRecordCount": good, "errorRecordCount": bad}
    if message:
        made["message"] = message
    if "Ended" in job:
        made["endTime"] = _iso(job["Ended"])
    return made


def _iso(at: float) -> str:
    wall = STATE.wall(at)
    assert wall is not None  # noqa: S101
    return wall.strftime("%Y-%m-%dT%H:%M:%SZ")


def get_model_invocation_job(
    region: str, path: str, headers: Any, body: bytes, query: Any
) -> Answer:
    with STATE.lock:
        job = _job(region, path)
        return _missing() if job is None else _json(_described(job))


def stop_model_invocation_job(
    region: str, path: str, headers: Any, body: bytes, query: Any
) -> Answer:
    with STATE.lock:
        job = _job(region, path)
        if job is None:
            return _missing()
        status, _ = _state(job)
        if status not in {"Submitted", "InProgress", "Validating", "Scheduled"}:
            return error(400, "ConflictException", f"The job is in status {status}.")
        job["Stopped"] = STATE.now()
        return _json({})


def list_model_invocation_jobs(
    region: str, path: str, headers: Any, body: bytes, query: Any
) -> Answer:
    word = str(query.get("nameContains", [""])[0]) if query else ""
    with STATE.lock:
        found = [
            _described(one) for one in STATE.of(region, "InvocationJob") if word in one["jobName"]
        ]
    return _json({"invocationJobSummaries": found})


def list_tags_for_resource(region: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
    arn = msgspec.json.decode(body)["resourceARN"]
    found = STATE.by_arn(arn)
    if found is None:
        return _missing()
    return _json({"tags": [{"key": t["Key"], "value": t["Value"]} for t in found["Tags"]]})


OPERATIONS: Final[dict[str, Callable[..., Answer]]] = {
    "CreateModelInvocationJob": create_model_invocation_job,
    "GetModelInvocationJob": get_model_invocation_job,
    "StopModelInvocationJob": stop_model_invocation_job,
    "ListModelInvocationJobs": list_model_invocation_jobs,
    "ListTagsForResource": list_tags_for_resource,
}
