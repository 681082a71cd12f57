"""CreateTransformJob and CreateModelInvocationJob: requests and states."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.numerals import numeral
from cloudai.formats.native import merge
from cloudai.providers.aws import common, s3
from cloudai.providers.aws.chat import converse
from cloudai.providers.aws.embeddings import wire
from cloudai.providers.aws.endpoints import wire as endpoint_wire
from cloudai.providers.aws.endpoints.wire import named
from cloudai.types import BatchTransform, State
from cloudai.types._base import invalid

MIB: Final = 1024 * 1024
MAX_PAYLOAD: Final = 100
"""MiB; MaxPayloadInMB times MaxConcurrentTransforms is at most this (API reference, 2026-11)."""

MIN_RECORDS: Final = 100
MAX_RECORDS: Final = 50_000
"""Records in one model invocation job (Bedrock quotas, read 2026-11)."""

LINES: Final = "lines_per_request"
BATCHES: Final = 16
"""``predict`` calls in one request of a transform job, unless ``native`` says how many lines."""

SETTINGS: Final = "CLOUDAI_BATCH"
"""The variable that tells the container's script of a batch."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept in S3 beside a batch, so that any process can finish it.

    Parameters
    ----------
    spec: as submitted, with an absolute output. name: of the job at AWS.
    original: the input's snapshot. lines: records that were sent; bad: those that were not.
    model: the Model that was made for it. created: Unix seconds.
    """

    spec: BatchTransform
    name: str
    original: str
    lines: int
    bad: int = 0
    model: str | None = None
    created: float = 0.0


def token(key: str) -> str:
    """An idempotency key in the letters that Bedrock takes."""
    return hashlib.sha256(key.encode()).hexdigest()


def invocation_name(spec: BatchTransform) -> str:
    """The job's name, which ends in a digest of the key."""
    return named(spec.name or "batch", s3.digest(spec.idempotency_key or ""))


