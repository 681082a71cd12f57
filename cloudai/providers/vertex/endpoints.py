"""Endpoints of Vertex AI: models uploaded, deployed side by side, and given their traffic.

An endpoint's id is its resource name. ``status`` takes the next step of a deployment or a rollout
that is not at its end; see ``_rollout``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai import errors
from cloudai._core.config import Profile
from cloudai._core.handler import find_handler
from cloudai.errors import (
    CloudAIError,
    Conflict,
    HandlerError,
    InvalidRequest,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.vertex import SPEC, _catalog, _instances, _logs, _rollout
from cloudai.providers.vertex._errors import PROVIDER
from cloudai.providers.vertex._gcs import Files
from cloudai.providers.vertex._jobs import Resources, pauses
from cloudai.providers.vertex._openai import dedicated
from cloudai.providers.vertex._session import API, Session
from cloudai.providers.vertex._wire import common
from cloudai.providers.vertex._wire import endpoints as wire
from cloudai.types import (
    CostRange,
    Deployment,
    EndpointStatus,
    LogPage,
    NativeRequest,
    Plan,
    Prediction,
    PredictRequest,
    State,
    Variant,
    VariantStatus,
    Violation,
)

_TAIL: Final = 20


class _Known(msgspec.Struct, frozen=True):
    """What a prediction needs to know of its endpoint; looked up once."""

    base: str
    variants: dict[str, str]
    schema: dict[str, Any] | None


class VertexEndpoints:
    """Endpoints on Vertex AI."""

    def __init__(self, profile: Profile, *, folder: str = "endpoints") -> None:
        self._folder = folder
        self._session = profile.shared(Session.of)
        self._files = profile.shared(Files.of)
        self._endpoints = Resources(self._session, "endpoints")
        self._models = Resources(self._session, "models")
        self._known: dict[str, _Known] = {}

    # -- planning ----------------------------------------------------------------------------

    def plan(self, spec: Deployment) -> Plan:
        """Needs no connection; looks at local model directories."""
        found = self.violations(spec)
        requests: list[NativeRequest] = []
        if not found:
            location, parent = self._session.location, self._session.parent
            needed = wire.packages(spec.requirements)
            for variant in spec.variants:
                artifact = self.artifact(spec, variant)
                requests.append(
                    NativeRequest(
                        operation=f"POST /{API}/{parent}/models:upload",
                        body=wire.model(spec, variant, artifact, location, needed),
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
            losses=tuple(wire.losses(spec)),
            cost=None if found else _cost(spec, self._session.location),
        )

    def violations(self, spec: Deployment) -> list[Violation]:
        """What Vertex AI would refuse, and what is not there."""
        found = wire.violations(spec, self._session.location)
        if spec.mode != "realtime":
            found.append(
                Violation(
                    "mode", f"{spec.mode!r} is not offered.", SPEC.gaps["endpoints:serverless"]
                )
            )
        if spec.requirements is not None and not Path(spec.requirements).is_file():
            found.append(Violation("requirements", f"there is no {spec.requirements!r}."))
        for variant in spec.variants:
            if "://" in variant.uri:
                handler = variant.handler or spec.handler
                if handler is not None and not Path(handler).is_file():
                    found.append(Violation("handler", f"there is no file {handler!r}."))
                continue
            try:
                own = variant.handler or spec.handler
                folder = Path(variant.uri).expanduser()
                if spec.image is None:
                    find_handler(folder, Path(own) if own is not None else None)
                elif not folder.is_dir():
                    found.append(Violation("model", f"{variant.uri!r} is not a directory."))
            except InvalidRequest as error:
                found.append(Violation(error.field or "model", error.message, error.hint or ""))
        return found

    def base(self, name: str) -> str:
        """Below which the files of an endpoint lie, where cloudai put them."""
        return f"gs://{self._session.bucket}/cloudai/{self._folder}/{name}"

    def artifact(self, spec: Deployment, variant: Variant) -> str:
        """Where a variant's model lies: where it is, unless something has to be put to it."""
        handler = variant.handler or spec.handler
        if variant.uri.startswith("gs://") and handler is None:
            return variant.uri.rstrip("/")
        return f"{self.base(spec.name)}/{variant.name}-{wire.suffix(spec)}"

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
        try:
            self._upload(spec, call)
            body = wire.endpoint(spec, self._record(spec, time.time()))
            made = self._endpoints.create(body, call, f"?endpointId={spec.name}")
            self._endpoints.wait(made, call)
        except CloudAIError as error:
            if not error.ambiguous and not error.retryable:
                with suppress(CloudAIError):
                    self._remove_models(spec.name, call, only=label)
            raise
        with suppress(CloudAIError):  # the first look tries again
            self._advance(resource, call)
        return resource

    def _check(self, spec: Deployment) -> None:
        if spec.mode != "realtime":
            raise UnsupportedByProvider(
                f"mode={spec.mode!r}",
                provider=PROVIDER,
                alternative=SPEC.gaps["endpoints:serverless"],
            )
        for violation in self.violations(spec):
            raise InvalidRequest(
                f"{violation.field}: {violation.problem}",
                field=violation.field,
                provider=PROVIDER,
                hint=violation.mend or None,
            )

    def _upload(self, spec: Deployment, call: Call) -> None:
        """Puts the models into the bucket, and uploads what Vertex AI calls Models."""
        self._files.check_region(self._session.bucket, call)
        needed = wire.packages(spec.requirements)
        for variant in spec.variants:
            self.put(spec, variant, call)
        for variant in spec.variants:
            artifact = self.artifact(spec, variant)
            body = wire.model(spec, variant, artifact, self._session.location, needed)
            try:
                made = self._models.ask("POST", f"{self._session.parent}/models:upload", body, call)
                self._models.wait(made, call)
            except Conflict:
                # An upload whose reply was lost: the id is made of our key.
                self._models.get(wire.model_id(spec, variant), call)

    def put(self, spec: Deployment, variant: Variant, call: Call) -> None:
        """Puts a variant's model where ``artifact`` says. Raises NotFound, InvalidRequest."""
        artifact = self.artifact(spec, variant)
        handler = variant.handler or spec.handler
        if variant.uri.startswith("gs://"):
            if not self._files.exists(variant.uri, call):
                raise NotFound(f"there is no model at {variant.uri}", provider=PROVIDER)
            if handler is None:
                names = ("handler.py", "code/inference.py", "inference.py")
                base = variant.uri.rstrip("/")
                if spec.image is None and not any(
                    self._files.exists(f"{base}/{name}", call) for name in names
                ):
                    raise InvalidRequest(
                        f"handler is not given, and {variant.uri} has none",
                        field="handler",
                        provider=PROVIDER,
                        hint="Name a Python file with load(model_dir) and predict(…)",
                    )
                return
            self._files.copy_folder(variant.uri, artifact, call)
        else:
            path = Path(variant.uri.removeprefix("file://")).expanduser()
            self._files.put_folder(artifact, path, call)
        if handler is not None:
            self._files.put_file(f"{artifact}/handler.py", Path(handler), call)

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
        self._upload(spec, call)
        on = {one["id"] for one in endpoint.get("deployedModels", ())}
        former = tuple(one for one in (*before.variants, *before.former) if one.id in on)
        kept = msgspec.structs.replace(self._record(spec, time.time()), former=former)
        self._write(resource, {"description": wire.text(kept)}, endpoint, call)
        self._known.pop(resource, None)
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
                page = _logs.read(self._session, _filter(resource), found.created_at, None, call)
                lines = tuple(line.text for line in page.lines[-_TAIL:])
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
            listed = self._endpoints.ask("GET", f"{resource}/operations", None, call)
            step = _rollout.next_step(endpoint, listed.get("operations", []), kept, time.time())
            if not self._take(resource, endpoint, step, call):
                break
            endpoint = self._endpoints.get(resource, call)
            kept = wire.record(endpoint) or kept
        return endpoint, step

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
                    self._remove_model(model, call)
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
        resource = self._endpoints.name(id)
        known = self._about(resource, call)
        if request.variant is not None:
            self._check_variant(request.variant, known)
        if known.schema is not None:
            _instances.check(known.schema, request.inputs)
        body: dict[str, Any] = {"instances": list(request.inputs)}
        if request.params:
            body["parameters"] = request.params
        try:
            data, request_id = self._session.http.raw(
                "POST", known.base, f"/{API}/{resource}:predict", msgspec.json.encode(body), call
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

    def raw_predict(self, id: str, body: bytes, call: Call) -> bytes:
        """Any body to the model's container, and its answer as it is."""
        resource = self._endpoints.name(id)
        base = self._about(resource, call).base
        return self._session.http.raw("POST", base, f"/{API}/{resource}:rawPredict", body, call)[0]

    def stream_raw_predict(self, id: str, body: bytes, call: Call) -> Iterator[bytes]:
        """The same, its answer piece by piece."""
        resource = self._endpoints.name(id)
        base = self._about(resource, call).base
        path = f"/{API}/{resource}:streamRawPredict"
        return self._session.http.pieces(base, path, body, call)

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
            known = _Known(
                base=dedicated(self._session, endpoint),
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
        return _instances.parse(self._files.get(uri, call)) if uri else None

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
                step = _rollout.next_step(endpoint, [], kept, time.time())
            found.append(_status(endpoint, step))
        return found

    # -- removing ----------------------------------------------------------------------------

    def delete(self, id: str, call: Call) -> None:
        """Undeploys, removes the endpoint, its Models and their files."""
        resource = self._endpoints.name(id)
        self._known.pop(resource, None)
        for pause in pauses():
            try:
                endpoint = self._endpoints.get(resource, call)
                deployed = [one["id"] for one in endpoint.get("deployedModels", ())]
                for one in deployed:
                    rest = [other for other in deployed if other != one]
                    split = wire.split(dict.fromkeys(rest, 1.0)) if rest else {}
                    body = {"deployedModelId": one, "trafficSplit": split}
                    made = self._endpoints.ask("POST", f"{resource}:undeployModel", body, call)
                    self._endpoints.wait(made, call)
                    deployed = rest
                    break
                if not deployed:
                    self._endpoints.wait(self._endpoints.ask("DELETE", resource, None, call), call)
                    break
            except NotFound:
                break
            except Conflict:
                # A deployment under way has to end before it can be taken back.
                time.sleep(min(pause, call.remaining()))
        name = common.last(resource)
        self._remove_models(name, call)
        self._files.remove_folder(self.base(name), call)

    def _remove_models(self, name: str, call: Call, only: str | None = None) -> None:
        wanted = f'labels.{wire.ENDPOINT_LABEL}="{name}"'
        if only is not None:
            wanted += f' AND labels.{common.KEY_LABEL}="{only}"'
        for model in list(self._models.list(wanted, call)):
            self._remove_model(model["name"], call)

    def _remove_model(self, resource: str, call: Call) -> None:
        with suppress(NotFound):
            found = self._models.get(resource, call)
            self._models.wait(self._models.ask("DELETE", resource, None, call), call)
            artifact = str(found.get("artifactUri") or "")
            label = found.get("labels", {}).get(wire.ENDPOINT_LABEL)
            if label and artifact.startswith(self.base(label) + "/"):
                self._files.remove_folder(artifact, call)


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


def _of_the_server(error: CloudAIError) -> CloudAIError | None:
    """The error that our server in the container told, out of Vertex AI's message around it."""
    begin = error.message.find("{")
    try:
        told = msgspec.json.decode(error.message[begin:].encode())["error"]
        kind = getattr(errors, str(told["type"]), None)
        message = str(told["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    if not isinstance(kind, type) or not issubclass(kind, (HandlerError, InvalidRequest)):
        return None
    if issubclass(kind, UnsupportedByProvider):
        return None
    return kind(message, provider=PROVIDER, code=told.get("type"), request_id=error.request_id)


def _filter(resource: str) -> str:
    return (
        'resource.type="aiplatform.googleapis.com/Endpoint" AND '
        f'resource.labels.endpoint_id="{common.last(resource)}"'
    )


def _cost(spec: Deployment, location: str) -> CostRange | None:
    low = high = 0.0
    for variant in spec.variants:
        machine = _catalog.machine(variant.resources, location)
        if machine.hour is None:
            return None
        low += machine.hour * variant.min
        high += machine.hour * (variant.max or variant.min)
    return CostRange(
        low=low,
        high=high,
        basis="an hour with the fewest and the most replicas (us-central1, on demand)",
        as_of=_catalog.AS_OF,
    )
