"""Endpoints of the fake provider. A model directory with a real handler is served by that
handler, in this process; anything else answers by the script, or says its inputs again."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.files.paths import here
from cloudai._core.handlers.handler import Handler, find_handler, load_handler, model_digest
from cloudai._core.profiles.config import Profile
from cloudai.errors import CloudAIError, Conflict, HandlerError, InvalidRequest
from cloudai.protocols import Call
from cloudai.providers.fake._jobs import FREE
from cloudai.providers.fake._state import FakeState, speed
from cloudai.providers.fake._store import EndpointRow
from cloudai.providers.fake.training import MANIFEST
from cloudai.types import (
    JSON,
    Deployment,
    EndpointStatus,
    LogLine,
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
from cloudai.types._base import invalid, met


class _Fate(msgspec.Struct, frozen=True):
    starting: float
    state: State
    reason: str | None


class _Served(msgspec.Struct):
    """What one variant runs: a handler and its lock, or None for the scripted answers."""

    handler: Handler | None
    version: str | None
    lock: threading.Lock


class FakeEndpoints:
    """Endpoints that exist in the store alone; ``predict`` runs in the calling process.

    A directory that a fake training job made has no weights, so that its handler is checked and
    not run.
    """

    def __init__(self, profile: Profile) -> None:
        self._cloud_state = profile.shared(FakeState.of)
        self._store = self._cloud_state.store
        self._speed = speed(profile)
        self._served: dict[tuple[str, float, str], _Served] = {}
        self._lock = threading.Lock()
        self._turns = itertools.count()

    def plan(self, spec: Deployment) -> Plan:
        """What a deployment would do; only local paths are looked at."""
        dropped = ["host, port and token: a fake endpoint is on no network"]
        dropped += [
            f"variants.{variant.name}: the fake has no replicas to scale"
            for variant in spec.variants
            if variant.max is not None
        ]
        return Plan(
            provider="fake",
            capability="endpoints",
            requests=(
                NativeRequest(operation="fake:endpoints.deploy", body=msgspec.to_builtins(spec)),
            ),
            violations=tuple(
                Violation(error.field or "model", error.message, error.hint or "")
                for variant in spec.variants
                for error in variant_faults(variant, spec.handler)
            ),
            dropped=tuple(dropped),
            cost=FREE,
        )

    def deploy(self, spec: Deployment, call: Call) -> str:
        """Raises InvalidRequest for the first violation, Conflict for a name that is taken."""
        key = spec.idempotency_key or call.key or uuid.uuid4().hex
        with self._cloud_state.serving("endpoints.deploy", spec, call):
            self._check(spec)
            row = EndpointRow(
                name=spec.name,
                key=key,
                spec=msgspec.json.encode(spec),
                fate=self._fate(),
                created=0.0,
                updated=0.0,
            )
            return self._store.deploy(row).name

    def update(self, id: str, spec: Deployment, call: Call) -> None:
        """Replaces the spec; the whole traffic moves at once, whatever the rollout."""
        with self._cloud_state.serving("endpoints.update", spec, call):
            self._check(spec)
            if spec.name != id:
                raise invalid("name", spec.name, f"is not the endpoint's, {id!r}")
            self._store.redeploy(id, msgspec.json.encode(spec), self._fate())

    def find(self, key: str, call: Call) -> str | None:
        with self._cloud_state.serving("endpoints.find", key, call), self._store.open() as db:
            rows = db.execute("SELECT name FROM endpoints WHERE key=?", (key,)).fetchall()
            return rows[0][0] if rows else None

    def status(self, id: str, call: Call) -> EndpointStatus:
        with self._cloud_state.serving("endpoints.status", id, call):
            with self._store.open() as db:
                now, row = self._store.now(db), self._store.endpoint(db, id)
            return self._status(row, now)

    def list(self, call: Call) -> Sequence[EndpointStatus]:
        with self._cloud_state.serving("endpoints.list", None, call):
            with self._store.open() as db:
                now, rows = self._store.now(db), self._store.endpoints(db)
            return [self._status(row, now) for row in rows]

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        with self._cloud_state.serving("endpoints.logs", id, call):
            with self._store.open() as db:
                now, row = self._store.now(db), self._store.endpoint(db, id)
            status = self._status(row, now)
            lines = [LogLine("starting", row.updated)]
            if status.state is State.RUNNING:
                lines.append(LogLine("in service", row.updated + _fate(row).starting))
            lines += [LogLine(text) for text in status.log_tail]
            seen = int(cursor or 0)
            return LogPage(lines=tuple(lines[seen:]), cursor=str(max(seen, len(lines))))

    def delete(self, id: str, call: Call) -> None:
        with self._cloud_state.serving("endpoints.delete", id, call), self._store.writing() as db:
            db.execute("DELETE FROM endpoints WHERE name=?", (id,))
        with self._lock:
            for known in [key for key in self._served if key[0] == id]:
                del self._served[known]

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        """Raises NotFound, Conflict while it is not in service, HandlerError."""
        with self._cloud_state.serving("endpoints.predict", request, call):
            with self._store.open() as db:
                now, row = self._store.now(db), self._store.endpoint(db, id)
            if now < row.updated + _fate(row).starting or _fate(row).state is State.FAILED:
                raise Conflict(f"the endpoint {id!r} is not in service", provider="fake")
            spec = _spec(row)
            variant = self._pick(spec, request.variant)
            served = self._serve(row, spec, variant)
            return Prediction(
                outputs=self._outputs(served, request),
                variant=variant.name,
                version=served.version,
                request_id=f"fake-{next(self._cloud_state.counter)}",
            )

    def _check(self, spec: Deployment) -> None:
        for violation in self.plan(spec).violations:
            raise InvalidRequest(str(violation), field=violation.field, provider="fake")

    def _fate(self) -> bytes:
        script = self._cloud_state.script.endpoints
        fate = _Fate(script.starting / self._speed, State(script.state), script.reason)
        return msgspec.json.encode(fate)

    def _status(self, row: EndpointRow, now: float) -> EndpointStatus:
        spec, fate = _spec(row), _fate(row)
        state, reason, tail = State.STARTING, None, ()
        versions: dict[str, str | None] = {}
        if now >= row.updated + fate.starting:
            state, reason = fate.state, fate.reason
            try:
                for variant in spec.variants:
                    versions[variant.name] = self._serve(row, spec, variant).version
            except CloudAIError as error:
                state, reason = State.FAILED, error.message.splitlines()[0]
                tail = tuple(error.message.splitlines())
        whole = sum(variant.weight for variant in spec.variants)
        return EndpointStatus(
            id=row.name,
            name=row.name,
            state=state,
            variants=tuple(
                VariantStatus(
                    name=variant.name,
                    model=variant.uri,
                    share=variant.weight / whole,
                    version=versions.get(variant.name),
                    ready=max(variant.min, 1) if state is State.RUNNING else 0,
                )
                for variant in spec.variants
            ),
            idempotency_key=row.key,
            reason=reason,
            native_state=state.value.lower(),
            created_at=row.created,
            log_tail=tail,
            cost=0.0,
        )

    def _pick(self, spec: Deployment, name: str | None) -> Variant:
        """The variant that was asked for; else in turn, so that each one's part of any run of
        requests is its weight."""
        if name is not None:
            for variant in spec.variants:
                if variant.name == name:
                    return variant
            known = [variant.name for variant in spec.variants]
            raise invalid("variant", name, f"is not one of {known}")
        whole = sum(variant.weight for variant in spec.variants)
        # The golden section spreads the turns evenly over 0 to 1, in a fixed order.
        spot = next(self._turns) * 0.6180339887498949 % 1.0 * whole
        for variant in spec.variants:
            spot -= variant.weight
            if spot < 0:
                return variant
        return max(spec.variants, key=lambda variant: variant.weight)

    def _outputs(self, served: _Served, request: PredictRequest) -> list[JSON]:
        inputs = list(request.inputs)
        scripted = self._next_prediction()
        if scripted is not None:
            if len(scripted) != len(inputs):
                raise HandlerError(
                    f"the script gives {len(scripted)} outputs for {len(inputs)} inputs",
                    provider="fake",
                    code="WrongLength",
                )
            return scripted
        if served.handler is not None:
            with served.lock:
                return served.handler.predict(inputs, request.params)
        output = self._cloud_state.script.endpoints.output
        return inputs if output is msgspec.UNSET else [output] * len(inputs)

    def _next_prediction(self) -> list[JSON] | None:
        cloud_state = self._cloud_state
        with cloud_state.lock:
            return cloud_state.predictions.popleft() if cloud_state.predictions else None

    def _serve(self, row: EndpointRow, spec: Deployment, variant: Variant) -> _Served:
        key = (row.name, row.updated, variant.name)
        with self._lock:
            found = self._served.get(key)
            if found is None:
                found = self._served[key] = _Served(
                    loaded(variant, spec.handler), _version(variant), threading.Lock()
                )
            return found

    def __reduce__(self) -> Any:
        raise TypeError("an adapter does not pickle")


def _spec(row: EndpointRow) -> Deployment:
    return msgspec.json.decode(row.spec, type=met(Deployment))


def _fate(row: EndpointRow) -> _Fate:
    return msgspec.json.decode(row.fate, type=met(_Fate))


def _handler_of(variant: Variant, shared: str | None) -> Path | None:
    name = variant.handler or shared
    return Path(name).expanduser().absolute() if name is not None else None


def variant_faults(variant: Variant, shared: str | None) -> list[InvalidRequest]:
    """What is wrong with a variant's model or handler (its own, or the shared one), found
    without running either."""
    folder = here(variant.uri)
    if folder is None:
        return []
    handler = _handler_of(variant, shared)
    try:
        if not folder.is_dir():
            raise invalid("model", variant.uri, "is not a directory", "Mend the path.")
        if not (folder / MANIFEST).exists() or handler is not None:
            find_handler(folder, handler)
    except InvalidRequest as error:
        return [error]
    return []


def loaded(variant: Variant, shared: str | None) -> Handler | None:
    """The variant's handler with its model; None for what the fake has to make up."""
    folder = here(variant.uri)
    if folder is None or (folder / MANIFEST).exists():
        return None
    return load_handler(folder, _handler_of(variant, shared))


def _version(variant: Variant) -> str | None:
    model = variant.model
    if not isinstance(model, str) and (model.version or model.digest):
        return model.version or model.digest
    folder = here(variant.uri)
    return model_digest(folder) if folder is not None and folder.is_dir() else None
