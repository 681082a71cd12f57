"""Managed online endpoints of Azure ML: a deployment a variant, traffic split at the endpoint.

The service deploys step by step (endpoint, then deployments, then traffic); ``status`` takes
the next step, so that whoever waits brings it about. ``native={"azure": {"mirror": {VARIANT:
PERCENT}}}`` copies a part of the traffic to a variant whose answers nobody sees. A model is served
by Azure ML's own server and a scoring script of ours, in Microsoft's image or in the environment
that ``native={"azure": {"environment": "azureml:NAME:VERSION"}}`` names; or by an image of one's
own, with what its package says of it.

Longer than other modules: the adapter's methods are one Protocol's, over one workspace.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from cloudai._core.calls.http import Stream
from cloudai._core.files.tree import planned
from cloudai._core.handlers import asked, container
from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.secrets import Hidden
from cloudai.errors import Conflict, HandlerError, InvalidRequest, NotFound, ProviderError
from cloudai.formats.native import unread
from cloudai.protocols import Call, Place
from cloudai.providers.azure.errors import error_of, refuse, request_id, told
from cloudai.providers.azure.ml import endpoint_wire as wire
from cloudai.providers.azure.ml import machines, model_assets
from cloudai.providers.azure.ml.job_wire import KEY
from cloudai.providers.azure.ml.workspace import API_VERSION, Workspace
from cloudai.types import (
    CostRange,
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
    Violation,
)
from cloudai.types._base import invalid


class AzureMLEndpoints:
    """Managed online endpoints of the profile's workspace. The id is the endpoint's name."""

    def __init__(self, profile: Profile) -> None:
        self._workspace = Workspace(profile)
        self._keys: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    # -- requests ------------------------------------------------------------------------

    def _violations(self, spec: Deployment) -> list[Violation]:
        found: list[Violation] = []
        if not 3 <= len(spec.name) <= 32 or spec.name[0].isdigit():
            problem = f"{spec.name!r} is not 3 to 32 characters that begin with a letter."
            found.append(Violation("name", problem, "Azure ML's rule for endpoints."))
        for variant in spec.variants:
            try:
                handler = variant.handler or spec.handler
                own = spec.image is not None
                model_assets.check(variant.uri, handler, "variants.model", image=own)
                machines.machine(variant.resources)
            except InvalidRequest as error:
                found.append(Violation(error.field or "variants", str(error)))
            if not 3 <= len(wire.named(variant)) <= 32:
                found.append(Violation("variants.name", f"{variant.name!r} exceeds 32 letters."))
        if spec.mode != "realtime":
            found.append(Violation("mode", f"{spec.mode!r} is none here.", "Use realtime."))
        if spec.secrets:
            mend = "Read Key Vault in the handler, with the endpoint's identity."
            found.append(Violation("secrets", "cannot be handed over by the service.", mend))
        if spec.image is not None:
            found += self._image_violations(spec)
        elif "environment" not in spec.native.get("azure", {}):
            found += model_assets.violations(spec)
        known: dict[str, tuple[str, ...]] = {"environment": (), "location": (), "mirror": ()}
        found += unread("azure", spec.native.get("azure", {}), known)
        return found

    def _image_violations(self, spec: Deployment) -> list[Violation]:
        found: list[Violation] = []
        try:
            container.settings(str(spec.image))
        except InvalidRequest as error:
            found.append(Violation("image", error.message, error.hint or ""))
        if spec.requirements is not None:
            mend = "Build the image with them."
            found.append(Violation("requirements", "cannot be put into an image.", mend))
        if "environment" in spec.native.get("azure", {}):
            problem = "says what serves the model, and so does image."
            found.append(Violation("native.azure.environment", problem, "Give one."))
        return found

    def plan(self, spec: Deployment) -> Plan:
        """The endpoint's and the deployments' requests, with places for the assets' ids."""
        requests: list[NativeRequest] = []
        violations = self._violations(spec)
        if not violations:
            base = self._workspace.id_of(f"onlineEndpoints/{spec.name}")
            put = f"PUT {base}{{}}?api-version={API_VERSION}"
            environment = "<the environment's id>"
            code: str | None = "<the code's id>"
            if spec.image is not None:
                body = wire.environment(container.settings(spec.image).azureml)
                environment, code = self._workspace.id_of(model_assets.environment_path(body)), None
                operation = f"PUT {environment}?api-version={API_VERSION}"
                requests.append(NativeRequest(operation=operation, body=body))
            requests.append(NativeRequest(operation=put.format(""), body=wire.endpoint(spec)))
            for variant in spec.variants:
                requests.append(
                    NativeRequest(
                        operation=put.format(f"/deployments/{wire.named(variant)}"),
                        body=wire.deployment(spec, variant, "<the model's id>", environment, code),
                    )
                )
        return Plan(
            provider="azure",
            capability="endpoints",
            requests=tuple(requests),
            violations=tuple(violations),
            dropped=tuple(wire.dropped(spec)),
            uploads=() if violations else planned(spec)[0],
            cost=None if violations else self._cost(spec),
        )

    @staticmethod
    def _cost(spec: Deployment) -> CostRange | None:
        (first, *more) = spec.variants
        if more:
            return None
        what = "for an hour up to a day; it is billed until it is deleted"
        return machines.cost(machines.machine(first.resources), first.min or 1, 1, 24, what)

    def check(self, spec: Deployment) -> None:
        refuse(self._violations(spec))

    def deploy(self, spec: Deployment, call: Call) -> str:
        """Uploads the models, makes the endpoint and its deployments. Raises what ``plan``
        lists, and Conflict for a name that is taken."""
        self.check(spec)
        path = f"onlineEndpoints/{spec.name}"
        known = self._workspace.found(path, call)
        if known is not None and (known.get("tags") or {}).get(KEY) != spec.idempotency_key:
            raise Conflict(f"an endpoint {spec.name!r} exists", provider="azure", hint="Use update")
        try:
            self._put(spec, call)
        except Conflict:
            # Another machine is at it with the same key.
            if self.owner(spec.name, call) != spec.idempotency_key:
                raise
        return spec.name

    def _put(self, spec: Deployment, call: Call, traffic: dict[str, int] | None = None) -> None:
        workspace = self._workspace
        location = str(workspace.send("GET", "", call)["location"])
        path = f"onlineEndpoints/{spec.name}"
        body: dict[str, Any] = {**wire.endpoint(spec), "location": location}
        if traffic:
            # A PUT replaces the whole: without it, all deployments might stand without traffic.
            body["properties"]["traffic"] = traffic
        workspace.send("PUT", path, call, body)
        for variant in spec.variants:
            handler = variant.handler or spec.handler
            code: str | None = None
            if spec.image is not None:
                model = model_assets.upload_model(workspace, variant.uri, call, handler)
            else:
                model = model_assets.upload_model(workspace, variant.uri, call)
                code = model_assets.upload_code(workspace, handler, call)
            environment = self._environment(spec, variant, call)
            body = wire.deployment(spec, variant, model, environment, code)
            body["location"] = location
            workspace.send("PUT", f"{path}/deployments/{wire.named(variant)}", call, body)

    def _environment(self, spec: Deployment, variant: Variant, call: Call) -> str:
        workspace = self._workspace
        if spec.image is not None:
            body = wire.environment(container.settings(spec.image).azureml)
            return model_assets.registered(workspace, body, call)
        named = spec.native.get("azure", {}).get("environment")
        if named is not None:
            return workspace.named("environments", str(named))
        return model_assets.register_environment(workspace, spec, variant.resources, call)

    def where(self, call: Call) -> Place:
        return self._workspace.place(call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key in its tag. Raises NotFound."""
        return (self._get(id, call).get("tags") or {}).get(KEY) or None

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its deployments' machines, on demand in East US."""
        rows = self._workspace.listed(f"onlineEndpoints/{id}/deployments", call)
        return machines.hourly(
            [
                (
                    str(row["properties"].get("instanceType")),
                    int((row.get("sku") or {}).get("capacity") or 1),
                )
                for row in rows
            ]
        )

    def find(self, key: str, call: Call) -> str | None:
        for item in self._workspace.listed("onlineEndpoints", call):
            if (item.get("tags") or {}).get(KEY) == key:
                path = f"onlineEndpoints/{item['name']}/deployments"
                names = {str(one["name"]) for one in self._workspace.listed(path, call)}
                kept = item["properties"].get("properties") or {}
                # One whose deployments were not all asked for is deployed anew, over itself.
                return str(item["name"]) if set(json.loads(kept[wire.TRAFFIC])) <= names else None
        return None

    def _get(self, id: str, call: Call) -> dict[str, Any]:
        try:
            return self._workspace.send("GET", f"onlineEndpoints/{id}", call)
        except NotFound as error:
            error.message = f"there is no endpoint {id!r} in the workspace"
            raise

    # -- looking -------------------------------------------------------------------------

    def status(self, id: str, call: Call) -> EndpointStatus:
        """A snapshot; once all deployments are up, gives them their shares of the traffic. What
        another program made is looked at, no more."""
        item = self._get(id, call)
        deployments = self._workspace.listed(f"onlineEndpoints/{id}/deployments", call)
        state, native = wire.state([item, *deployments])
        properties = item["properties"]
        kept = properties.get("properties") or {}
        traffic: dict[str, int] = properties.get("traffic") or {}
        ours = wire.TRAFFIC in kept
        wanted: dict[str, int] = json.loads(kept[wire.TRAFFIC]) if ours else traffic
        mirror: dict[str, int] = json.loads(kept.get(wire.MIRROR) or "{}")
        names = {str(one["name"]) for one in deployments}
        if not ours:
            pass
        elif state is State.RUNNING and not set(wanted) <= names:
            state = State.STARTING
        elif state is State.RUNNING and traffic != wanted:
            body = {
                **{name: item[name] for name in ("location", "tags", "identity") if name in item},
                "properties": {
                    "authMode": "Key",
                    "properties": kept,
                    "traffic": wanted,
                    "mirrorTraffic": mirror,
                },
            }
            self._workspace.send("PUT", f"onlineEndpoints/{id}", call, body)
            state = State.STARTING
        elif state is State.RUNNING:
            for one in deployments:
                name = str(one["name"])
                if name in wanted or name in mirror or wire.MODEL not in (one.get("tags") or {}):
                    continue
                # Ours, of before an update: no traffic goes there any more.
                with suppress(NotFound):
                    self._workspace.send("DELETE", f"onlineEndpoints/{id}/deployments/{name}", call)
        failed = state is State.FAILED
        return EndpointStatus(
            id=id,
            name=id,
            state=state,
            url=properties.get("scoringUri"),
            variants=tuple(
                wire.status(one, wanted) for one in deployments if one["name"] in wanted
            ),
            idempotency_key=(item.get("tags") or {}).get(KEY) or None,
            reason="a deployment failed; its log says why" if failed else None,
            native_state=native,
            log_tail=tuple(self._lines(id, call)[-20:]) if failed else (),
        )

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        """Raises HandlerError with the handler's own words."""
        response = self._asked(id, request, call, stream=False)
        try:
            answer = msgspec.json.decode(response.read())
            if isinstance(answer, str):  # the server may put JSON into a text
                answer = msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise ProviderError(f"the answer is no JSON ({error})", provider="azure") from None
        if "error" in answer:
            raise _handler_error(answer["error"])
        variant = response.headers.get("azureml-model-deployment")
        return Prediction(
            outputs=answer["outputs"],
            variant=wire.neutral(variant) if variant else None,
            request_id=request_id(response.headers),
        )

    def stream(self, id: str, request: PredictRequest, call: Call) -> Iterator[bytes]:
        """The answer piece by piece, where the handler gives any. Raises as ``predict`` does."""
        stream = self._asked(id, request, call, stream=True)
        with closing(stream):
            pieces = iter(stream)
            for piece in pieces:
                stream.heard()
                if piece.startswith(b'{"error"'):
                    whole = msgspec.json.decode(piece + b"".join(pieces))
                    raise _handler_error(whole["error"])
                if piece.startswith(b'{"outputs"'):  # a handler without pieces: all of it
                    whole = msgspec.json.decode(piece + b"".join(pieces))
                    yield msgspec.json.encode({"predictions": whole["outputs"]})
                    return
                yield piece

    def _asked(self, id: str, request: PredictRequest, call: Call, *, stream: bool) -> Stream:
        """The answer of one that succeeded, its body still to be read."""
        if request.variant is not None:
            known = json.loads(
                (self._get(id, call)["properties"].get("properties") or {}).get(wire.TRAFFIC)
                or "{}"
            )
            if wire.native(request.variant) not in known:
                raise invalid("variant", request.variant, "is not one of the endpoint's")
        body = asked.body(request, "inputs", "params", stream=stream)
        url, key = self._key(id, call)
        response = self._ask(url, key, body, request.variant, call)
        if response.status in {401, 404}:  # keys were made anew, or it moved
            response.close()
            self._keys.pop(id, None)
            url, key = self._key(id, call)
            response = self._ask(url, key, body, request.variant, call)
        if not 200 <= response.status < 300:
            content = response.read()
            inner = wire.server_error(response.status, told(content), response.headers)
            raise inner or error_of(response.status, response.headers, content)
        return response

    def _key(self, id: str, call: Call) -> tuple[str, str]:
        with self._lock:
            if id not in self._keys:
                url = str(self._get(id, call)["properties"]["scoringUri"])
                keys = self._workspace.send("POST", f"onlineEndpoints/{id}/listKeys", call, {})
                self._keys[id] = (url, Hidden(keys["primaryKey"]))
            return self._keys[id]

    def _ask(self, url: str, key: str, body: bytes, variant: str | None, call: Call) -> Stream:
        headers = {"Authorization": Hidden(f"Bearer {key}"), "Content-Type": "application/json"}
        if variant is not None:
            headers["azureml-model-deployment"] = wire.native(variant)
        parts = urlsplit(url)
        base = f"{parts.scheme}://{parts.netloc}"
        http = self._workspace.session.http
        return http.open("POST", base, parts.path, headers, body, call.remaining())

    def update(self, id: str, spec: Deployment, call: Call) -> None:
        """Puts the new variants beside the old; ``status`` moves the traffic once they are up,
        and then removes the old ones. A variant that keeps its name is updated in place, which
        the service does replica by replica."""
        # It stays the one that its own key made: the tag says whose it is.
        spec = msgspec.structs.replace(spec, idempotency_key=self.owner(id, call))
        before = self._get(id, call)
        refuse(self._violations(spec))
        self._put(spec, call, before["properties"].get("traffic"))

    def _lines(self, id: str, call: Call) -> list[str]:
        lines: list[str] = []
        for one in self._workspace.listed(f"onlineEndpoints/{id}/deployments", call):
            path = f"onlineEndpoints/{id}/deployments/{one['name']}/getLogs"
            asked = {"containerType": "InferenceServer", "tail": 1000}
            with suppress(NotFound, InvalidRequest):
                held = self._workspace.send("POST", path, call, asked) or {}
                lines += str(held.get("content") or "").splitlines()
        return lines

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The servers' last 1000 lines. The cursor counts lines."""
        self._get(id, call)
        lines = self._lines(id, call)
        start = int(cursor or 0)
        fresh = tuple(LogLine(text=line) for line in lines[start:])
        return LogPage(lines=fresh, cursor=str(max(start, len(lines))))

    def delete(self, id: str, call: Call) -> None:
        """Deletes the endpoint with its deployments; harmless when it is gone."""
        self._keys.pop(id, None)
        with suppress(NotFound):
            self._workspace.send("DELETE", f"onlineEndpoints/{id}", call)

    def list(self, call: Call) -> Sequence[EndpointStatus]:
        """The endpoints that were made through cloudai."""
        return [
            self.status(str(item["name"]), call)
            for item in self._workspace.listed("onlineEndpoints", call)
            if (item.get("tags") or {}).get(KEY)
        ]


def _handler_error(said: dict[str, Any]) -> HandlerError:
    """What the scoring script tells of a handler that failed."""
    return HandlerError(
        f"{said.get('type')}: {said.get('message')}",
        code=str(said.get("type")),
        provider="azure",
        status=400,
    )
