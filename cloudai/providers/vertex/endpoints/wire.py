"""Endpoints in Vertex AI's words: Model, Endpoint, DeployedModel (aiplatform v1).

What an endpoint is to become is kept in its own ``description``, as JSON: any process can take a
deployment or a rollout on from there. See ``_rollout``.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.files.paths import here
from cloudai._core.handlers import container
from cloudai.errors import InvalidRequest
from cloudai.formats.native import merge, unread
from cloudai.providers.vertex import catalog, common, images
from cloudai.types import CostRange, Deployment, Rollout, Variant, Violation

ENDPOINT_LABEL: Final = "cloudai_endpoint"
"""The label of a Model: the endpoint it was uploaded for."""

# CreateEndpointRequest.endpoint_id (aiplatform v1): with a letter first up to 63 characters.
_ID: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z")

# Until it is through, a container that fetches its model and installs the server is not asked
# whether it lives: half an hour. The page of Probe says both that the period is below the timeout
# and that the timeout may equal it (aiplatform v1, read 2026-11): these numbers do for both.
_STARTING: Final = {"periodSeconds": 10, "timeoutSeconds": 11, "failureThreshold": 180}


_NESTS: Final[dict[str, tuple[str, ...]]] = {
    "model": (
        "containerSpec", "predictSchemata", "explanationSpec", "encryptionSpec", "description",
        "versionAliases", "metadata",
    ),
    "endpoint": (
        "network", "predictRequestResponseLoggingConfig", "privateServiceConnectConfig",
        "dedicatedEndpointEnabled", "clientConnectionConfig",
    ),
    "dedicatedResources": (
        "machineSpec", "minReplicaCount", "maxReplicaCount", "requiredReplicaCount",
        "autoscalingMetricSpecs", "spot",
    ),
}  # fmt: skip
"""Where ``native`` is read, with members that tell where a key belongs (aiplatform v1, 2.7.0)."""


class Target(msgspec.Struct, frozen=True):
    """One variant as it is to be.

    Parameters
    ----------
    name, source, weight: the variant's; ``source`` is the model's URI as it was given.
    id: of its DeployedModel: we choose it. model: the resource name of its Model.
    resources: its dedicatedResources.
    """

    name: str
    source: str
    weight: float
    id: str
    model: str
    resources: dict[str, Any]


class Record(msgspec.Struct, frozen=True):
    """What an endpoint is to become.

    Parameters
    ----------
    variants: as it is to be. former: what goes when they have all the traffic.
    rollout: how they take it. since: when the newest operation before them began; began: when
        they got their first share, None while they have none; Unix seconds, both by the
        service's clock.
    service_account: of the replicas.
    """

    variants: tuple[Target, ...]
    former: tuple[Target, ...] = ()
    rollout: Rollout = Rollout()
    since: float = 0.0
    began: float | None = None
    service_account: str | None = None


_decoder = msgspec.json.Decoder(Record)


def record(endpoint: dict[str, Any]) -> Record | None:
    """The record of an endpoint; None for one that was not made by cloudai."""
    try:
        return _decoder.decode(endpoint.get("description") or "")
    except msgspec.DecodeError:
        return None


def violations(spec: Deployment, location: str) -> list[Violation]:
    """What Vertex AI would refuse."""
    found = list(common.check_labels(spec.tags))
    if not _ID.match(spec.name):
        found.append(
            Violation(
                "name",
                f"{spec.name!r} is not the id of an endpoint.",
                "Use lower-case letters, digits and hyphens, beginning with a letter.",
            )
        )
    if location in {"global", "us", "eu"}:
        found.append(
            Violation("location", f"endpoints do not live in {location!r}.", "Name a region.")
        )
    if spec.rollout.alarms:
        found.append(
            Violation(
                "rollout.alarms",
                "Vertex AI rolls nothing back on alarms.",
                "Watch the canary, and update() with the former variants.",
            )
        )
    found += common.check_env(spec.env)
    found += unread("vertex", spec.native.get("vertex", {}), _NESTS)
    for name in spec.secrets:
        found.append(
            Violation(
                f"secrets.{name}",
                "a model's container gets no secrets by reference.",
                "Read Secret Manager in the handler's load().",
            )
        )
    for variant in spec.variants:
        where = f"variants.{variant.name}"
        if variant.min < 1:
            found.append(
                Violation(f"{where}.min", "an endpoint keeps at least 1 replica.", "Use min=1.")
            )
        if variant.resources.nodes > 1:
            found.append(
                Violation(f"{where}.resources.nodes", "a replica is one machine.", "Use nodes=1.")
            )
        if here(variant.uri) is None and not variant.uri.startswith("gs://"):
            found.append(
                Violation(
                    f"{where}.model", f"{variant.uri!r} is not read by Vertex AI.", "Use gs://."
                )
            )
        try:
            machine = catalog.machine(variant.resources, location)
            if spec.image is None:
                images.choose(spec.framework, "serving", gpu=bool(machine.vendor))
        except catalog.Unavailable as error:
            found.append(Violation(f"{where}.resources.accelerator", error.problem, error.mend))
        except InvalidRequest as error:
            found.append(Violation("framework", error.message, error.hint or ""))
    return found


def notes(spec: Deployment, location: str) -> list[str]:
    """What holds today and will not for long; ``spec`` has no violations."""
    if spec.image is not None:
        return []
    found: list[str] = []
    for variant in spec.variants:
        gpu = bool(catalog.machine(variant.resources, location).vendor)
        ends = images.choose(spec.framework, "serving", gpu=gpu).ends_soon(date.today())
        if ends is not None and ends not in found:
            found.append(ends)
    return found


def dropped(spec: Deployment) -> list[str]:
    """What the spec asks for and Vertex AI does not carry."""
    found: list[str] = []
    if spec.token is not None:
        found.append("token: Google's IAM decides who may call")
    if spec.port or spec.host != "127.0.0.1":
        found.append("host, port: the endpoint's address is Vertex AI's")
    if spec.image is None:
        found.append(
            "the server is installed when a replica starts: an image of your own that has it "
            "(`cloudai package`) starts sooner"
        )
    elif spec.requirements is not None:
        found.append("requirements: an image of your own has its packages in it")
    return found


def suffix(spec: Deployment) -> str:
    """What tells the resources of one deployment from those of another of the same name."""
    key = spec.idempotency_key or "planned"
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def model_id(spec: Deployment, variant: Variant) -> str:
    """The id of a variant's Model: ours to choose, so that an upload that is sent again makes
    no second one. At most 63 characters."""
    return f"{spec.name[:26]}-{variant.name.lower()[:26]}-{suffix(spec)}"


def deployed_id(spec: Deployment, variant: Variant) -> str:
    """The id of a variant's DeployedModel: 1 to 10 digits."""
    text = f"{spec.idempotency_key}/{variant.name}"
    return str(10**9 + int(hashlib.sha256(text.encode()).hexdigest(), 16) % (9 * 10**9))


