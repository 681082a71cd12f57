"""Endpoints on azure: Azure OpenAI's model deployments, or Azure ML with a ``workspace``.

A deployment has one model. An endpoint of several variants is several deployments,
``NAME--VARIANT``, between which our client chooses by weight with each call: the service splits
no traffic.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai.errors import ConfigError, Conflict, NotFound
from cloudai.protocols import Call, Place
from cloudai.providers.azure import arm
from cloudai.providers.azure.errors import refuse
from cloudai.providers.azure.openai import deployments
from cloudai.providers.azure.openai.chat import AzureChat
from cloudai.providers.azure.openai.embeddings import AzureEmbeddings
from cloudai.providers.azure.openai.wire import endpoints as wire
from cloudai.providers.azure.openai.wire.embeddings import split
from cloudai.providers.azure.session import session
from cloudai.types import (
    Deployment,
    EndpointStatus,
    LogPage,
    NativeRequest,
    Plan,
    Prediction,
    PredictRequest,
)
from cloudai.types._base import invalid

_REMEMBERED: Final = 60.0
"""Seconds that the deployments of an endpoint, and their weights, are taken from memory."""


_Choices: TypeAlias = tuple[list[tuple[str, float]], dict[str, str]]
"""The variants with their shares, and each one's model."""


