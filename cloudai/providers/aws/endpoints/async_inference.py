"""Asynchronous endpoints: the question goes into S3, the answer is waited for there."""

from __future__ import annotations

import time
import uuid
from urllib.parse import quote

from cloudai._core.calls import wait
from cloudai.errors import HandlerError, WaitTimeout
from cloudai.protocols import Call
from cloudai.providers.aws import s3
from cloudai.providers.aws.endpoints import predict_wire
from cloudai.providers.aws.endpoints.wire import SLOWEST
from cloudai.providers.aws.session import AwsSession
from cloudai.types import Prediction


def later(
    session: AwsSession, store: s3.Store, id: str, count: int, body: bytes, call: Call
) -> Prediction:
    """Asks an asynchronous endpoint, and waits for its result in S3."""
    number = uuid.uuid4().hex
    source = f"s3://{session.bucket()}/cloudai/{id}/async/in/{number}.json"
    store.put(source, body, call)
    response = session.send(
        "sagemaker-runtime",
        "InvokeEndpointAsync",
        f"/endpoints/{quote(id, safe='')}/async-invocations",
        b"",
        {
            "X-Amzn-SageMaker-InputLocation": source,
            "X-Amzn-SageMaker-Content-Type": "application/json",
            "X-Amzn-SageMaker-Accept": "application/json",
            # As long as the container itself gives an answer; else 900.
            "X-Amzn-SageMaker-InvocationTimeoutSeconds": str(SLOWEST),
        },
        call,
    )
    output = response.headers["X-Amzn-SageMaker-OutputLocation"]
    failed = response.headers.get("X-Amzn-SageMaker-FailureLocation")
    request_id = response.headers.get("x-amzn-RequestId")
    for pause in wait.intervals(remote=True, timeout=call.remaining()):
        data = store.get(output, call)
        if data is not None:
            return predict_wire.prediction(data, count, None, request_id)
        trouble = store.get(failed, call) if failed else None
        if trouble is not None:
            raise HandlerError(
                f"the endpoint failed: {trouble[:500].decode('utf-8', 'replace')}",
                provider="aws",
                request_id=request_id,
            )
        time.sleep(pause)
    raise WaitTimeout(
        f"the asynchronous endpoint {id!r} gave no result in time",
        provider="aws",
        hint=f"It will lie at {output}",
    )
