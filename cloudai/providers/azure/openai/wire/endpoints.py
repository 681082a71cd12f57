"""Model deployments: ``Deployment`` into the PUTs of Resource Manager, answers back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from cloudai._core.numerals import numeral
from cloudai.types import Deployment, EndpointStatus, State, Variant, VariantStatus, Violation

logger: Final = logging.getLogger("cloudai")

KEY: Final = "cloudai_key"
NAME: Final = "cloudai_endpoint"
_VARIANT: Final = "cloudai_variant"
_WEIGHT: Final = "cloudai_weight"
_SEPARATOR: Final = "--"

SKUS: Final = (
    "Standard",
    "GlobalStandard",
    "DataZoneStandard",
    "ProvisionedManaged",
    "GlobalProvisionedManaged",
    "DataZoneProvisionedManaged",
    "GlobalBatch",
    "DataZoneBatch",
    "DeveloperTier",
)
"""Kinds of deployment (Azure OpenAI's deployment types page, read 2025-08)."""
_CAPACITY: Final = 10
"""Thousands of tokens a minute, where the spec says nothing."""
_NATIVE: Final = {"sku", "capacity", "version", "format", "version_upgrade", "content_filter"}
UPGRADES: Final = (
    "OnceNewDefaultVersionAvailable",
    "OnceCurrentVersionExpired",
    "NoAutoUpgrade",
)
"""When the service moves a deployment to a newer version of its model (azure-mgmt-
cognitiveservices 14.1, DeploymentModelVersionUpgradeOption)."""
IDLE_DAYS: Final = 15
"""Days without a call after which the deployment of a fine-tuned model is deleted (Azure
OpenAI's fine-tuning guide, read 2025-08)."""

_STATES: Final[dict[str, State]] = {
    "accepted": State.QUEUED,
    "creating": State.STARTING,
    "moving": State.STARTING,
    "updating": State.STARTING,
    "scaling": State.STARTING,
    "deleting": State.STOPPING,
    "succeeded": State.RUNNING,
    "failed": State.FAILED,
    "canceled": State.CANCELLED,
    "disabled": State.FAILED,
}


def violations(spec: Deployment) -> list[Violation]:
    """What the service would refuse, or what a model deployment cannot be."""
    found: list[Violation] = []
    native = spec.native.get("azure", {})
    for name in set(native) - _NATIVE:
        mend = f"There are: {', '.join(sorted(_NATIVE))}."
        found.append(Violation(f"native.azure.{name}", "is not known here.", mend))
    sku = native.get("sku", "GlobalStandard")
    if sku not in SKUS:
        found.append(
            Violation("native.azure.sku", f"{sku!r} is none.", f"There are: {', '.join(SKUS)}.")
        )
    capacity = native.get("capacity", _CAPACITY)
    if not isinstance(capacity, int) or capacity < 1:
        found.append(Violation("native.azure.capacity", f"{capacity!r} is not a number above 0."))
    upgrade = native.get("version_upgrade", UPGRADES[0])
    if upgrade not in UPGRADES:
        mend = f"There are: {', '.join(UPGRADES)}."
        found.append(Violation("native.azure.version_upgrade", f"{upgrade!r} is none.", mend))
    ml = "Azure ML serves models with handlers: set workspace in the profile."
    if spec.handler is not None or any(v.handler for v in spec.variants):
        found.append(Violation("handler", "has no place in a model deployment.", ml))
    for variant in spec.variants:
        if "/" in variant.uri or "\\" in variant.uri or not variant.uri:
            found.append(
                Violation(
                    "variants.model",
                    f"{variant.uri!r} is no model of Azure OpenAI.",
                    f"Name a model, such as gpt-5.1, or a fine-tuned one. {ml}",
                )
            )
    if _SEPARATOR in spec.name:
        found.append(Violation("name", f"holds {_SEPARATOR!r}, which parts variants."))
    longest = max(len(native_name(spec.name, v.name)) for v in spec.variants)
    if longest > 64:
        found.append(Violation("name", f"with the variant's has {longest} characters of 64."))
    if spec.mode != "realtime":
        found.append(Violation("mode", f"{spec.mode!r} is none here.", "Use realtime."))
    return found


def dropped(spec: Deployment) -> list[str]:
    """What the spec asks for and a model deployment cannot carry, and what to know of it."""
    found: list[str] = []
    if len(spec.variants) > 1:
        found.append(
            "variants: the service splits no traffic; cloudai's client chooses a deployment by "
            "weight with each call, and other clients do not"
        )
    if any(fine_tuned(variant.uri) for variant in spec.variants):
        found.append(idle(spec.name))
    for name, value in (
        ("env", spec.env),
        ("secrets", spec.secrets),
        ("requirements", spec.requirements),
        ("image", spec.image),
        ("workers", spec.workers),
        ("token", spec.token),
    ):
        if value:
            found.append(f"{name}: no server of yours runs")
    if spec.rollout.kind != "all":
        found.append(f"rollout.{spec.rollout.kind}: an update takes over at once")
    if any(v.max is not None or v.min != 1 or v.target is not None for v in spec.variants):
        found.append("min, max, target: capacity is in tokens a minute: native.azure.capacity")
    return found


def idle(name: str) -> str:
    """The warning of the rule that surprises most."""
    return (
        f"{name}: the deployment of a fine-tuned model is billed by the hour, and deleted after "
        f"{IDLE_DAYS} days without a call; the model itself stays"
    )


def warn(spec: Deployment) -> None:
    """Says on the log what ``dropped`` say of idle deployments."""
    if any(fine_tuned(variant.uri) for variant in spec.variants):
        logger.warning("azure: %s", idle(spec.name))


def fine_tuned(model: str) -> bool:
    return ".ft-" in model or model.startswith("ft:")


def embeds(model: str) -> bool:
    return "embedding" in model


def native_name(endpoint: str, variant: str) -> str:
    """The deployment of a variant: the endpoint's own name for the only one."""
    return endpoint if variant == "main" else f"{endpoint}{_SEPARATOR}{variant}"


def endpoint_of(item: dict[str, Any]) -> str:
    """The endpoint that a deployment belongs to: its own name where cloudai did not make it."""
    return str((item.get("tags") or {}).get(NAME) or item["name"])


def encode(spec: Deployment) -> list[tuple[str, dict[str, Any]]]:
    """The deployments of an endpoint: name and body each."""
    native = spec.native.get("azure", {})
    return [(native_name(spec.name, v.name), _body(spec, v, native)) for v in spec.variants]


def _body(spec: Deployment, variant: Variant, native: dict[str, Any]) -> dict[str, Any]:
    given = variant.model
    version = native.get("version") or (None if isinstance(given, str) else given.version)
    model: dict[str, Any] = {"format": native.get("format", "OpenAI"), "name": variant.uri}
    if version or fine_tuned(variant.uri):
        model["version"] = version or "1"
    properties: dict[str, Any] = {"model": model}
    if "version_upgrade" in native:
        properties["versionUpgradeOption"] = native["version_upgrade"]
    if "content_filter" in native:
        properties["raiPolicyName"] = native["content_filter"]
    return {
        "sku": {
            "name": native.get("sku", "GlobalStandard"),
            "capacity": native.get("capacity", _CAPACITY),
        },
        "properties": properties,
        "tags": {
            **spec.tags,
            KEY: spec.idempotency_key or "",
            NAME: spec.name,
            _VARIANT: variant.name,
            _WEIGHT: numeral(variant.weight),
        },
    }


def status(id: str, items: Sequence[dict[str, Any]], endpoint: str) -> EndpointStatus:
    """A snapshot of the deployments of one endpoint."""
    variants: list[VariantStatus] = []
    states: list[State] = []
    natives: list[str] = []
    weights = [float((i.get("tags") or {}).get(_WEIGHT, 1.0)) for i in items]
    for item, weight in zip(items, weights, strict=True):
        properties: dict[str, Any] = item.get("properties") or {}
        native = str(properties.get("provisioningState") or "Accepted")
        state = _STATES.get(native.lower(), State.UNKNOWN)
        model: dict[str, Any] = properties.get("model") or {}
        states.append(state)
        natives.append(native)
        variants.append(
            VariantStatus(
                name=str((item.get("tags") or {}).get(_VARIANT, "main")),
                model=str(model.get("name") or ""),
                share=weight / (sum(weights) or 1.0),
                version=model.get("version"),
                ready=1 if state is State.RUNNING else 0,
            )
        )
    order = (State.FAILED, State.CANCELLED, State.STOPPING, State.UNKNOWN, State.QUEUED)
    state = next((s for s in (*order, State.STARTING) if s in states), State.RUNNING)
    failed = [name for name, one in zip(natives, states, strict=True) if one is State.FAILED]
    tags: dict[str, str] = items[0].get("tags") or {}
    return EndpointStatus(
        id=id,
        name=id,
        state=state,
        url=f"{endpoint}/openai/deployments/{items[0]['name']}",
        variants=tuple(variants),
        idempotency_key=tags.get(KEY) or None,
        reason=f"the deployment ended {failed[0]}" if failed else None,
        native_state=", ".join(sorted(set(natives))),
    )


def choose(shares: Sequence[tuple[str, float]], chance: float) -> str:
    """The variant that a number from 0 to 1 falls on."""
    for name, share in shares:
        chance -= share
        if chance < 0:
            return name
    return next(name for name, share in reversed(shares) if share > 0)
