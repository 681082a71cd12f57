"""Managed online endpoints: ``Deployment`` into the requests, answers into snapshots. No I/O but
for a package's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cloudai._core.calls.failures import retry_after
from cloudai._core.handlers import container
from cloudai.errors import (
    CloudAIError,
    HandlerError,
    InvalidRequest,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.providers.azure.errors import request_id
from cloudai.providers.azure.ml.job_wire import KEY
from cloudai.providers.azure.ml.machines import machine
from cloudai.providers.azure.ml.model_assets import SCRIPT
from cloudai.types import Deployment, State, Variant, VariantStatus
from cloudai.types.endpoints import MAX_QUEUE

TRAFFIC: Final = "cloudai.traffic"
MODEL: Final = "cloudai_model"
"""The tag of a deployment that cloudai made."""
MIRROR: Final = "cloudai.mirror"
_STATES: Final[dict[str, State]] = {
    "creating": State.STARTING,
    "updating": State.STARTING,
    "scaling": State.STARTING,
    "deleting": State.STOPPING,
    "succeeded": State.RUNNING,
    "failed": State.FAILED,
    "canceled": State.CANCELLED,
}


def endpoint(spec: Deployment) -> dict[str, Any]:
    """The body of ``PUT onlineEndpoints/NAME``."""
    native = spec.native.get("azure", {})
    return {
        "location": str(native.get("location", "")),
        "tags": {**spec.tags, KEY: spec.idempotency_key or ""},
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "authMode": "Key",
            "properties": {
                TRAFFIC: json.dumps(shares(spec)),
                MIRROR: json.dumps(native.get("mirror", {})),
            },
        },
    }


def deployment(
    spec: Deployment, variant: Variant, model: str, environment: str, code: str | None
) -> dict[str, Any]:
    """The body of ``PUT onlineEndpoints/NAME/deployments/NAME``.

    Parameters
    ----------
    model, environment, code: ids in Resource Manager. ``code`` is None where an image of one's
        own serves the model, which is mounted into it.
    """
    variables = dict(spec.env)
    properties: dict[str, Any] = {
        "endpointComputeType": "Managed",
        "model": model,
    }
    at_once = max(1, spec.workers or 1)
    if spec.image is None:
        properties["codeConfiguration"] = {"codeId": code, "scoringScript": SCRIPT}
        if spec.workers is not None:
            variables["WORKER_COUNT"] = str(spec.workers)
    else:
        told = container.settings(spec.image).azureml
        properties["modelMountPath"] = told.model_mount_path
        # What a deployment names is put beside the model.
        handler = None if (variant.handler or spec.handler) is None else "handler.py"
        variables = {**told.environment_variables, **container.environment(spec, handler)}
        # The server makes batches of what waits: the service must not hold it back.
        at_once = spec.max_queue
    properties |= {
        "environmentId": environment,
        "environmentVariables": variables,
        "instanceType": machine(variant.resources),
        "requestSettings": {
            "requestTimeout": "PT3M",
            "maxConcurrentRequestsPerInstance": at_once,
        },
        "scaleSettings": {"scaleType": "Default"},
    }
    return {
        "location": "",
        "sku": {"name": "Default", "capacity": variant.min or 1},
        "tags": {MODEL: variant.uri[:256]},
        "properties": properties,
    }


def environment(told: container.AzureML) -> dict[str, Any]:
    """The body of the environment that is an image of one's own: what its server answers."""
    routes = {
        name: {"port": route.port, "path": route.path}
        for name, route in (
            ("livenessRoute", told.inference_config.liveness_route),
            ("readinessRoute", told.inference_config.readiness_route),
            ("scoringRoute", told.inference_config.scoring_route),
        )
    }
    return {"properties": {"image": told.image, "osType": "Linux", "inferenceConfig": routes}}


def native(variant: str) -> str:
    """A deployment's name, which has at least 3 characters: ``v-a`` for ``a``."""
    return f"v-{variant}"


def neutral(name: str) -> str:
    return name.removeprefix("v-")


def named(variant: Variant) -> str:
    return native(variant.name)


def shares(spec: Deployment) -> dict[str, int]:
    """Whole percents that add up to 100, as the service wants them."""
    total = sum(v.weight for v in spec.variants)
    exact = {named(v): 100 * v.weight / total for v in spec.variants}
    whole = {name: int(share) for name, share in exact.items()}
    rest = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in rest[: 100 - sum(whole.values())]:
        whole[name] += 1
    return whole


def dropped(spec: Deployment) -> list[str]:
    found: list[str] = []
    if spec.rollout.kind != "all":
        found.append(f"rollout.{spec.rollout.kind}: traffic moves at once; set weights in steps")
    if any(v.max is not None or v.target is not None for v in spec.variants):
        found.append("max, target: autoscaling is set up in Azure Monitor, not at the endpoint")
    if spec.token is not None:
        found.append("token: the endpoint has keys of its own")
    if spec.image is None and (spec.max_batch is not None or spec.max_queue != MAX_QUEUE):
        found.append("max_batch, max_queue: Azure ML's own server has neither; an image has")
    return found


def server_error(
    status: int, told: Mapping[str, Any], headers: Mapping[str, str]
) -> CloudAIError | None:
    """The error of the container behind a 424 (Troubleshoot online endpoints, "HTTP status
    codes", read 2025-08): what our server told, else by the status that it answered.

    Parameters
    ----------
    status: the answer's. told: what its body says.
    """
    if status != 424:
        return None
    inner = headers.get("ms-azureml-model-error-statuscode", "")
    message = str(told.get("message") or f"the model's container answered {inner or 'an error'}")
    about: dict[str, Any] = {"provider": "azure", "request_id": request_id(headers)}
    if inner == "429":
        return RateLimited(message, status=429, retry_after=retry_after(headers), **about)
    if inner in {"502", "503", "504"}:
        return ServiceUnavailable(message, status=int(inner), **about)
    if inner in {"400", "413", "415"}:
        return InvalidRequest(message, status=int(inner), **about)
    return HandlerError(message, status=int(inner) if inner.isdecimal() else 424, **about)


def state(items: list[dict[str, Any]]) -> tuple[State, str]:
    natives = [str(item["properties"].get("provisioningState") or "Creating") for item in items]
    states = [_STATES.get(native.lower(), State.UNKNOWN) for native in natives]
    order = (State.FAILED, State.CANCELLED, State.STOPPING, State.UNKNOWN, State.STARTING)
    found = next((s for s in order if s in states), State.RUNNING)
    return found, ", ".join(sorted(set(natives)))


def status(item: dict[str, Any], wanted: dict[str, int]) -> VariantStatus:
    ready = str(item["properties"].get("provisioningState")).lower() == "succeeded"
    return VariantStatus(
        name=neutral(str(item["name"])),
        model=str((item.get("tags") or {}).get(MODEL, "")),
        share=wanted.get(str(item["name"]), 0) / 100,
        ready=int((item.get("sku") or {}).get("capacity") or 1) if ready else 0,
    )
