"""Endpoints on SageMaker: real-time, serverless and asynchronous.

Longer than other modules: the adapter's methods are one Protocol's, over one session.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, Final

import msgspec

from cloudai._core.calls import wait
from cloudai._core.calls.call import multi_step_create
from cloudai._core.files.tree import uploads
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CloudAIError,
    Conflict,
    EndpointError,
    InvalidRequest,
    NotFound,
)
from cloudai.protocols import Call, Place
from cloudai.providers.aws import catalog, common, images, s3, tags
from cloudai.providers.aws import logs as _logs
from cloudai.providers.aws.endpoints import model_upload, scaling_wire, wire
from cloudai.providers.aws.endpoints.invoke import Asker, Mode
from cloudai.providers.aws.endpoints.plan import Drafted, Planner
from cloudai.providers.aws.endpoints.scaling import Scaler
from cloudai.providers.aws.session import session
from cloudai.types import (
    Deployment,
    EndpointStatus,
    LogPage,
    NativeRequest,
    Plan,
    Prediction,
    PredictRequest,
    State,
)

_TAIL: Final = 20


class AwsEndpoints:
    """Endpoints: a Model for each variant, an EndpointConfig and an Endpoint, all removed
    together. ``native={"aws": {"CreateModel": {…}, "CreateEndpointConfig": {…}, "CreateEndpoint":
    {…}, "UpdateEndpoint": {…}}}`` is merged into the requests last."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._store = s3.Store(self._session)
        self._planner = Planner(self._session)
        self._keys = tags.Keys(self._session, "endpoint", "describe_endpoint", "Endpoint")
        self._lock = threading.Lock()
        self._configs: dict[str, dict[str, Any]] = {}
        self._asker = Asker(self._session, self._store, self._mode)
        self._scaler = Scaler(self._session)
        self._fresh: dict[str, set[str]] = {}
        self._updating: dict[str, tuple[str, list[scaling_wire.Rule]]] = {}

    # Planning.

    def plan(self, spec: Deployment) -> Plan:
        """The requests, what SageMaker would refuse, what is lost."""
        draft = common.Draft()
        made = self._planner.draft(spec, draft)
        travels = draft.attempt(lambda: uploads(spec)) if made is not None else None
        requests: list[NativeRequest] = []
        cost = None
        if made is not None:
            for _, found in made.sources:
                if found.target is not None:
                    body = {"from": found.uri, "to": found.target}
                    requests.append(NativeRequest(operation="s3:PutObject", body=body))
            requests += [
                NativeRequest(operation="sagemaker:CreateModel", body=body) for body in made.models
            ]
            config = made.config
            requests.append(NativeRequest(operation="sagemaker:CreateEndpointConfig", body=config))
            body = wire.endpoint(spec, config["EndpointConfigName"])
            requests.append(NativeRequest(operation="sagemaker:CreateEndpoint", body=body))
            requests += _scaling_requests(spec)
            first = config["ProductionVariants"][0]
            if len(spec.variants) == 1 and "InstanceType" in first:
                cost = common.cost(
                    first["InstanceType"], first["InitialInstanceCount"], 3600, 86400,
                    "for an hour up to a day; it is billed until it is deleted",
                )  # fmt: skip
        return Plan(
            provider="aws",
            capability="endpoints",
            requests=tuple(requests),
            violations=draft.violations,
            dropped=tuple(draft.dropped),
            notes=()
            if draft.violations or spec.image is not None
            else images.notes(spec.framework, "inference", date.today()),
            uploads=travels or (),
            cost=cost,
        )

    # Doing.

    def check(self, spec: Deployment) -> None:
        self._checked(spec, common.Draft())

    def _checked(self, spec: Deployment, draft: common.Draft) -> Drafted:
        """The requests, of which nothing is wrong."""
        made = self._planner.draft(spec, draft)
        draft.refuse()
        assert made is not None  # noqa: S101 - nothing was wrong
        return made

    def deploy(self, spec: Deployment, call: Call) -> str:
        """Uploads, creates the models, the config and the endpoint. Its id is its name."""
        made = self._checked(spec, common.Draft())
        self._refuse_taken(spec, call)
        self._store.check_bucket(self._session.bucket(), "bucket", call)
        self._keys.sending(spec.idempotency_key, spec.name)
        fresh = self._fresh.setdefault(str(spec.idempotency_key), set())
        try:
            with multi_step_create():
                self._prepare(made, fresh, call)
                body = wire.endpoint(spec, made.config["EndpointConfigName"])
                try:
                    self._session.call("sagemaker", "create_endpoint", call, **body)
                except Conflict as error:
                    return self._keys.adopt(error, spec.idempotency_key, spec.name, call)
        except CloudAIError as error:
            # What an unanswered request may have made is found by the next try, or by discard.
            if not error.ambiguous and not error.retryable:
                self._discard(fresh, call)
                self._fresh.pop(str(spec.idempotency_key), None)
            raise
        self._fresh.pop(str(spec.idempotency_key), None)
        return spec.name

    def discard(self, spec: Deployment, call: Call) -> None:
        """Removes what was made with the spec's key for an endpoint that does not exist."""
        try:
            self._described(spec.name, call)
        except NotFound:
            if not self._sweep(spec.name, None, call, spec.idempotency_key):
                self._store.delete_under(
                    f"s3://{self._session.bucket()}/cloudai/{spec.name}/", call
                )

    def _refuse_taken(self, spec: Deployment, call: Call) -> None:
        try:
            self._session.call("sagemaker", "describe_endpoint", call, EndpointName=spec.name)
        except NotFound:
            return
        taken = Conflict(f"there is an endpoint {spec.name!r} already", provider="aws")
        self._keys.adopt(taken, spec.idempotency_key, spec.name, call)

    def _prepare(self, made: Drafted, fresh: set[str], call: Call) -> None:
        """Uploads, and creates models and config; those that are there already are the same
        ones, since their names hold their digests. ``fresh`` takes the names of the new ones."""
        for where, source in made.sources:
            model_upload.upload(self._store, source, f"{where}.model", call)
        bodies = [("create_model", "ModelName", body) for body in made.models]
        bodies.append(("create_endpoint_config", "EndpointConfigName", made.config))
        for operation, name, body in bodies:
            with suppress(Conflict):
                self._session.call("sagemaker", operation, call, **body)
                fresh.add(f"{name}:{body[name]}")

    def _discard(self, fresh: set[str], call: Call) -> None:
        """Removes what was made for nothing, and was made by us: what was there before may
        serve another, who works with the same key or the same model."""
        for one in sorted(fresh):  # the config goes before its models
            field, _, name = one.partition(":")
            kind = "endpoint_config" if field == "EndpointConfigName" else "model"
            self._gone(f"delete_{kind}", call, **{field: name})
        fresh.clear()

    def _gone(self, operation: str, call: Call, **parameters: str) -> None:
        """Deletes something; what is gone is done."""
        try:
            self._session.call("sagemaker", operation, call, **parameters)
        except NotFound:
            return

    def find(self, key: str, call: Call) -> str | None:
        """The endpoint that was deployed with a key."""
        return self._keys.find(key, call)

    def where(self, call: Call) -> Place:
        return self._session.place(call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key that it carries. Raises NotFound."""
        return self._keys.owner(id, call)

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its machines, on demand; 0.0 where none runs."""
        described = self._described(id, call)
        try:
            rows = self._config(described["EndpointConfigName"], call)["ProductionVariants"]
        except NotFound:
            return None
        if any("ServerlessConfig" in row for row in rows):
            return None  # it is billed by the request
        now = {
            row["VariantName"]: row.get("CurrentInstanceCount")
            for row in described.get("ProductionVariants", ())
        }
        return catalog.hourly(
            [
                (
                    row.get("InstanceType", ""),
                    now.get(row["VariantName"]) or row.get("InitialInstanceCount", 1),
                )
                for row in rows
            ]
        )

    def _described(self, id: str, call: Call) -> dict[str, Any]:
        return self._session.call("sagemaker", "describe_endpoint", call, EndpointName=id)

    def _config(self, name: str, call: Call) -> dict[str, Any]:
        """An endpoint config; they never change, so that one look is enough."""
        found = self._configs.get(name)
        if found is None:
            found = self._session.call(
                "sagemaker", "describe_endpoint_config", call, EndpointConfigName=name
            )
            with self._lock:
                if len(self._configs) > 256:
                    self._configs.clear()
                self._configs[name] = found
        return found

    def status(self, id: str, call: Call) -> EndpointStatus:
        """The snapshot. The first look at an endpoint in service sets up its scaling; raises
        EndpointError once for an update of this process that was rolled back."""
        described = self._described(id, call)
        found = self._snapshot(described, call)
        if found.state is State.RUNNING:
            self._settle(id, described, call)
        elif found.state is State.FAILED:
            tail = _logs.tail(self._session, _group(id), "", _TAIL, call)
            found = msgspec.structs.replace(found, log_tail=tail)
        return found

    def _snapshot(self, described: dict[str, Any], call: Call) -> EndpointStatus:
        models: dict[str, str] = {}
        try:
            config = self._config(described["EndpointConfigName"], call)
            models = {row["VariantName"]: row["ModelName"] for row in config["ProductionVariants"]}
        except NotFound:
            pass  # somebody deleted the config under the endpoint; it serves all the same
        base, prefix = self._session.base("sagemaker-runtime")
        return wire.snapshot(described, models, f"{base}{prefix}")

    def _settle(self, id: str, described: dict[str, Any], call: Call) -> None:
        """What is left to do once an endpoint is in service."""
        config, arn = described["EndpointConfigName"], described["EndpointArn"]
        wanted = self._updating.pop(id, None)
        if wanted is not None:
            target, before = wanted
            self._sweep(id, config, call)
            if target != config:
                self._scaler.keep(arn, before, call)
                raise EndpointError(
                    f"the update of {id!r} was rolled back: it serves what it served before",
                    provider="aws",
                    hint="An alarm of the rollout fired, or the new container did not come up: "
                    "see the endpoint's logs",
                )
        variants = {row["VariantName"] for row in described.get("ProductionVariants", ())}
        self._scaler.set_up(id, arn, variants, call)

    def _sweep(self, id: str, config: str | None, call: Call, key: str | None = None) -> bool:
        """Removes the endpoint's configs and models that ``config`` does not use; with ``key``
        those alone that were made with it. Gives whether others are left."""
        others = False
        keep: set[str] = set()
        if config is not None:
            rows = self._config(config, call)["ProductionVariants"]
            keep = {config, *(row["ModelName"] for row in rows)}
        for kind, operation, field in (
            ("config", "delete_endpoint_config", "EndpointConfigName"),
            ("model", "delete_model", "ModelName"),
        ):
            for arn, found in tags.tagged(self._session, kind, {wire.ENDPOINT_TAG: id}, call):
                name = tags.name_of(arn)
                if key is not None and found.get(common.KEY_TAG) != key:
                    others = True
                elif name not in keep:
                    self._gone(operation, call, **{field: name})
        return others

    # Asking.

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        """Raises HandlerError where the endpoint's own code failed; NotFound."""
        return self._asker.predict(id, request, call)

    def stream(self, id: str, request: PredictRequest, call: Call) -> Iterator[bytes]:
        """The container's answer piece by piece, as it writes it."""
        return self._asker.stream(id, request, call)

    def _mode(self, id: str, call: Call) -> Mode:
        described = self._described(id, call)
        results = described.get("AsyncInferenceConfig")
        rows = described.get("ProductionVariants", ())
        return Mode(
            results["OutputConfig"]["S3OutputPath"] if results else None,
            any("CurrentServerlessConfig" in row for row in rows),
        )

    # Changing.

    def update(self, id: str, spec: Deployment, call: Call) -> None:
        """Puts other variants behind the endpoint, by the spec's rollout. What they replace is
        removed once the endpoint is seen in service again."""
        draft = common.Draft()
        made = self._checked(spec, draft)
        described = self._described(id, call)
        arn, name = described["EndpointArn"], made.config["EndpointConfigName"]
        rules, before = scaling_wire.rules(spec), self._scaler.rules(arn, call)
        kept = {one.variant for one in rules}
        body = wire.update(spec, name, retain=any(one.variant in kept for one in before))
        shape = self._session.model("sagemaker").operation_model("UpdateEndpoint").input_shape
        draft.check(shape, body, wire.FIELDS)
        draft.refuse()
        # SageMaker refuses to take away a variant that still scales.
        dropped = [one for one in before if one.variant not in kept]
        if described["EndpointConfigName"] != name:
            fresh = self._fresh.setdefault(name, set())
            self._prepare(made, fresh, call)
            self._scaler.take_down(id, dropped, call)
            # Noted first: a try whose reply is lost took effect, and what it replaced is to go.
            self._updating.setdefault(id, (name, before))
            self._send_update(id, fresh, body, call)
            self._fresh.pop(name, None)
        elif rules != before:
            self._scaler.take_down(id, dropped, call)
        if rules != before:
            self._scaler.keep(arn, rules, call)
        self._scaler.anew(id)

    def _send_update(self, id: str, fresh: set[str], body: dict[str, Any], call: Call) -> None:
        try:
            self._session.call("sagemaker", "update_endpoint", call, **body)
        except Conflict:
            # A try whose reply was lost is under way, or somebody else's update is.
            found = self._described(id, call)
            pending = found.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
            if body["EndpointConfigName"] not in {pending, found["EndpointConfigName"]}:
                self._updating.pop(id, None)
                self._discard(fresh, call)
                raise
        except CloudAIError as error:
            if not error.ambiguous and not error.retryable:
                self._updating.pop(id, None)
                self._discard(fresh, call)
            raise

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """New lines of all variants' machines."""
        return _logs.page(self._session, _group(id), "", cursor, call)

    def delete(self, id: str, call: Call) -> None:
        """Removes the endpoint, its configs, its models, its scaling and its objects in S3."""
        config: str | None = None
        try:
            described = self._described(id, call)
        except NotFound:
            described = None
        if described is not None:
            config = described["EndpointConfigName"]
            arn = described["EndpointArn"]
            self._scaler.take_down(id, self._scaler.rules(arn, call), call)
            self._delete_endpoint(id, call)
        if config is not None:
            self._delete_behind(config, call)
        self._sweep(id, None, call)
        self._store.delete_under(f"s3://{self._session.bucket()}/cloudai/{id}/", call)
        self._asker.forget(id)
        self._updating.pop(id, None)

    def _delete_behind(self, config: str, call: Call) -> None:
        """Removes a config and its models, those that carry our tag: somebody may have put the
        endpoint onto a config of his own."""

        def ours(arn: str) -> bool:
            return common.KIND_TAG in tags.of(self._session, arn, call)

        with suppress(NotFound):
            found = self._config(config, call)
            for row in found["ProductionVariants"]:
                with suppress(NotFound):
                    name = row["ModelName"]
                    model = self._session.call("sagemaker", "describe_model", call, ModelName=name)
                    if ours(model["ModelArn"]):
                        self._gone("delete_model", call, ModelName=name)
            if ours(found["EndpointConfigArn"]):
                self._gone("delete_endpoint_config", call, EndpointConfigName=config)

    def _delete_endpoint(self, id: str, call: Call) -> None:
        """Deletes the endpoint; one that is being updated is waited for, as SageMaker wants."""
        for pause in wait.intervals(remote=True, timeout=call.remaining()):
            try:
                self._gone("delete_endpoint", call, EndpointName=id)
            except (Conflict, InvalidRequest):
                time.sleep(pause)
            else:
                return
        raise Conflict(
            f"the endpoint {id!r} is being updated", provider="aws", hint="Delete it again later"
        )

    def list(self, call: Call) -> Sequence[EndpointStatus]:
        """The endpoints that cloudai made."""
        found: list[EndpointStatus] = []
        for name in self._keys.listed(call):
            try:
                found.append(self._snapshot(self._described(name, call), call))
            except NotFound:
                continue  # the tagging service has not heard yet that it was deleted
        return found


def _scaling_requests(spec: Deployment) -> list[NativeRequest]:
    """What sets up the scaling once the endpoint is in service."""
    made: list[NativeRequest] = []

    def add(operation: str, body: dict[str, Any]) -> None:
        made.append(NativeRequest(operation=operation, body=body))

    for rule in scaling_wire.rules(spec):
        service = "application-autoscaling"
        add(f"{service}:RegisterScalableTarget", scaling_wire.target(spec.name, rule))
        add(f"{service}:PutScalingPolicy", scaling_wire.policy(spec.name, rule))
        if rule.from_zero:
            add(f"{service}:PutScalingPolicy", scaling_wire.wake_policy(spec.name, rule))
            # The policy's ARN is known once it is there.
            alarm = scaling_wire.wake_alarm(spec.name, rule, "PolicyARN")
            add("cloudwatch:PutMetricAlarm", alarm)
    return made


def _group(id: str) -> str:
    return f"/aws/sagemaker/Endpoints/{id}"
