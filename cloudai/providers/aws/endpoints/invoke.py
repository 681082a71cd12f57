"""Asking endpoints: at once, later, or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final, NamedTuple
from urllib.parse import quote

from cloudai._core.handlers import asked
from cloudai.errors import InvalidRequest, NotFound, UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.providers.aws import s3
from cloudai.providers.aws.chat import openai
from cloudai.providers.aws.endpoints import predict_wire
from cloudai.providers.aws.endpoints.async_inference import later
from cloudai.providers.aws.session import AwsSession
from cloudai.types import Prediction, PredictRequest

_NAMES: Final = ("instances", "parameters")
_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}

# Bytes of a request's body (SageMaker quotas and serverless endpoints, read 2026-11).
_PAYLOAD: Final = 25 * 1024 * 1024
_SERVERLESS_PAYLOAD: Final = 4 * 1024 * 1024


class Mode(NamedTuple):
    """Where an asynchronous endpoint puts its results, and whether it is a serverless one."""

    output: str | None
    serverless: bool


class Asker:
    """Asks the endpoints of a session. ``mode`` finds out about one; it is asked once."""

    def __init__(
        self, session: AwsSession, store: s3.Store, mode: Callable[[str, Call], Mode]
    ) -> None:
        self._session = session
        self._store = store
        self._find = mode
        self._modes: dict[str, Mode] = {}

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        body = asked.body(request, *_NAMES)
        mode = self._mode(id, call)
        if mode.output is not None:
            return later(self._session, self._store, id, len(request.inputs), body, call)
        _check_size(body, mode)
        try:
            response = self._session.send(
                "sagemaker-runtime",
                "InvokeEndpoint",
                f"/endpoints/{quote(id, safe='')}/invocations",
                body,
                _headers(request, _JSON),
                call,
            )
        except NotFound:
            self._modes.pop(id, None)
            raise
        found = response.headers
        return predict_wire.prediction(
            response.data,
            len(request.inputs),
            found.get("x-Amzn-Invoked-Production-Variant"),
            found.get("x-amzn-RequestId"),
        )

    def stream(self, id: str, request: PredictRequest, call: Call) -> Iterator[bytes]:
        mode = self._mode(id, call)
        if mode.output is not None or mode.serverless:
            raise UnsupportedByProvider(
                "a streamed answer of a serverless or asynchronous endpoint",
                provider="aws",
                alternative='Use predict(), or mode="realtime"',
            )
        body = asked.body(request, *_NAMES, stream=True)
        _check_size(body, mode)
        stream = self._session.open(
            "sagemaker-runtime",
            "InvokeEndpointWithResponseStream",
            f"/endpoints/{quote(id, safe='')}/invocations-response-stream",
            body,
            _headers(request, {"Content-Type": "application/json"}),
            call,
        )
        request_id = stream.headers.get("x-amzn-RequestId")
        with closing(stream):
            payload = openai.Payload(request_id, stream.heard)
            for piece in stream:
                for part in payload.feed(piece):
                    if part.startswith(b'{"cloudai_error"'):
                        predict_wire.prediction(part, 0, None, request_id)  # raises it
                    yield part
            payload.end()

    def _mode(self, id: str, call: Call) -> Mode:
        found = self._modes.get(id)
        if found is None:
            found = self._modes[id] = self._find(id, call)
        return found

    def forget(self, id: str) -> None:
        """Finds out about an endpoint anew when it is next asked."""
        self._modes.pop(id, None)


def _headers(request: PredictRequest, plain: dict[str, str]) -> dict[str, str]:
    if request.variant is None:
        return plain
    return {**plain, "X-Amzn-SageMaker-Target-Variant": request.variant}


def _check_size(body: bytes, mode: Mode) -> None:
    most = _SERVERLESS_PAYLOAD if mode.serverless else _PAYLOAD
    if len(body) > most:
        raise InvalidRequest(
            f"inputs: {len(body)} bytes are more than the {most} that the endpoint takes",
            field="inputs",
            provider="aws",
            hint='Send fewer at once, or use mode="async", which takes a gigabyte',
        )
