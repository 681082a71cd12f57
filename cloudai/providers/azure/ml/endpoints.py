"""Managed online endpoints of Azure ML: a deployment a variant, traffic split at the endpoint.

The service deploys step by step (endpoint, then deployments, then traffic); ``status`` takes
the next step, so that whoever waits brings it about. ``native={"azure": {"mirror": {VARIANT:
PERCENT}}}`` copies a part of the traffic to a variant whose answers nobody sees.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import httpx2
import msgspec

from cloudai._core.config import Profile
from cloudai.errors import Conflict, HandlerError, InvalidRequest, NotFound, ProviderError
from cloudai.protocols import Call
from cloudai.providers.azure._errors import error_of, request_id
from cloudai.providers.azure._transport import failure
from cloudai.providers.azure.ml import _models
from cloudai.providers.azure.ml._machines import machine
from cloudai.providers.azure.ml._wire import KEY
from cloudai.providers.azure.ml._workspace import API_VERSION, Workspace
from cloudai.providers.azure.training import refuse
from cloudai.types import (
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
from cloudai.types._base import invalid

_TRAFFIC: Final = "cloudai.traffic"
_MIRROR: Final = "cloudai.mirror"
_STATES: Final[dict[str, State]] = {
    "creating": State.STARTING,
    "updating": State.STARTING,
    "scaling": State.STARTING,
    "deleting": State.STOPPING,
    "succeeded": State.RUNNING,
    "failed": State.FAILED,
    "canceled": State.CANCELLED,
}


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
                _models.check(variant.uri, variant.handler or spec.handler, "variants.model")
                machine(variant.resources)
            except InvalidRequest as error:
                found.append(Violation(error.field or "variants", str(error)))
            if not 3 <= len(_name(variant)) <= 32:
                found.append(Violation("variants.name", f"{variant.name!r} exceeds 32 letters."))
        if spec.mode != "realtime":
            found.append(Violation("mode", f"{spec.mode!r} is none here.", "Use realtime."))
        if spec.secrets:
            mend = "Read Key Vault in the handler, with the endpoint's identity."
            found.append(Violation("secrets", "cannot be handed over by the service.", mend))
        for name in set(spec.native.get("azure", {})) - {"mirror", "instance_count"}:
            found.append(Violation(f"native.azure.{name}", "is not known here."))
        return found

    def _endpoint(self, spec: Deployment) -> dict[str, Any]:
        native = spec.native.get("azure", {})
        return {
            "location": str(native.get("location", "")),
            "tags": {**spec.tags, KEY: spec.idempotency_key or ""},
            "identity": {"type": "SystemAssigned"},
            "properties": {
                "authMode": "Key",
                "properties": {
                    _TRAFFIC: json.dumps(_shares(spec)),
                    _MIRROR: json.dumps(native.get("mirror", {})),
                },
            },
        }

    def _deployment(
        self, spec: Deployment, variant: Variant, model: str, code: str, environment: str
    ) -> dict[str, Any]:
        variables = dict(spec.env)
        if spec.workers is not None:
            variables["WORKER_COUNT"] = str(spec.workers)
        return {
            "location": "",
            "sku": {"name": "Default", "capacity": variant.min or 1},
            "tags": {"cloudai_model": variant.uri[:256]},
            "properties": {
                "endpointComputeType": "Managed",
                "model": model,
                "codeConfiguration": {"codeId": code, "scoringScript": _models.SCRIPT},
                "environmentId": environment,
                "environmentVariables": variables,
                "instanceType": machine(variant.resources),
                "requestSettings": {
                    "requestTimeout": "PT3M",
                    "maxConcurrentRequestsPerInstance": max(1, spec.workers or 1),
                },
                "scaleSettings": {"scaleType": "Default"},
            },
        }

    def plan(self, spec: Deployment) -> Plan:
        """The endpoint's and the deployments' requests, with places for the assets' ids."""
        requests: list[NativeRequest] = []
        violations = self._violations(spec)
        if not violations:
            base = self._workspace.id_of(f"onlineEndpoints/{spec.name}")
            put = f"PUT {base}{{}}?api-version={API_VERSION}"
            requests.append(NativeRequest(operation=put.format(""), body=self._endpoint(spec)))
            for variant in spec.variants:
                ids = ("<the model's id>", "<the code's id>", "<the environment's id>")
                requests.append(
                    NativeRequest(
                        operation=put.format(f"/deployments/{_name(variant)}"),
                        body=self._deployment(spec, variant, *ids),
                    )
                )
        return Plan(
            provider="azure",
            capability="endpoints",
            requests=tuple(requests),
            violations=tuple(violations),
            losses=tuple(_losses(spec)),
        )

    def deploy(self, spec: Deployment, call: Call) -> str:
        """Uploads the models, makes the endpoint and its deployments. Raises what ``plan``
        lists, and Conflict for a name that is taken."""
        refuse(self._violations(spec))
        path = f"onlineEndpoints/{spec.name}"
        known = self._workspace.found(path, call)
        if known is not None and (known.get("tags") or {}).get(KEY) != spec.idempotency_key:
            raise Conflict(f"an endpoint {spec.name!r} exists", provider="azure", hint="Use update")
        self._put(spec, call)
        return spec.name

    def _put(self, spec: Deployment, call: Call) -> None:
        workspace = self._workspace
        location = str(workspace.send("GET", "", call)["location"])
        path = f"onlineEndpoints/{spec.name}"
        workspace.send("PUT", path, call, {**self._endpoint(spec), "location": location})
        for variant in spec.variants:
            handler = variant.handler or spec.handler
            body = self._deployment(
                spec,
                variant,
                _models.model(workspace, variant.uri, call),
                _models.code(workspace, handler, call),
                _models.environment(
                    workspace, spec.image, spec.requirements, variant.resources, call
                ),
            )
            body["location"] = location
            workspace.send("PUT", f"{path}/deployments/{_name(variant)}", call, body)

    def find(self, key: str, call: Call) -> str | None:
        for item in self._workspace.listed("onlineEndpoints", call):
            if (item.get("tags") or {}).get(KEY) == key:
                path = f"onlineEndpoints/{item['name']}/deployments"
                names = {str(one["name"]) for one in self._workspace.listed(path, call)}
                kept = item["properties"].get("properties") or {}
                # One whose deployments were not all asked for is deployed anew, over itself.
                return str(item["name"]) if set(json.loads(kept[_TRAFFIC])) <= names else None
        return None

    def _get(self, id: str, call: Call) -> dict[str, Any]:
        try:
            return self._workspace.send("GET", f"onlineEndpoints/{id}", call)
        except NotFound as error:
            error.message = f"there is no endpoint {id!r} in the workspace"
            raise

    # -- looking -------------------------------------------------------------------------

    def status(self, id: str, call: Call) -> EndpointStatus:
        """A snapshot; once all deployments are up, gives them their shares of the traffic."""
        item = self._get(id, call)
        deployments = self._workspace.listed(f"onlineEndpoints/{id}/deployments", call)
        state, native = _state([item, *deployments])
        properties = item["properties"]
        kept = properties.get("properties") or {}
        wanted: dict[str, int] = json.loads(kept.get(_TRAFFIC) or "{}")
        mirror: dict[str, int] = json.loads(kept.get(_MIRROR) or "{}")
        traffic: dict[str, int] = properties.get("traffic") or {}
        names = {str(one["name"]) for one in deployments}
        if state is State.RUNNING and not set(wanted) <= names:
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
            for name in names - set(wanted) - set(mirror):
                # Of before an update: no traffic goes there any more.
                with suppress(NotFound):
                    self._workspace.send("DELETE", f"onlineEndpoints/{id}/deployments/{name}", call)
        failed = state is State.FAILED
        return EndpointStatus(
            id=id,
            name=id,
            state=state,
            url=properties.get("scoringUri"),
            variants=tuple(_variant(one, wanted) for one in deployments if one["name"] in wanted),
            idempotency_key=(item.get("tags") or {}).get(KEY) or None,
            reason="a deployment failed; its log says why" if failed else None,
            native_state=native,
            log_tail=tuple(self._lines(id, call)[-20:]) if failed else (),
        )

    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction:
        """Raises HandlerError with the handler's own words."""
        if request.variant is not None:
            known = json.loads(
                (self._get(id, call)["properties"].get("properties") or {}).get(_TRAFFIC) or "{}"
            )
            if _native(request.variant) not in known:
                raise invalid("variant", request.variant, "is not one of the endpoint's")
        body = msgspec.json.encode({"inputs": request.inputs, "params": request.params})
        url, key = self._key(id, call)
        response = self._ask(url, key, body, request.variant, call)
        if response.status_code in {401, 404}:  # keys were made anew, or it moved
            self._keys.pop(id, None)
            url, key = self._key(id, call)
            response = self._ask(url, key, body, request.variant, call)
        if not response.is_success:
            raise error_of(response.status_code, response.headers, response.content)
        try:
            answer = msgspec.json.decode(response.content)
            if isinstance(answer, str):  # the server may put JSON into a text
                answer = msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise ProviderError(f"the answer is no JSON ({error})", provider="azure") from None
        if "error" in answer:
            told = answer["error"]
            raise HandlerError(
                f"{told.get('type')}: {told.get('message')}", provider="azure", status=400
            )
        variant = response.headers.get("azureml-model-deployment")
        return Prediction(
            outputs=answer["outputs"],
            variant=_neutral(variant) if variant else None,
            request_id=request_id(response.headers),
        )

    def _key(self, id: str, call: Call) -> tuple[str, str]:
        with self._lock:
            if id not in self._keys:
                url = str(self._get(id, call)["properties"]["scoringUri"])
                keys = self._workspace.send("POST", f"onlineEndpoints/{id}/listKeys", call, {})
                self._keys[id] = (url, str(keys["primaryKey"]))
            return self._keys[id]

    def _ask(
        self, url: str, key: str, body: bytes, variant: str | None, call: Call
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        if variant is not None:
            headers["azureml-model-deployment"] = _native(variant)
        left = call.remaining()
        http = self._workspace.session.scoring
        try:
            return http.post(
                url,
                content=body,
                headers=headers,
                timeout=httpx2.Timeout(left, connect=min(10.0, left)),
            )
        except httpx2.TransportError as error:
            raise failure(error) from error

    def update(self, id: str, spec: Deployment, call: Call) -> None:
        """Puts the new variants beside the old; ``status`` moves the traffic once they are up,
        and then removes the old ones. A variant that keeps its name is updated in place, which
        the service does replica by replica."""
        self._get(id, call)
        refuse(self._violations(spec))
        self._put(spec, call)

    def _lines(self, id: str, call: Call) -> list[str]:
        lines: list[str] = []
        for one in self._workspace.listed(f"onlineEndpoints/{id}/deployments", call):
            path = f"onlineEndpoints/{id}/deployments/{one['name']}/getLogs"
            asked = {"containerType": "InferenceServer", "tail": 1000}
            with suppress(NotFound, InvalidRequest):
                told = self._workspace.send("POST", path, call, asked) or {}
                lines += str(told.get("content") or "").splitlines()
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


def _native(variant: str) -> str:
    """A deployment's name, which has at least 3 characters: ``v-a`` for ``a``."""
    return f"v-{variant}"


def _neutral(name: str) -> str:
    return name.removeprefix("v-")


def _name(variant: Variant) -> str:
    return _native(variant.name)


def _shares(spec: Deployment) -> dict[str, int]:
    """Whole percents that add up to 100, as the service wants them."""
    total = sum(v.weight for v in spec.variants)
    exact = {_name(v): 100 * v.weight / total for v in spec.variants}
    whole = {name: int(share) for name, share in exact.items()}
    rest = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in rest[: 100 - sum(whole.values())]:
        whole[name] += 1
    return whole


def _losses(spec: Deployment) -> list[str]:
    found: list[str] = []
    if spec.rollout.kind != "all":
        found.append(f"rollout.{spec.rollout.kind}: traffic moves at once; set weights in steps")
    if any(v.max is not None or v.target is not None for v in spec.variants):
        found.append("max, target: autoscaling is set up in Azure Monitor, not at the endpoint")
    if spec.token is not None:
        found.append("token: the endpoint has keys of its own")
    return found


def _state(items: list[dict[str, Any]]) -> tuple[State, str]:
    natives = [str(item["properties"].get("provisioningState") or "Creating") for item in items]
    states = [_STATES.get(native.lower(), State.UNKNOWN) for native in natives]
    order = (State.FAILED, State.CANCELLED, State.STOPPING, State.UNKNOWN, State.STARTING)
    state = next((s for s in order if s in states), State.RUNNING)
    return state, ", ".join(sorted(set(natives)))


def _variant(item: dict[str, Any], shares: dict[str, int]) -> VariantStatus:
    ready = str(item["properties"].get("provisioningState")).lower() == "succeeded"
    return VariantStatus(
        name=_neutral(str(item["name"])),
        model=str((item.get("tags") or {}).get("cloudai_model", "")),
        share=shares.get(str(item["name"]), 0) / 100,
        ready=int((item.get("sku") or {}).get("capacity") or 1) if ready else 0,
    )
