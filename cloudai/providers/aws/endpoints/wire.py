"""SageMaker's Model, EndpointConfig and Endpoint: requests and snapshots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloudai._core.handlers import container, portable
from cloudai.errors import UnsupportedByProvider
from cloudai.formats.native import merge
from cloudai.providers.aws import catalog, common, s3
from cloudai.providers.aws.endpoints import scaling_wire
from cloudai.types import (
    Deployment,
    EndpointStatus,
    State,
    Variant,
    VariantStatus,
)
from cloudai.types._base import invalid

ENDPOINT_TAG: Final = "cloudai:endpoint"

NAME: Final = 63
"""Characters in a name of SageMaker's."""

# Serverless endpoints (SageMaker developer guide, read 2026-11).
SERVERLESS_MEMORY: Final = (1024, 2048, 3072, 4096, 5120, 6144)
SERVERLESS_CONCURRENCY: Final = 20
"""Calls at once where ``max`` says nothing; a variant may ask for up to 200."""

_SERVER_BYTES: Final = str(100 * 1024 * 1024)
"""SageMaker's own limit for a transform job; real-time requests end earlier."""

_SLOW: Final = 900.0
"""Seconds, above which a deployment's timeout is told to SageMaker; a Deployment's default."""

SLOWEST: Final = 3600
"""Seconds that a request of a transform job or an asynchronous endpoint may take at most
(ModelClientConfig, InvokeEndpointAsync, API reference, read 2026-11)."""

ASYNC_CONCURRENCY: Final = 4
"""Invocations at once on an instance of an asynchronous endpoint."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One variant, made ready for SageMaker.

    Parameters
    ----------
    variant: of the spec. model: the Model's name. data: where its archive lies; None for none.
    image: of its container. environment: that an image of one's own is told beside the spec's.
    machine: its instance type; None for serverless.
    """

    variant: Variant
    model: str
    data: str | None
    image: str
    machine: str | None
    environment: dict[str, str] = {}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What comes from the profile. ``base`` is the endpoint's own prefix in S3."""

    role: str
    base: str
    kms_key: str | None = None
    vpc: dict[str, list[str]] | None = None


def named(stem: str, digest: str) -> str:
    """A name of SageMaker's for a state of something: its stem, shortened, and a digest."""
    return f"{stem[: NAME - 1 - len(digest)].rstrip('-')}-{digest}"


def tags(spec: Deployment) -> list[dict[str, str]]:
    made = common.tags(spec.tags, spec.idempotency_key, spec.name, "endpoint")
    made.append({"Key": ENDPOINT_TAG, "Value": spec.name})
    return made


def model(
    spec: Deployment, served: Served, place: Place, *, code: bool, slow: bool = False
) -> dict[str, Any]:
    """The arguments of CreateModel. ``code``: the archive has ``code/inference.py``; ``slow``: an
    answer may take up to ``SLOWEST``, as those of asynchronous endpoints."""
    env = dict(spec.env)
    if spec.image is not None:
        handler = f"code/{portable.FOLDER}/{portable.ENTRY}" if code else None
        env = {**served.environment, **container.environment(spec, handler)}
    if code:
        env = {**_server(slow=slow or spec.mode == "async"), **env}
        env |= {
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        }
    if spec.workers is not None:
        env["SAGEMAKER_MODEL_SERVER_WORKERS"] = str(spec.workers)
    primary: dict[str, Any] = {"Image": served.image}
    if served.data is not None and served.data.endswith("/"):
        source = {"S3Uri": served.data, "S3DataType": "S3Prefix", "CompressionType": "None"}
        primary["ModelDataSource"] = {"S3DataSource": source}
    elif served.data is not None:
        primary["ModelDataUrl"] = served.data
    if env:
        primary["Environment"] = env
    body: dict[str, Any] = {
        "ModelName": served.model,
        "PrimaryContainer": primary,
        "ExecutionRoleArn": place.role,
    }
    if place.vpc is not None:
        body["VpcConfig"] = place.vpc
    body["Tags"] = tags(spec)
    return merge(body, spec.native.get("aws", {}).get("CreateModel", {}))


def _server(*, slow: bool) -> dict[str, str]:
    """The model servers of the framework images (TorchServe, MMS) end at 6.5 MB and a minute by
    themselves, before SageMaker's own limits (their configuration pages, read 2026-11)."""
    made: dict[str, str] = {}
    for server in ("TS", "MMS"):
        made |= {f"{server}_MAX_{what}_SIZE": _SERVER_BYTES for what in ("REQUEST", "RESPONSE")}
        if slow:
            made[f"{server}_DEFAULT_RESPONSE_TIMEOUT"] = str(SLOWEST)
    if slow:  # what the toolkits themselves set both servers to
        made["SAGEMAKER_MODEL_SERVER_TIMEOUT"] = str(SLOWEST)
    return made


