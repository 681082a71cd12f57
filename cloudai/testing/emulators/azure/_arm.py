"""Azure Resource Manager, emulated: model deployments as long-running operations."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from cloudai.testing.emulators.azure import _shapes
from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._state import (
    ACCOUNT,
    GROUP,
    AzureState,
    Deployed,
)

API_VERSIONS: Final = {"2023-05-01", "2024-10-01", "2025-06-01", "2025-09-01"}
CLOUD: Final = "EmulatedCloud"
"""What azure-ai-ml has to be told, beside where its metadata is."""
CREATING: Final = 0.5
"""Seconds of the emulator's clock that a deployment takes."""
DELETING: Final = 0.2
"""And its end."""
_SKUS: Final = {
    "Standard",
    "GlobalStandard",
    "DataZoneStandard",
    "ProvisionedManaged",
    "GlobalProvisionedManaged",
    "DataZoneProvisionedManaged",
    "GlobalBatch",
    "DataZoneBatch",
    "DeveloperTier",
}
_MODELS: Final = {
    "gpt-5.1",
    "gpt-5.4-mini",
    "gpt-5.2",
    "gpt-5",
    "text-embedding-3-small",
    "text-embedding-3-large",
}


class Manager:
    """``/subscriptions/…``: who may ask, and the deployments of the one resource.

    Attributes
    ----------
    capacity: thousands of tokens a minute that all deployments may have together.
    """

    def __init__(self, cloud_state: AzureState) -> None:
        self._cloud_state = cloud_state
        self.capacity = 1000
        self._base = (
            f"/subscriptions/{cloud_state.subscription}/resourceGroups/{GROUP}/providers"
            f"/Microsoft.CognitiveServices/accounts/{ACCOUNT}"
        )

    def routes(self, table: Routes) -> None:
        table.add("GET", f"/subscriptions/{self._cloud_state.subscription}", self._subscription)
        table.add("GET", f"{self._base}/deployments", self._list)
        one = f"{self._base}/deployments/{{name}}"
        table.add("GET", one, self._get)
        table.add("PUT", one, self._put)
        table.add("PATCH", one, self._patch)
        table.add("DELETE", one, self._delete)
        table.add("GET", f"{self._base}/operations/{{id}}", self._operation)

    def admit(self, request: Request) -> None:
        """Raises Refused without a management token, and for a wrong subscription."""
        if not request.secure:
            raise Refused(400, "BadRequest", "Resource Manager answers https alone.")
        resource = self._cloud_state.token_for(request.headers.get("authorization", ""))
        if resource is None or resource.removeprefix("https://") not in {
            request.host,
            "management.azure.com",
        }:
            raise Refused(
                401,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or invalid.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        subscription = f"/subscriptions/{self._cloud_state.subscription}"
        if subscription not in request.path:
            raise Refused(404, "SubscriptionNotFound", "The subscription could not be found.")
        if request.path == subscription:
            return
        if f"/resourcegroups/{GROUP}/" not in request.path.lower():
            raise Refused(404, "ResourceGroupNotFound", "The resource group could not be found.")

    def _subscription(self, request: Request) -> Response:
        """Resource Manager's "Subscriptions - Get" (2021-01-01)."""
        if request.query.get("api-version") != "2021-01-01":
            raise Refused(400, "InvalidApiVersionParameter", "The api-version is invalid.")
        id = self._cloud_state.subscription
        about = {"displayName": "emulated", "state": "Enabled", "authorizationSource": "RoleBased"}
        tenant = {"tenantId": self._cloud_state.tenant}
        return Response(
            body={"id": f"/subscriptions/{id}", "subscriptionId": id, **tenant, **about}
        )

    def _version(self, request: Request) -> None:
        if request.query.get("api-version") not in API_VERSIONS:
            raise Refused(
                400, "NoRegisteredProviderFound", "No registered resource provider found."
            )

    def _list(self, request: Request) -> Response:
        self._version(request)
        with self._cloud_state.lock:
            alive = [d for d in self._cloud_state.deployments.values() if not self._gone(d)]
            return Response(body={"value": [self._shown(d) for d in alive]})

    def _gone(self, deployment: Deployed) -> bool:
        gone = deployment.deleted_at is not None
        if gone:
            self._cloud_state.deployments.pop(deployment.name, None)
        return gone

    def _held(self, request: Request) -> Deployed:
        self._version(request)
        found = self._cloud_state.deployments.get(request.groups["name"])
        if found is None:
            raise Refused(
                404,
                "ResourceNotFound",
                f"The Resource 'Microsoft.CognitiveServices/accounts/{ACCOUNT}/deployments/"
                f"{request.groups['name']}' under resource group '{GROUP}' was not found.",
            )
        return found

    def _shown(self, deployment: Deployed) -> dict[str, Any]:
        young = deployment.ready_at > self._cloud_state.clock()
        return {
            "id": f"{self._base}/deployments/{deployment.name}",
            "name": deployment.name,
            "type": "Microsoft.CognitiveServices/accounts/deployments",
            "sku": {"name": deployment.sku, "capacity": deployment.capacity},
            "tags": deployment.tags,
            "properties": {
                "model": {
                    "format": deployment.format,
                    "name": deployment.model,
                    "version": deployment.version,
                },
                "provisioningState": "Creating" if young else deployment.fate,
                "capabilities": {"chatCompletion": "true"},
            },
            "systemData": {"createdAt": "2026-11-22T10:00:00Z"},
        }

    def _get(self, request: Request) -> Response:
        with self._cloud_state.lock:
            return Response(body=self._shown(self._held(request)))

    def _put(self, request: Request) -> Response:
        self._version(request)
        body = request.json()
        sku, model = _checked(body)
        name = request.groups["name"]
        with self._cloud_state.lock:
            self._free()
            known = (
                _MODELS
                | set(self._cloud_state.tuned)
                | {d.split(":")[0] for d in self._cloud_state.tuned}
            )
            if model["name"].split(":")[0] not in known:
                raise Refused(
                    400,
                    "DeploymentModelNotSupported",
                    f"The model 'Format: OpenAI, Name: {model['name']}' is not supported.",
                )
            before = self._cloud_state.deployments.get(name)
            used = sum(d.capacity for d in self._cloud_state.deployments.values() if d.name != name)
            if used + sku["capacity"] > self.capacity:
                raise Refused(
                    400,
                    "InsufficientQuota",
                    f"This operation require {sku['capacity']} new capacity in quota Tokens Per "
                    f"Minute (thousands), which is bigger than the current available capacity "
                    f"{self.capacity - used}.",
                )
            made = Deployed(
                name=name,
                model=model["name"],
                version=model.get("version") or "1",
                sku=sku["name"],
                capacity=sku["capacity"],
                tags=body.get("tags") or {},
                any_use=False,
                ready_at=self._cloud_state.clock() + CREATING,
                fate=self._cloud_state.fate("deployments", "Succeeded"),
            )
            if self._cloud_state.told.take("endpoints", "Azure OpenAI") == "FAILED":
                made.fate = "Failed"
            self._cloud_state.deployments[name] = made
            operation = self._begin(request, made.ready_at, made.fate)
            status = 200 if before is not None else 201
            return Response(status=status, body=self._shown(made), headers=operation)

    def _free(self) -> None:
        """One operation at a time on all deployments of the resource."""
        now = self._cloud_state.clock()
        if any(until > now for until, _ in self._cloud_state.operations.values()):
            raise Refused(
                409,
                "RequestConflict",
                f"Another operation is being performed on the parent resource '{self._base}'. "
                "Please try again later.",
            )

    def _begin(self, request: Request, until: float, fate: str) -> dict[str, str]:
        id = secrets.token_hex(8)
        self._cloud_state.operations[id] = (until, fate)
        version = request.query["api-version"]
        return {
            "Azure-AsyncOperation": (
                f"https://{request.host}{self._base}/operations/{id}?api-version={version}"
            ),
            "Retry-After": "0",
        }

    def _operation(self, request: Request) -> Response:
        found = self._cloud_state.operations.get(request.groups["id"])
        if found is None:
            raise Refused(404, "NotFound", "The operation was not found.")
        until, fate = found
        status = "InProgress" if until > self._cloud_state.clock() else fate
        return Response(body={"id": request.path, "status": status})

    def _patch(self, request: Request) -> Response:
        from azure.mgmt.cognitiveservices.models import PatchResourceTagsAndSku

        body = _shapes.check(request.json(), PatchResourceTagsAndSku)
        with self._cloud_state.lock:
            held = self._held(request)
            self._free()
            sku = body.get("sku") or {}
            held.capacity = sku.get("capacity", held.capacity)
            held.tags = body.get("tags", held.tags)
            return Response(body=self._shown(held), headers=self._begin(request, 0.0, "Succeeded"))

    def _delete(self, request: Request) -> Response:
        self._version(request)
        with self._cloud_state.lock:
            if request.groups["name"] not in self._cloud_state.deployments:
                return Response(status=204)
            self._free()
            del self._cloud_state.deployments[request.groups["name"]]
            headers = self._begin(request, self._cloud_state.clock() + DELETING, "Succeeded")
            location = headers["Azure-AsyncOperation"]
            return Response(status=202, headers={**headers, "Location": location})


class Cloud:
    """``/metadata/endpoints``: where the parts of this cloud are, as azure-ai-ml asks for it."""

    def __init__(self, secure_url: Callable[[], str]) -> None:
        self._secure_url = secure_url

    def routes(self, table: Routes) -> None:
        table.add("GET", "/metadata/endpoints", self._show)

    def admit(self, request: Request) -> None:
        """Everybody may ask."""

    def _show(self, request: Request) -> Response:
        url = f"{self._secure_url()}/"
        about = {
            "name": CLOUD,
            "portal": url,
            "resourceManager": url,
            "authentication": {"loginEndpoint": url, "audiences": [url]},
            "suffixes": {"storage": "core.emulated"},
        }
        return Response(body=[about])


def _checked(body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Raises Refused for what is no Deployment (azure-mgmt-cognitiveservices 14.1's model)."""
    from azure.mgmt.cognitiveservices.models import (
        Deployment,
        DeploymentModelVersionUpgradeOption,
    )

    _shapes.check(body, Deployment)
    properties, sku = body.get("properties") or {}, body.get("sku")
    model = properties.get("model")
    if model is None or sku is None:
        raise Refused(400, "InvalidRequestContent", "sku and properties.model are required.")
    if model.get("format") != "OpenAI" or not model.get("name"):
        raise Refused(400, "InvalidResourceProperties", "The model format and name are required.")
    if sku.get("name") not in _SKUS:
        raise Refused(
            400, "InvalidResourceProperties", f"The sku {sku.get('name')!r} is not known."
        )
    options = {option.value for option in DeploymentModelVersionUpgradeOption}
    upgrade = properties.get("versionUpgradeOption")
    if upgrade is not None and upgrade not in options:
        raise Refused(
            400, "InvalidResourceProperties", f"versionUpgradeOption {upgrade!r} is not known."
        )
    if sku.get("capacity", 0) < 1:
        raise Refused(400, "InvalidCapacity", "The capacity should be at least 1.")
    return sku, model
