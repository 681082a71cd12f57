"""Endpoints asked for predictions: typed, with any body, as a stream, in OpenAI's format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from cloudai.testing.emulators.vertex import _schema
from cloudai.testing.emulators.vertex._answers import openai_answer
from cloudai.testing.emulators.vertex._http import Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._serving import Serving
from cloudai.testing.emulators.vertex._state import VertexState


class Predicting:
    """The prediction service. ``seed``: of the traffic's split."""

    def __init__(self, cloud_state: VertexState, serving: Serving, seed: int) -> None:
        self._cloud_state = cloud_state
        self._serving = serving
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def routes(self, router: Router) -> None:
        for version in ("v1", "v1beta1"):
            one = f"/{version}/projects/{{project}}/locations/{{location}}/endpoints/{{id}}"
            for method, handler in (
                ("predict", self._predict),
                ("rawPredict", self._raw),
                ("streamRawPredict", self._stream_raw),
            ):
                router.add("POST", f"{one}:{method}", handler)
            router.add("POST", f"{one}/chat/completions", self._chat)

    def _chosen(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        split = {id: share for id, share in endpoint["trafficSplit"].items() if share}
        if not split:
            raise Refused(
                400, "FAILED_PRECONDITION", "The Endpoint has no deployed model with traffic."
            )
        (id,) = self._random.choices(list(split), list(split.values()))
        return next(one for one in endpoint["deployedModels"] if one["id"] == id)

    def _predict(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        endpoint = self._serving.endpoint(project, location, id)
        version = request.path.split("/")[1]
        body = {**request.json, "endpoint": endpoint["name"]}
        _schema.checked(version, "PredictRequest", body, ignored=self._cloud_state.ignored)
        one = self._chosen(endpoint)
        model = self._serving.model(one["model"])
        return {
            "predictions": self._serving.predictions(
                model, body["instances"], body.get("parameters")
            ),
            "deployedModelId": one["id"],
            "model": model["name"],
            "modelDisplayName": model["displayName"],
            "modelVersionId": "1",
        }

    def _raw(self, request: Request, project: str, location: str, id: str) -> Answer:
        model = self._serving.model(
            self._chosen(self._serving.endpoint(project, location, id))["model"]
        )
        made = self._by_container(model, request)
        if made is not None:
            kind, pieces = made
            try:
                return Answer(data=b"".join(pieces), headers={"Content-Type": kind})
            except ConnectionError as error:
                raise Refused(500, "INTERNAL", str(error)) from None
        body = request.json
        found = self._serving.predictions(model, body.get("instances", []), body.get("parameters"))
        return Answer(json={"predictions": found})

    def _by_container(
        self, model: dict[str, Any], request: Request
    ) -> tuple[str, Iterator[bytes]] | None:
        if self._serving.executor is None:
            return None
        kind = request.headers.get("content-type", "application/json")
        return self._serving.executor.on_raw(model, request.body, kind)

    def _stream_raw(self, request: Request, project: str, location: str, id: str) -> Answer:
        model = self._serving.model(
            self._chosen(self._serving.endpoint(project, location, id))["model"]
        )
        made = self._by_container(model, request)
        if made is not None:
            return Answer(data=_halves(made[1]), headers={"Content-Type": made[0]})
        body = request.json
        found = self._serving.predictions(model, body.get("instances", []), body.get("parameters"))

        def sent() -> Iterator[bytes]:
            before = b'{"predictions": ['
            for one in found:
                yield before + msgspec.json.encode(one)
                before = b", "
            yield b"]}" if found else before + b"]}"

        return Answer(data=sent(), headers={"Content-Type": "application/json"})

    def _chat(self, request: Request, project: str, location: str, id: str) -> Answer:
        """OpenAI's format, as vLLM and others serve it; ``openapi`` is Vertex AI's own."""
        if id != "openapi":
            self._chosen(self._serving.endpoint(project, location, id))
        body = request.json
        if not body.get("messages"):
            raise Refused(400, "INVALID_ARGUMENT", "messages is required")
        about = {"id": f"chat-{self._cloud_state.number()}", "model": body.get("model") or id}
        return openai_answer(body, about)


def _halves(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A container's pieces, ended elsewhere, as the network may. Where they break off, so does
    the connection."""
    for piece in pieces:
        yield piece[: len(piece) // 2 + 1]
        if len(piece) > 1:
            yield piece[len(piece) // 2 + 1 :]