def transform(
    spec: BatchTransform, model: str, machine: str, base: str, kms_key: str | None = None
) -> dict[str, Any]:
    """The arguments of CreateTransformJob."""
    payload = min(max(math.ceil(spec.max_payload / MIB), 1), MAX_PAYLOAD)
    settings = {"params": spec.params, "batch_size": spec.batch_size}
    env = {SETTINGS: msgspec.json.encode(settings).decode()}
    source = {"S3DataType": "S3Prefix", "S3Uri": f"{base}/in/"}
    body: dict[str, Any] = {
        "TransformJobName": spec.name,
        "ModelName": model,
        "MaxConcurrentTransforms": max(1, min(spec.concurrency, MAX_PAYLOAD // payload)),
        "MaxPayloadInMB": payload,
        "Environment": env,
        "TransformInput": {
            "DataSource": {"S3DataSource": source},
            "ContentType": "application/jsonlines",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": f"{base}/out",
            "Accept": "application/jsonlines",
            "AssembleWith": "None",
        },
        "TransformResources": {"InstanceType": machine, "InstanceCount": spec.shards},
    }
    if kms_key is not None:
        body["TransformOutput"]["KmsKeyId"] = kms_key
    volumes = common.volume_key(kms_key, [machine])
    if volumes is not None:
        body["TransformResources"]["VolumeKmsKeyId"] = volumes
    body["ModelClientConfig"] = {"InvocationsTimeoutInSeconds": endpoint_wire.SLOWEST}
    if spec.retry.max:
        body["ModelClientConfig"]["InvocationsMaxRetries"] = min(spec.retry.max, 3)
    body["Tags"] = common.tags(spec.tags, spec.idempotency_key, spec.name or "", "batch")
    return merge(body, spec.native.get("aws", {}).get("CreateTransformJob", {}))


def machines(job: Mapping[str, Any]) -> tuple[str, int]:
    """The machines of a transform job, in its request and in its description."""
    told = job["TransformResources"]
    return str(told["InstanceType"]), int(told["InstanceCount"])


def lines_of(spec: BatchTransform) -> int:
    """The lines of one request. SageMaker packs requests by bytes alone, which a slow model cannot
    answer in time; so each request is a file of so many lines."""
    told = spec.native.get("aws", {}).get(LINES, BATCHES * spec.batch_size)
    if not isinstance(told, int) or isinstance(told, bool) or told < 1:
        raise invalid(f"native.aws.{LINES}", told, "is no number of lines", "Use 1 or more.")
    return told


def pace(spec: BatchTransform) -> str:
    """How fast a model has to be for a transform job's requests. Its speed on the instance is not
    known where the input is cut, and a first run to measure it would cost a machine of its own."""
    lines = lines_of(spec)
    slowest = numeral(round(lines / endpoint_wire.SLOWEST, 4))
    return (
        f"a request has at most {lines} lines and an hour's time: a model that does fewer than "
        f"{slowest} lines a second needs fewer, by native.aws.{LINES}"
    )


def invocation(
    spec: BatchTransform,
    role: str,
    base: str,
    kms_key: str | None = None,
    vpc: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    """The arguments of CreateModelInvocationJob."""
    hours = 24 if spec.timeout is None else math.ceil(spec.timeout / 3600)
    marks = common.tags(spec.tags, spec.idempotency_key, spec.name or "", "batch")
    body: dict[str, Any] = {
        "jobName": invocation_name(spec),
        "roleArn": role,
        "clientRequestToken": token(spec.idempotency_key or ""),
        "modelId": spec.chat if spec.chat is not None else spec.embeddings,
        "modelInvocationType": "Converse" if spec.chat is not None else "InvokeModel",
        "inputDataConfig": {
            "s3InputDataConfig": {
                "s3InputFormat": "JSONL",
                "s3Uri": f"{base}/in/part-0000000.jsonl",
            }
        },
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"{base}/out/"}},
        "timeoutDurationInHours": min(max(hours, 24), 168),
        "tags": [{"key": tag["Key"], "value": tag["Value"]} for tag in marks],
    }
    if kms_key is not None:
        body["outputDataConfig"]["s3OutputDataConfig"]["s3EncryptionKeyId"] = kms_key
    if vpc is not None:
        body["vpcConfig"] = {
            "subnetIds": vpc["Subnets"],
            "securityGroupIds": vpc["SecurityGroupIds"],
        }
    return merge(body, spec.native.get("aws", {}).get("CreateModelInvocationJob", {}))


def model_input(spec: BatchTransform, record: Any) -> dict[str, Any]:
    """What the model gets for one record. Raises InvalidRequest for one that holds nothing."""
    if spec.chat is not None:
        request = transforms.chat_request(spec.chat, spec.params)
        messages = transforms.messages(record)
        return converse.body(msgspec.structs.replace(request, messages=messages))
    asked = transforms.embedding_request(spec.embeddings or "", spec.params)
    text = record.get("text") if isinstance(record, dict) else record
    texts = (str(text),)
    return wire.body(msgspec.structs.replace(asked, texts=texts))


def check_params(spec: BatchTransform) -> None:
    """Refuses parameters that chat or embeddings do not take."""
    if spec.chat is not None:
        request = transforms.chat_request(spec.chat, spec.params)
        sample = transforms.messages("x")
        converse.body(msgspec.structs.replace(request, messages=sample))
    elif spec.embeddings is not None:
        embed_request = transforms.embedding_request(spec.embeddings, spec.params)
        if not spec.embeddings.startswith("sagemaker:"):
            wire.check(embed_request)


TRANSFORM_STATES: Final[Mapping[str, State]] = {
    "InProgress": State.RUNNING,
    "Completed": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Stopping": State.STOPPING,
    "Stopped": State.CANCELLED,
}
INVOCATION_STATES: Final[Mapping[str, State]] = {
    "Submitted": State.QUEUED,
    "Validating": State.STARTING,
    "Scheduled": State.QUEUED,
    "InProgress": State.RUNNING,
    "Completed": State.SUCCEEDED,
    "PartiallyCompleted": State.SUCCEEDED,
    "Failed": State.FAILED,
    "Stopping": State.STOPPING,
    "Stopped": State.CANCELLED,
    "Expired": State.EXPIRED,
}
"""PartiallyCompleted counts as ended here: which lines failed the output says."""

FIELDS: Final[Mapping[str, str]] = {
    "TransformJobName": "name",
    "TransformResources.InstanceCount": "shards",
    "TransformResources": "resources",
    "Environment.CLOUDAI_BATCH": "params",
    "Environment": "env",
    "Tags": "tags",
    "tags": "tags",
    "jobName": "name",
    "roleArn": "role",
    "modelId": "model",
}


def lines(data: Iterator[bytes]) -> Iterator[bytes]:
    """Lines out of pieces."""
    rest = b""
    for piece in data:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest
