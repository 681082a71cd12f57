"""Endpoints of Vertex AI: models uploaded, deployed side by side, and given their traffic.

An endpoint's id is its resource name. ``status`` takes the next step of a deployment or a rollout
that is not at its end; see ``_rollout``.

Longer than other modules: the adapter's methods are one Protocol's, over one session.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloudai._core.calls.call import multi_step_create
from cloudai._core.calls.paging import paged
from cloudai._core.files.tree import planned
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CloudAIError,
    Conflict,
    InvalidRequest,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.protocols import Call, Place
from cloudai.providers.vertex import SPEC, catalog, common, once
from cloudai.providers.vertex import logs as _logs
from cloudai.providers.vertex.endpoints import rollout as _rollout
from cloudai.providers.vertex.endpoints import wire
from cloudai.providers.vertex.endpoints.models import Models, clear_endpoint
from cloudai.providers.vertex.endpoints.predict import Predictions
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.gcs import Files
from cloudai.providers.vertex.resources import Resources
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types import (
    Deployment,
    EndpointStatus,
    LogPage,
    NativeRequest,
    Plan,
    Prediction,
    PredictRequest,
    State,
    VariantStatus,
)

_TAIL: Final = 20


class VertexEndpoints:
    """Endpoints on Vertex AI."""

    def __init__(self, profile: Profile) -> None:
        self._session = profile.shared(VertexSession.of)
        self._files = profile.shared(Files.of)
        self._endpoints = Resources(self._session, "endpoints")
        self._models = Models(self._session, self._files, "endpoints")
        self._predictions = Predictions(self._session, self._files)

    # -- planning ----------------------------------------------------------------------------

    def plan(self, spec: Deployment) -> Plan:
        """Needs no connection; looks at local model directories."""
        found = self._models.violations(spec)
        requests: list[NativeRequest] = []
        if not found:
            location, parent = self._session.location, self._session.parent
            for variant in spec.variants:
                artifact = self._models.artifact(spec, variant)
                requests.append(
                    NativeRequest(
                        operation=f"POST /{API}/{parent}/models:upload",
                        body=wire.model(spec, variant, artifact, location),
                    )
                )
            kept = self._record(spec, 0.0)
            requests.append(
                NativeRequest(
                    operation=f"POST /{API}/{parent}/endpoints?endpointId={spec.name}",
                    body=wire.endpoint(spec, kept),
                )
            )
            resource = f"{parent}/endpoints/{spec.name}"
            requests += [
                NativeRequest(
                    operation=f"POST /{API}/{resource}:deployModel",
                    body=wire.deploy(one, {"0": 0} if index else {"0": 100}, kept.service_account),
                )
                for index, one in enumerate(kept.variants)
            ]
        return Plan(
            provider=PROVIDER,
            capability="endpoints",
            requests=tuple(requests),
            violations=tuple(found),
            dropped=tuple(wire.dropped(spec)),
            uploads=() if found else planned(spec)[0],
            notes=() if found else tuple(wire.notes(spec, self._session.location)),
            cost=None if found else wire.cost(spec, self._session.location),
        )

    def _record(self, spec: Deployment, since: float) -> wire.Record:
        location, parent = self._session.location, self._session.parent
        return wire.Record(
            variants=tuple(wire.target(spec, one, location, parent) for one in spec.variants),
            rollout=spec.rollout,
            since=since,
            service_account=self._session.profile.get("service_account"),
        )

    # -- making ------------------------------------------------------------------------------

    def deploy(self, spec: Deployment, call: Call) -> str:
        """Uploads the models, makes the endpoint and begins to deploy. Sent again with the same
        key, it goes on where it was. Raises Conflict where the name is taken."""
        self._check(spec)
        resource = f"{self._session.parent}/endpoints/{spec.name}"
        label = common.key_label(spec.idempotency_key or "")
        with suppress(NotFound):
            taken = self._endpoints.get(resource, call)
            if taken.get("labels", {}).get(common.KEY_LABEL) != label:
                raise Conflict(
                    f"there is an endpoint {spec.name!r} already",
                    provider=PROVIDER,
                    hint="Update it, delete it, or use another name",
                )
            return resource

        def find() -> str | None:
            with suppress(NotFound):
                if self.owner(resource, call) == label:
                    return resource
            return None

        claim = f"{self._models.base(spec.name)}/claim-{label}"
        made_already = once.rival(self._files, claim, find, call)
        if made_already is not None:
            return made_already
        with (
            multi_step_create(),
            self._files.undone(claim, call),
            self._models.undone(spec, call),
        ):
            self._models.upload(spec, call)
            body = wire.endpoint(spec, self._record(spec, 0.0))
            made = self._endpoints.create(body, call, f"?endpointId={spec.name}")
            self._endpoints.wait(made, call)
        with suppress(CloudAIError):  # the first look tries again
            self._advance(resource, call)
        return resource

    def discard(self, spec: Deployment, call: Call) -> None:
        """Removes the models and files of an endpoint that was never made."""
        self._models.discard(spec, call)
        label = common.key_label(spec.idempotency_key or "")
        self._files.remove_folder(f"{self._models.base(spec.name)}/claim-{label}", call)

    def _check(self, spec: Deployment) -> None:
        if spec.mode != "realtime":
            raise UnsupportedByProvider(
                f"mode={spec.mode!r}",
                provider=PROVIDER,
                alternative=SPEC.gaps["endpoints:serverless"],
            )
        for violation in self._models.violations(spec):
            raise InvalidRequest(
                f"{violation.field}: {violation.problem}",
                field=violation.field,
                provider=PROVIDER,
                hint=violation.mend or None,
            )

    def where(self, call: Call) -> Place:
        return self._session.place()

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key as its label. Raises NotFound."""
        return self._endpoints.get(id, call).get("labels", {}).get(common.KEY_LABEL)

    tag_of = staticmethod(common.key_label)

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its replicas at the least, on demand in us-central1."""
        rows = [
            one.get("dedicatedResources", {})
            for one in self._endpoints.get(id, call).get("deployedModels", ())
        ]
        return catalog.hourly(
            [(one.get("machineSpec", {}), int(one.get("minReplicaCount", 1))) for one in rows]
        )

    def find(self, key: str, call: Call) -> str | None:
        found = self._endpoints.find(key, call)
        return None if found is None else str(found["name"])

    def update(self, id: str, spec: Deployment, call: Call) -> None:
        """Deploys the new variants beside the former ones; ``status`` shifts the traffic as the
        rollout says, and takes the former ones off. Until then, an update with the former
        variants' models rolls back."""
        resource = self._endpoints.name(id)
        endpoint = self._endpoints.get(resource, call)
        before = wire.record(endpoint)
        if before is None:
            raise Conflict(
                f"{resource} was not made by cloudai", provider=PROVIDER, hint="Deploy a new one"
            )
        self._check(spec)
        on = {one["id"] for one in endpoint.get("deployedModels", ())}
        former = tuple(one for one in (*before.variants, *before.former) if one.id in on)
        since = _rollout.newest(self._operations(resource, call))
        kept = msgspec.structs.replace(self._record(spec, since), former=former)
        with self._models.undone(spec, call):
            self._models.upload(spec, call)
            self._write(resource, {"description": wire.text(kept)}, endpoint, call)
        self._predictions.forget(resource)
        with suppress(CloudAIError):  # the first look tries again
            self._advance(resource, call)

    def _write(
        self, resource: str, fields: dict[str, Any], endpoint: dict[str, Any], call: Call
    ) -> None:
        """Changes fields of an endpoint, unless somebody else has changed it since."""
        body = {"name": resource, **fields}
        if endpoint.get("etag"):
            body["etag"] = endpoint["etag"]
        mask = ",".join(fields)
        self._endpoints.ask("PATCH", f"{resource}?updateMask={mask}", body, call)

    # -- looking -----------------------------------------------------------------------------

    def status(self, id: str, call: Call) -> EndpointStatus:
        """Takes the next step of what is under way."""
        resource = self._endpoints.name(id)
        endpoint, step = self._advance(resource, call)
        found = _status(endpoint, step)
        if found.state is State.FAILED:
            with suppress(CloudAIError):
                lines = _logs.tail(self._session, _filter(resource), found.created_at, _TAIL, call)
                found = msgspec.structs.replace(found, log_tail=lines)
        return found

    def _advance(self, resource: str, call: Call) -> tuple[dict[str, Any], _rollout.Step]:
        endpoint = self._endpoints.get(resource, call)
        kept = wire.record(endpoint)
        if kept is None:
            return endpoint, _rollout.Settled()
        step: _rollout.Step = _rollout.Settled()
        # Steps that are done at once follow each other; one that takes its time ends the look.
        for _ in range(8):
            operations = self._operations(resource, call)
            step = _rollout.next_step(endpoint, operations, kept, self._session.http.now())
            if not self._take(resource, endpoint, step, call):
                break
            endpoint = self._endpoints.get(resource, call)
            kept = wire.record(endpoint) or kept
        return endpoint, step

    def _operations(self, resource: str, call: Call) -> list[dict[str, Any]]:
        """All operations of an endpoint."""

        def fetch(token: str | None) -> tuple[list[dict[str, Any]], str | None]:
            query = f"?pageToken={quote(token, safe='')}" if token else ""
            page = self._endpoints.ask("GET", f"{resource}/operations{query}", None, call)
            return page.get("operations", []), page.get("nextPageToken")

        return list(paged(PROVIDER, fetch))

    def _take(
        self, resource: str, endpoint: dict[str, Any], step: _rollout.Step, call: Call
    ) -> bool:
        """Takes a step; whether another may follow at once."""
        try:
            if isinstance(step, _rollout.Deploy):
                kept = wire.record(endpoint)
                account = kept.service_account if kept else None
                body = wire.deploy(step.target, step.split, account)
                made = self._endpoints.ask("POST", f"{resource}:deployModel", body, call)
                return bool(made.get("done"))
            if isinstance(step, _rollout.Undeploy):
                body = {"deployedModelId": step.id, "trafficSplit": step.split}
                made = self._endpoints.ask("POST", f"{resource}:undeployModel", body, call)
                return bool(made.get("done"))
            if isinstance(step, _rollout.Shift):
                text = wire.text(step.record)
                fields = {"trafficSplit": step.split, "description": text}
                self._write(resource, fields, endpoint, call)
                return True
            if isinstance(step, _rollout.Tidy):
                for model in step.models:
                    self._models.remove(model, call)
                fields = {"description": wire.text(step.record)}
                self._write(resource, fields, endpoint, call)
                return True
            if isinstance(step, _rollout.Failed) and step.record is not None:
                # Told once; from here on the former variants are what is to be.
                fields = {"description": wire.text(step.record)}
                self._write(resource, fields, endpoint, call)
        except Conflict:
            return False  # somebody else is at it
        return False

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        """Instances are held against the model's schema, where it names one, before they are
        sent. Raises HandlerError for what the model's own code raised."""
        return self._predictions.predict(self._endpoints.name(id), request, call)

    def stream(self, id: str, request: PredictRequest, call: Call) -> Iterator[bytes]:
        """The container's own answer, piece by piece as it writes it."""
        return self._predictions.answer(self._endpoints.name(id), request, call)

    def raw_predict(self, id: str, body: bytes, call: Call) -> bytes:
        """Any body to the model's container, and its answer as it is."""
        return self._predictions.raw(self._endpoints.name(id), body, call)

    def stream_raw_predict(self, id: str, body: bytes, call: Call) -> Iterator[bytes]:
        """The same, its answer piece by piece."""
        return self._predictions.stream(self._endpoints.name(id), body, call)

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        resource = self._endpoints.name(id)
        since: float | None = None
        if cursor is None:
            since = common.seconds(self._endpoints.get(resource, call).get("createTime"))
        return _logs.read(self._session, _filter(resource), since, cursor, call)

    def list(self, call: Call) -> Sequence[EndpointStatus]:
        found: list[EndpointStatus] = []
        for endpoint in self._endpoints.list(f"labels.{common.KEY_LABEL}:*", call):
            kept = wire.record(endpoint)
            step: _rollout.Step = _rollout.Settled()
            if kept is not None:
                step = _rollout.next_step(endpoint, [], kept, self._session.http.now())
            found.append(_status(endpoint, step))
        return found

    # -- removing ----------------------------------------------------------------------------

    def delete(self, id: str, call: Call) -> None:
        """Undeploys, removes the endpoint, its Models and their files."""
        resource = self._endpoints.name(id)
        self._predictions.forget(resource)
        clear_endpoint(self._endpoints, resource, call)
        name = common.last(resource)
        self._models.remove_all(name, call)
        self._files.remove_folder(self._models.base(name), call)


def _status(endpoint: dict[str, Any], step: _rollout.Step) -> EndpointStatus:
    kept = wire.record(endpoint)
    deployed = {one["id"]: one for one in endpoint.get("deployedModels", ())}
    shares = {id: int(share) for id, share in endpoint.get("trafficSplit", {}).items()}
    targets = {one.id: one for one in (*kept.variants, *kept.former)} if kept else {}
    variants: list[VariantStatus] = []
    for id, one in deployed.items():
        known = targets.get(id)
        ready = one.get("status", {}).get("availableReplicaCount")
        least = one.get("dedicatedResources", {}).get("minReplicaCount", 1)
        variants.append(
            VariantStatus(
                name=known.name if known else str(one.get("displayName") or id),
                model=known.source if known else str(one.get("model", "")),
                share=shares.get(id, 0) / 100,
                version=one.get("modelVersionId"),
                ready=int(ready if ready is not None else least),
            )
        )
    reason: str | None = None
    state = State.RUNNING
    if isinstance(step, _rollout.Failed):
        state, reason = State.FAILED, step.reason
        if step.record is not None:
            reason = f"the update failed, and the former variants go on: {step.reason}"
    elif isinstance(step, _rollout.Wait):
        state, reason = State.STARTING, step.reason
    elif not isinstance(step, _rollout.Settled):
        state = State.STARTING
    host = endpoint.get("dedicatedEndpointDns")
    return EndpointStatus(
        id=str(endpoint["name"]),
        name=str(endpoint.get("labels", {}).get(common.NAME_LABEL) or endpoint["displayName"]),
        state=state,
        url=f"https://{host}/{API}/{endpoint['name']}:predict" if host else None,
        variants=tuple(variants),
        idempotency_key=endpoint.get("labels", {}).get(common.KEY_LABEL),
        reason=reason,
        native_state=type(step).__name__,
        created_at=common.seconds(endpoint.get("createTime")),
    )