def config(spec: Deployment, served: list[Served], place: Place, name: str) -> dict[str, Any]:
    """The arguments of CreateEndpointConfig."""
    body: dict[str, Any] = {
        "EndpointConfigName": name,
        "ProductionVariants": [_production(spec, one) for one in served],
    }
    if spec.mode == "async":
        results = {
            "S3OutputPath": f"{place.base}/async/out",
            "S3FailurePath": f"{place.base}/async/failed",
        }
        if place.kms_key is not None:
            results["KmsKeyId"] = place.kms_key
        body["AsyncInferenceConfig"] = {
            "OutputConfig": results,
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": ASYNC_CONCURRENCY},
        }
    volumes = common.volume_key(place.kms_key, [one.machine for one in served if one.machine])
    if volumes is not None and spec.mode != "serverless":
        body["KmsKeyId"] = volumes
    body["Tags"] = tags(spec)
    return merge(body, spec.native.get("aws", {}).get("CreateEndpointConfig", {}))


def _production(spec: Deployment, served: Served) -> dict[str, Any]:
    variant = served.variant
    made: dict[str, Any] = {
        "VariantName": variant.name,
        "ModelName": served.model,
        "InitialVariantWeight": variant.weight,
    }
    if spec.mode == "serverless":
        made["ServerlessConfig"] = {
            "MemorySizeInMB": _memory(variant),
            "MaxConcurrency": variant.max or SERVERLESS_CONCURRENCY,
        }
        return made
    made["InstanceType"] = served.machine
    made["InitialInstanceCount"] = max(variant.min, 1)
    if spec.timeout > _SLOW:
        # A model that is given longer to come up is a large one.
        most = min(math.ceil(spec.timeout), 3600)
        made["ModelDataDownloadTimeoutInSeconds"] = most
        made["ContainerStartupHealthCheckTimeoutInSeconds"] = most
    if variant.resources.disk is not None and not catalog.own_disk(str(served.machine)):
        made["VolumeSizeInGB"] = math.ceil(variant.resources.disk)
    return made


def _memory(variant: Variant) -> int:
    wanted = (variant.resources.memory or 4) * 1024
    return next((size for size in SERVERLESS_MEMORY if size >= wanted), SERVERLESS_MEMORY[-1])


def endpoint(spec: Deployment, config_name: str) -> dict[str, Any]:
    """The arguments of CreateEndpoint."""
    marks = tags(spec)
    rules = scaling_wire.rules(spec)
    if rules:
        marks.append({"Key": scaling_wire.TAG, "Value": scaling_wire.tag(rules)})
    body = {"EndpointName": spec.name, "EndpointConfigName": config_name, "Tags": marks}
    return merge(body, spec.native.get("aws", {}).get("CreateEndpoint", {}))


def update(spec: Deployment, config_name: str, *, retain: bool = False) -> dict[str, Any]:
    """The arguments of UpdateEndpoint: blue/green, all at once, canary or linear. ``retain``
    keeps as many instances as scaling has come to."""
    rollout = spec.rollout
    wait = math.ceil(rollout.bake)
    size = {"Type": "CAPACITY_PERCENT", "Value": math.ceil(rollout.percent)}
    routing: dict[str, Any] = {"WaitIntervalInSeconds": wait}
    if rollout.kind == "canary":
        routing = {"Type": "CANARY", **routing, "CanarySize": size}
    elif rollout.kind == "linear":
        routing = {"Type": "LINEAR", **routing, "LinearStepSize": size}
    else:
        routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": wait if rollout.alarms else 0}
    deployment: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": 0,
        }
    }
    if rollout.alarms:
        deployment["AutoRollbackConfiguration"] = {
            "Alarms": [{"AlarmName": name} for name in rollout.alarms]
        }
    body: dict[str, Any] = {"EndpointName": spec.name, "EndpointConfigName": config_name}
    if retain:
        body["RetainAllVariantProperties"] = True
        body["ExcludeRetainedVariantProperties"] = [
            {"VariantPropertyType": name} for name in ("DesiredWeight", "DataCaptureConfig")
        ]
    # Serverless endpoints know no deployment policy (developer guide, read 2026-11).
    if spec.mode != "serverless":
        body["DeploymentConfig"] = deployment
    return merge(body, spec.native.get("aws", {}).get("UpdateEndpoint", {}))


def check(spec: Deployment, draft: common.Draft, *, vpc: bool = False) -> None:
    """What SageMaker's models do not tell. ``vpc``: whether the profile has a network."""
    if spec.mode == "serverless":
        _check_serverless(spec, draft, vpc=vpc)
    for variant in spec.variants:
        where = f"variants.{variant.name}"
        if variant.min == 0 and spec.mode == "realtime":
            draft.wrong(
                invalid(
                    f"{where}.min",
                    0,
                    "is nothing that a real-time endpoint can",
                    'Use mode="serverless" or "async", which scale to zero.',
                )
            )
        elif scaling_wire.scales(spec, variant) and variant.target is None:
            draft.wrong(
                invalid(
                    f"{where}.target",
                    None,
                    "is missing, and max is above min",
                    "Say how many requests a second one replica takes.",
                )
            )
    _check_rollout(spec, draft)
    if spec.secrets:
        draft.wrong(
            UnsupportedByProvider(
                "secrets for an endpoint's container",
                provider="aws",
                alternative="Have load() fetch them from Secrets Manager or SSM under the role",
                field="secrets",
            )
        )
    if spec.image is not None and spec.requirements is not None:
        draft.dropped.append(
            "requirements: an image of your own installs them only if it reads code/"
        )
    if spec.token is not None:
        draft.dropped.append("token: SageMaker asks for AWS's own signatures instead")
    if spec.host != "127.0.0.1" or spec.port:
        draft.dropped.append("host, port: SageMaker gives the address")


