"""The aws provider's harness: the emulated account of cloudai.testing, with the user's own code
run on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3

from cloudai.testing.conformance import Harness
from cloudai.testing.emulators.aws import BUCKET, ROLE, AwsEmulator, LocalExecutor

AWS = AwsEmulator()
"""One a process, as moto's account is; emptied for each test."""

MATCH = {
    "chat.create": r"/converse$",
    "chat.stream": r"/converse-stream$",
    "embeddings.create": r"/invoke$",
    "training.submit": r"SageMaker\.CreateTrainingJob$",
    "endpoints.deploy": r"SageMaker\.CreateEndpoint$",
    "endpoints.predict": r"/invocations$",
    "batch.submit": r"SageMaker\.CreateTransformJob$|/model-invocation-job$",
}


class AwsHarness(Harness):
    """SageMaker and Bedrock, emulated."""

    provider = "aws"
    chat_model = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    embedding_model = "cohere.embed-v4:0"
    requires = ("boto3", "moto")
    patience = 60.0
    gaps = {
        "batch:resume": "SageMaker's transform jobs begin anew; batches on the client's side go on",
        "chat:seed": "Converse has no seed; some models take one in native",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        AWS.start(LocalExecutor(folder / "emulated"))
        AWS.faults.clear()
        os.environ.update({k: v for k, v in AWS.env.items() if k != "AWS_ENDPOINT_URL"})

    def keys(self) -> dict[str, Any]:
        return {
            "region": AWS.region,
            "endpoint_url": AWS.url,
            "role": ROLE,
            "bucket": BUCKET,
        }

    def faults(self) -> Injector:
        return Injector()

    def read(self, uri: str) -> str | None:
        if not uri.startswith("s3://"):
            return super().read(uri)
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        s3 = boto3.client("s3", endpoint_url=AWS.url)
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()


class Injector:
    """The emulator's faults, by the suite's names."""

    def throttle(self, operation: str, *, times: int, retry_after: float) -> object:
        return AWS.faults.add("throttle", MATCH[operation], times=times, retry_after=retry_after)

    def fail(self, operation: str, *, times: int) -> object:
        return AWS.faults.add("unavailable", MATCH[operation], times=times)

    def lose_reply(self, operation: str) -> object:
        return AWS.faults.add("lose_reply", MATCH[operation])

    def cut_stream(self, chunks: int) -> object:
        # An event of one word takes some 190 bytes; the first one carries no text.
        return AWS.faults.add("cut", MATCH["chat.stream"], after=190 * (chunks + 1))


HARNESS = AwsHarness