class AzureDeployments:
    """Model deployments of the profile's resource. The id is the endpoint's name.

    ``predict`` takes texts, conversations or whole chat bodies for chat models, and texts for
    embedding models.
    """

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._profile = profile
        self._known: dict[str, tuple[float, _Choices]] = {}

    def plan(self, spec: Deployment) -> Plan:
        """One PUT a variant."""
        requests = [
            NativeRequest(
                operation=f"PUT {deployments.path(self._session, name)}"
                f"?api-version={deployments.API_VERSION}",
                body=body,
            )
            for name, body in wire.encode(spec)
        ]
        return Plan(
            provider="azure",
            capability="endpoints",
            requests=tuple(requests),
            violations=tuple(wire.violations(spec)),
            dropped=tuple(wire.dropped(spec)),
        )

    def _put(self, spec: Deployment, call: Call, *, wait: bool = False) -> bool:
        """Puts the deployments there, one after the other: a resource takes one operation at a
        time. ``wait``: for the last one too. Gives whether those waited for succeeded."""
        self._known.pop(spec.name, None)
        fine, last = True, None
        for name, body in wire.encode(spec):
            if last is not None:
                fine = arm.settled(self._session, last, call) and fine
            path = deployments.path(self._session, name)
            last = arm.send(self._session, "PUT", path, deployments.API_VERSION, call, body)
        if wait and last is not None:
            fine = arm.settled(self._session, last, call) and fine
        return fine

    def check(self, spec: Deployment) -> None:
        refuse(wire.violations(spec))

    def deploy(self, spec: Deployment, call: Call) -> str:
        """Raises what ``plan`` lists; QuotaExceeded for more capacity than there is. A PUT may
        be sent again without harm."""
        self.check(spec)
        wire.warn(spec)
        names = {name for name, _ in wire.encode(spec)}
        for item in deployments.listed(self._session, call):
            tag = (item.get("tags") or {}).get(wire.KEY)
            # A PUT would replace it, whosever it is.
            if str(item["name"]) in names and tag != spec.idempotency_key:
                raise Conflict(
                    f"there is a deployment {item['name']!r} already",
                    provider="azure",
                    hint="Update it, delete it first, or use another name",
                )
        self._put(spec, call)
        return spec.name

    def where(self, call: Call) -> Place:
        return arm.place(self._session, call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key in its tag. Raises NotFound."""
        found = {(item.get("tags") or {}).get(wire.KEY) for item in self._items(id, call)}
        return found.pop() or None if len(found) == 1 else None

    def find(self, key: str, call: Call) -> str | None:
        for item in deployments.listed(self._session, call):
            tags = item.get("tags") or {}
            if tags.get(wire.KEY) == key:
                return str(tags.get(wire.NAME) or item["name"])
        return None

    def _items(self, id: str, call: Call) -> list[dict[str, Any]]:
        found = [
            item for item in deployments.listed(self._session, call) if wire.endpoint_of(item) == id
        ]
        if not found:
            raise NotFound(f"there is no deployment {id!r} at {self._session.endpoint}")
        return found

    def status(self, id: str, call: Call) -> EndpointStatus:
        """A snapshot; RUNNING once all its deployments are."""
        return wire.status(id, self._items(id, call), self._session.endpoint)

    def parts(self, id: str, request: PredictRequest, call: Call) -> list[PredictRequest]:
        """What goes into one request each, all of it to one deployment."""
        variant, model = self._chosen(id, request, call)
        sizes = [1] * len(request.inputs)
        if wire.embeds(model or id):
            texts = [one.get("text") if isinstance(one, dict) else one for one in request.inputs]
            if all(isinstance(text, str) for text in texts):
                sizes = [len(group) for group in split(tuple(map(str, texts)))]
        inputs = iter(request.inputs)
        return [
            msgspec.structs.replace(request, inputs=tuple(islice(inputs, size)), variant=variant)
            for size in sizes
        ]

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        """Chooses a deployment by weight, and asks it for each input."""
        variant, model = self._chosen(id, request, call)
        name = wire.native_name(id, variant)
        if wire.embeds(model or id):
            outputs = self._embedded(name, request, call)
        else:
            outputs = [self._answer(name, value, request, call) for value in request.inputs]
        return Prediction(outputs=outputs, variant=variant, version=model or None)

    def _chosen(self, id: str, request: PredictRequest, call: Call) -> tuple[str, str]:
        """The deployment that is asked, and its model."""
        shares, models = self._choices(id, call)
        chance = random.random()  # noqa: S311 - it shares out traffic
        variant = request.variant or wire.choose(shares, chance)
        if variant not in models:
            raise invalid(
                "variant", variant, "is not one of the endpoint's", f"There are: {sorted(models)}"
            )
        return variant, models[variant]

    def _choices(self, id: str, call: Call) -> _Choices:
        known = self._known.get(id)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        try:
            found = wire.status(id, self._items(id, call), self._session.endpoint)
            shares = [(one.name, one.share) for one in found.variants]
            models = {one.name: one.model for one in found.variants}
        except ConfigError:
            # Without management keys: a deployment of that very name, whatever its model.
            shares, models = [("main", 1.0)], {"main": ""}
        self._known[id] = (time.monotonic() + _REMEMBERED, (shares, models))
        return shares, models

    def _answer(self, name: str, value: Any, request: PredictRequest, call: Call) -> Any:
        from cloudai._core.batches.transforms import chat

        adapter = AzureChat(self._profile)
        (answer,) = chat(lambda asked, _: adapter.create(asked, call), name, request.params)(
            [value]
        )
        return answer

    def _embedded(self, name: str, request: PredictRequest, call: Call) -> list[Any]:
        from cloudai._core.batches.transforms import embeddings

        adapter = AzureEmbeddings(self._profile)
        return embeddings(adapter, name, request.params)(list(request.inputs))

    def update(self, id: str, spec: Deployment, call: Call) -> None:
        """Puts the variants of ``spec`` there; once they are up, deletes those it no longer
        names. To scale is to update with another capacity."""
        refuse(wire.violations(spec))
        # It stays the one that its own key made: the tag says whose it is.
        spec = msgspec.structs.replace(spec, idempotency_key=self.owner(id, call))
        before = {str(item["name"]) for item in self._items(id, call)}
        gone = before - {name for name, _ in wire.encode(spec)}
        if self._put(spec, call, wait=bool(gone)):
            for name in sorted(gone):
                self._drop(name, call)

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The service shows no log of a deployment."""
        if cursor is None:
            self._items(id, call)
        return LogPage(lines=(), cursor="0")

    def _drop(self, name: str, call: Call) -> None:
        path = deployments.path(self._session, name)
        answer = arm.send(self._session, "DELETE", path, deployments.API_VERSION, call)
        arm.settled(self._session, answer, call)

    def delete(self, id: str, call: Call) -> None:
        """Deletes its deployments; those that are gone are fine."""
        self._known.pop(id, None)
        try:
            items = self._items(id, call)
        except NotFound:
            return
        for item in items:
            try:
                self._drop(str(item["name"]), call)
            except NotFound:
                continue

    def list(self, call: Call) -> Sequence[EndpointStatus]:
        """All deployments of the resource that were made through cloudai."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for item in deployments.listed(self._session, call):
            if (item.get("tags") or {}).get(wire.KEY):
                groups.setdefault(wire.endpoint_of(item), []).append(item)
        return [wire.status(name, items, self._session.endpoint) for name, items in groups.items()]