def model(spec: Deployment, variant: Variant, artifact: str, location: str) -> dict[str, Any]:
    """The UploadModelRequest of a variant; ``artifact``: the gs:// directory of the model."""
    machine = catalog.machine(variant.resources, location)
    if spec.image is None:
        own = images.choose(spec.framework, "serving", gpu=bool(machine.vendor))
        told = container.platforms(images.uri(own, location)).vertex
        env = spec.env
    else:
        told = container.settings(spec.image).vertex
        env = {one.name: one.value for one in told.env}
        # What a deployment names is put beside the model.
        handler = None if (variant.handler or spec.handler) is None else "handler.py"
        env |= container.environment(spec, handler)
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(told))
    made.pop("env", None)
    made["startupProbe"] = {"httpGet": {"path": told.health_route}, **_STARTING}
    if spec.image is None:
        made["command"] = ["python3", "-c", _start()]
        args = [f"--max-queue={spec.max_queue}"]
        if spec.max_batch is not None:
            args.append(f"--max-batch={spec.max_batch}")
        if spec.workers is not None:
            args.append(f"--workers={spec.workers}")
        made["args"] = args
    if env:
        made["env"] = [{"name": name, "value": env[name]} for name in sorted(env)]
    labels = common.labels(spec.tags, spec.idempotency_key, None)
    body = {
        "displayName": f"{spec.name}-{variant.name}",
        "artifactUri": artifact,
        "containerSpec": made,
        "labels": {**labels, ENDPOINT_LABEL: spec.name},
    }
    merge(body, spec.native.get("vertex", {}).get("model", {}))
    return {"model": body, "modelId": model_id(spec, variant)}