def _check_rollout(spec: Deployment, draft: common.Draft) -> None:
    """The steps that BlueGreenUpdatePolicy takes (API reference, read 2026-11)."""
    rollout = spec.rollout
    low = {"canary": 0, "linear": 10}.get(rollout.kind)
    if low is None:
        return
    if not low <= rollout.percent <= 50:
        draft.wrong(
            invalid(
                "rollout.percent",
                rollout.percent,
                f"is not a step that SageMaker takes for a {rollout.kind} rollout",
                f"Use {max(low, 1)} to 50.",
            )
        )
    if rollout.bake > 3600:
        draft.wrong(
            invalid("rollout.bake", rollout.bake, "is above 3600 s", "Use up to an hour a step.")
        )


def _check_serverless(spec: Deployment, draft: common.Draft, *, vpc: bool) -> None:
    """What serverless endpoints leave out (developer guide, "Feature exclusions", read
    2026-11)."""

    def cannot(feature: str, field: str) -> None:
        draft.wrong(
            UnsupportedByProvider(
                f"{feature} on a serverless endpoint",
                provider="aws",
                alternative='Use mode="realtime" or "async"',
                field=field,
            )
        )

    if vpc:
        cannot("a network of your own (subnets, security_groups)", "subnets")
    if len(spec.variants) > 1:
        cannot("several variants", "variants")
    if spec.rollout.kind != "all" or spec.rollout.alarms:
        cannot("a rollout in steps or with alarms", "rollout")
    for variant in spec.variants:
        where = f"variants.{variant.name}"
        if (variant.max or 1) > 200:
            draft.wrong(
                invalid(f"{where}.max", variant.max, "is above the 200 of serverless endpoints")
            )
        memory = variant.resources.memory
        if memory is not None and memory > 6:
            draft.wrong(
                invalid(
                    f"{where}.resources.memory",
                    memory,
                    "is above the 6 GiB of serverless endpoints",
                )
            )
        if variant.resources.accelerator is not None:
            cannot(f"{where}.resources.accelerator", f"{where}.resources.accelerator")


FIELDS: Final[Mapping[str, str]] = {
    "EndpointName": "name",
    "ModelName": "name",
    "EndpointConfigName": "name",
    "ProductionVariants": "variants",
    "PrimaryContainer.Image": "image",
    "PrimaryContainer.Environment": "env",
    "PrimaryContainer.ModelDataUrl": "variants.model",
    "ExecutionRoleArn": "role",
    "Tags": "tags",
    "DeploymentConfig": "rollout",
}

STATES: Final[dict[str, State]] = {
    "Creating": State.STARTING,
    "InService": State.RUNNING,
    "Updating": State.STARTING,
    "SystemUpdating": State.RUNNING,
    "RollingBack": State.STARTING,
    "Deleting": State.STOPPING,
    "OutOfService": State.FAILED,
    "Failed": State.FAILED,
    "UpdateRollbackFailed": State.FAILED,
}


def snapshot(described: Mapping[str, Any], models: Mapping[str, str], base: str) -> EndpointStatus:
    """The snapshot that DescribeEndpoint gives. ``models``: variants → names of their Models;
    ``base``: where SageMaker's runtime answers."""
    status = described["EndpointStatus"]
    rows = described.get("ProductionVariants", ())
    total = sum(row.get("CurrentWeight", 1.0) for row in rows) or 1.0
    name = described["EndpointName"]
    created = described.get("CreationTime")
    return EndpointStatus(
        id=name,
        name=name,
        state=STATES.get(status, State.UNKNOWN),
        url=f"{base}/endpoints/{quote(name)}/invocations",
        variants=tuple(
            VariantStatus(
                name=row["VariantName"],
                model=models.get(row["VariantName"], ""),
                share=row.get("CurrentWeight", 1.0) / total,
                version=models.get(row["VariantName"], "").rpartition("-")[2] or None,
                ready=row.get("CurrentInstanceCount", 0),
            )
            for row in rows
        ),
        reason=described.get("FailureReason"),
        native_state=status,
        created_at=created.timestamp() if created is not None else None,
    )


def digest(spec: Deployment, parts: list[str]) -> str:
    """Of all that a config is made of, so that equal ones share a name."""
    return s3.digest(msgspec.json.encode([parts, spec.env, spec.mode, spec.native], order="sorted"))
