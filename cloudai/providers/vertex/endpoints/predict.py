"""Predictions of deployed models: predict, raw predict, and raw predict as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from cloudai import errors
from cloudai._core.handlers import asked
from cloudai.errors import (
    CloudAIError,
    HandlerError,
    InvalidRequest,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.vertex.chat.openai import dedicated
from cloudai.providers.vertex.endpoints import instances, wire
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.gcs import Files
from cloudai.providers.vertex.resources import Resources
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types import Prediction, PredictRequest

# "Use dedicated public endpoints for online inference" (read 2026-11), and "Get online inferences".
DEDICATED_BYTES: Final = 10_000_000
SHARED_BYTES: Final = 1_500_000
"""Bytes of one request at most."""


class _Known(msgspec.Struct, frozen=True):
    """What a prediction needs to know of its endpoint; looked up once."""

    base: str
    limit: int
    variants: dict[str, str]
    schema: dict[str, Any] | None


class Predictions:
    """Asks endpoints, by their resource names."""

    def __init__(self, session: VertexSession, files: Files) -> None:
        self._session = session
        self._files = files
        self._endpoints = Resources(session, "endpoints")
        self._models = Resources(session, "models")
        self._known: dict[str, _Known] = {}

    def forget(self, resource: str) -> None:
        """Looks an endpoint up anew before its next prediction."""
        self._known.pop(resource, None)

    def predict(self, resource: str, request: PredictRequest, call: Call) -> Prediction:
        """One answer for all inputs, in their order. Raises InvalidRequest, HandlerError."""
        known, sent = self._asked(resource, request, call)
        try:
            data, request_id = self._session.http.raw(
                "POST", known.base, f"/{API}/{resource}:predict", sent, call
            )
        except NotFound:
            self._known.pop(resource, None)
            raise
        except CloudAIError as error:
            raise _of_the_server(error) or error from None
        answer = msgspec.json.decode(data, type=dict[str, Any])
        outputs = answer.get("predictions")
        if not isinstance(outputs, list) or len(outputs) != len(request.inputs):  # pyright: ignore[reportUnknownArgumentType]
            count = len(outputs) if isinstance(outputs, list) else 0  # pyright: ignore[reportUnknownArgumentType]
            raise HandlerError(
                f"the model gave {count} predictions for {len(request.inputs)} inputs",
                provider=PROVIDER,
                code="WrongLength",
            )
        deployed = str(answer.get("deployedModelId", ""))
        if deployed not in known.variants:
            self._known.pop(resource, None)  # it was updated meanwhile
            known = self._about(resource, call)
        return Prediction(
            outputs=outputs,  # pyright: ignore[reportUnknownArgumentType]
            variant=known.variants.get(deployed),
            version=answer.get("modelVersionId"),
            request_id=request_id,
        )

    def _asked(
        self, resource: str, request: PredictRequest, call: Call, *, stream: bool = False
    ) -> tuple[_Known, bytes]:
        """What is known of the endpoint, and the body to send to it."""
        known = self._about(resource, call)
        if request.variant is not None:
            self._check_variant(request.variant, known)
        if known.schema is not None:
            instances.check(known.schema, request.inputs)
        body = asked.body(request, "instances", "parameters", mark=stream, stream=stream)
        return known, _within(body, known)

    def answer(self, resource: str, request: PredictRequest, call: Call) -> Iterator[bytes]:
        """The container's answer to instances, piece by piece. Raises as ``predict`` does."""
        known, sent = self._asked(resource, request, call, stream=True)
        path = f"/{API}/{resource}:streamRawPredict"
        try:
            yield from self._session.http.pieces(known.base, path, sent, call)
        except NotFound:
            self._known.pop(resource, None)
            raise
        except CloudAIError as error:
            raise _of_the_server(error) or error from None

    def raw(self, resource: str, body: bytes, call: Call) -> bytes:
        """Any body to the model's container, and its answer as it is."""
        known = self._about(resource, call)
        path = f"/{API}/{resource}:rawPredict"
        return self._session.http.raw("POST", known.base, path, _within(body, known), call)[0]

    def stream(self, resource: str, body: bytes, call: Call) -> Iterator[bytes]:
        """The same, its answer piece by piece."""
        known = self._about(resource, call)
        path = f"/{API}/{resource}:streamRawPredict"
        return self._session.http.pieces(known.base, path, _within(body, known), call)

    def _check_variant(self, name: str, known: _Known) -> None:
        names = set(known.variants.values())
        if name not in names:
            raise NotFound(
                f"there is no variant {name!r}; there are {', '.join(sorted(names))}",
                provider=PROVIDER,
            )
        if len(names) > 1:
            raise UnsupportedByProvider(
                "asking one of several variants",
                provider=PROVIDER,
                alternative="Vertex AI chooses by the weights; deploy it as an endpoint of its own",
            )

    def _about(self, resource: str, call: Call) -> _Known:
        known = self._known.get(resource)
        if known is None:
            endpoint = self._endpoints.get(resource, call)
            kept = wire.record(endpoint)
            names = {one.id: one.name for one in (*kept.variants, *kept.former)} if kept else {}
            deployed = endpoint.get("deployedModels", ())
            variants = {
                one["id"]: names.get(one["id"]) or one.get("displayName") or one["id"]
                for one in deployed
            }
            private = ("network", "privateServiceConnectConfig", "dedicatedEndpointEnabled")
            own = any(endpoint.get(name) for name in private)
            known = _Known(
                base=dedicated(self._session, endpoint),
                limit=DEDICATED_BYTES if own else SHARED_BYTES,
                variants=variants,
                schema=self._schema(deployed, call),
            )
            if variants:
                self._known[resource] = known
        return known

    def _schema(self, deployed: Sequence[dict[str, Any]], call: Call) -> dict[str, Any] | None:
        """The schema that all the models share; None where there is none, or several."""
        uris = {
            self._models.get(one["model"].partition("@")[0], call)
            .get("predictSchemata", {})
            .get("instanceSchemaUri")
            for one in deployed
        }
        if len(uris) != 1:
            return None
        uri = uris.pop()
        return instances.parse(self._files.get(uri, call)) if uri else None


def _within(body: bytes, known: _Known) -> bytes:
    if len(body) > known.limit:
        raise InvalidRequest(
            f"inputs: they come to {len(body)} bytes, and the endpoint takes {known.limit} at once",
            field="inputs",
            provider=PROVIDER,
            hint="Ask with fewer inputs at once, or run a batch",
        )
    return body


def _of_the_server(error: CloudAIError) -> CloudAIError | None:
    """The error that our server in the container told, out of Vertex AI's message around it."""
    begin = error.message.find("{")
    try:
        told = msgspec.json.decode(error.message[begin:].encode())["error"]
        name = "HandlerError" if told["type"] == "NotFinite" else str(told["type"])
        kind = getattr(errors, name, None)
        message = str(told["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    if not isinstance(kind, type) or not issubclass(kind, (HandlerError, InvalidRequest)):
        return None
    if issubclass(kind, UnsupportedByProvider):
        return None
    return kind(message, provider=PROVIDER, code=told.get("type"), request_id=error.request_id)