def resources(spec: Deployment, variant: Variant, location: str) -> dict[str, Any]:
    """A variant's dedicatedResources."""
    machine = catalog.machine(variant.resources, location)
    made: dict[str, Any] = {
        "machineSpec": {"machineType": machine.type},
        "minReplicaCount": variant.min,
        "maxReplicaCount": variant.max or variant.min,
    }
    if machine.vendor is not None:
        made["machineSpec"]["acceleratorType"] = machine.vendor
        made["machineSpec"]["acceleratorCount"] = machine.count
    if variant.target is not None:
        # The metric counts requests a minute on each replica (DedicatedResources, read 2025-11).
        made["autoscalingMetricSpecs"] = [
            {
                "metricName": "aiplatform.googleapis.com/prediction/online/request_count",
                "target": max(1, round(variant.target * 60)),
            }
        ]
    return merge(made, spec.native.get("vertex", {}).get("dedicatedResources", {}))


def target(spec: Deployment, variant: Variant, location: str, parent: str) -> Target:
    """A variant as the record keeps it."""
    return Target(
        name=variant.name,
        source=variant.uri,
        weight=variant.weight,
        id=deployed_id(spec, variant),
        model=f"{parent}/models/{model_id(spec, variant)}",
        resources=resources(spec, variant, location),
    )


def endpoint(spec: Deployment, kept: Record) -> dict[str, Any]:
    """The Endpoint to create."""
    body: dict[str, Any] = {
        "displayName": spec.name,
        "description": text(kept),
        "labels": common.labels(spec.tags, spec.idempotency_key, spec.name),
        "dedicatedEndpointEnabled": True,
    }
    return merge(body, spec.native.get("vertex", {}).get("endpoint", {}))


def text(kept: Record) -> str:
    """A record as an endpoint's description."""
    return msgspec.json.encode(kept).decode()


def deploy(one: Target, split: dict[str, int], service_account: str | None) -> dict[str, Any]:
    """The DeployModelRequest of a variant; ``split`` names it ``"0"``."""
    made: dict[str, Any] = {
        "id": one.id,
        "model": one.model,
        "displayName": one.name,
        "dedicatedResources": one.resources,
    }
    if service_account is not None:
        made["serviceAccount"] = service_account
    return {"deployedModel": made, "trafficSplit": split}


@lru_cache(maxsize=1)
def _start() -> str:
    """What starts the server in an image that does not have it."""
    return Path(__file__).with_name("start.py").read_text(encoding="utf-8")


def split(shares: dict[str, float]) -> dict[str, int]:
    """Shares by DeployedModel as whole percents that add up to 100 (largest remainders)."""
    total = sum(shares.values())
    exact = {id: 100 * share / total for id, share in shares.items()}
    found = {id: int(value) for id, value in exact.items()}
    rest = 100 - sum(found.values())
    for id in sorted(exact, key=lambda id: (found[id] - exact[id], id))[:rest]:
        found[id] += 1
    return found


def cost(spec: Deployment, location: str) -> CostRange | None:
    """US dollars an hour; None where a machine's price is not known."""
    low = high = 0.0
    for variant in spec.variants:
        machine = catalog.machine(variant.resources, location)
        if machine.hour is None:
            return None
        low += machine.hour * variant.min
        high += machine.hour * (variant.max or variant.min)
    return CostRange(
        low=low,
        high=high,
        basis="an hour with the fewest and the most replicas (us-central1, on demand)",
        as_of=catalog.AS_OF,
    )