def _filter(resource: str) -> str:
    return (
        'resource.type="aiplatform.googleapis.com/Endpoint" AND '
        f'resource.labels.endpoint_id="{common.last(resource)}"'
    )


def raw_predict(endpoint: Any, body: bytes, *, timeout: float | None = None) -> bytes:
    """Any body to the container behind an endpoint's handle, and its answer as it is.

    Parameters
    ----------
    endpoint: of ``client.endpoints``. body: JSON by what Vertex AI says of its type.
    timeout: seconds, retries included.
    """
    bound, adapter = _own(endpoint)
    return bound.caller.run(
        "endpoints.raw_predict",
        lambda call: adapter.raw_predict(endpoint.native_id, body, call),
        bound.caller.call(timeout),
    )


def stream_raw_predict(
    endpoint: Any, body: bytes, *, timeout: float | None = None
) -> Iterator[bytes]:
    """The same, its answer piece by piece; retried until the first piece has come, never after
    it. ``timeout``: seconds until the last piece."""
    bound, adapter = _own(endpoint)

    def opened(call: Call) -> tuple[bytes | None, Iterator[bytes]]:
        pieces = adapter.stream_raw_predict(endpoint.native_id, body, call)
        return next(pieces, None), pieces

    first, rest = bound.caller.run(
        "endpoints.stream_raw_predict", opened, bound.caller.call(timeout)
    )

    def told() -> Iterator[bytes]:
        if first is not None:
            yield first
        yield from rest

    return told()


def _own(endpoint: Any) -> tuple[Any, VertexEndpoints]:
    # What no other provider has is no method of the handle; the call takes its path all the same.
    bound = endpoint._bound
    if not isinstance(bound.adapter, VertexEndpoints):
        raise UnsupportedByProvider(
            "raw predictions",
            provider=bound.profile.provider,
            alternative="Use endpoint.predict(), or the endpoint's url",
        )
    return bound, bound.adapter
