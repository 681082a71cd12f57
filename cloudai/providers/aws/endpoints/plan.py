"""The requests of a deployment: pure, but for local files."""

from __future__ import annotations

from typing import Any

import msgspec

from cloudai._core.handlers import container
from cloudai.formats.native import unread
from cloudai.providers.aws import catalog, common, s3
from cloudai.providers.aws.endpoints import model_upload, wire
from cloudai.providers.aws.session import AwsSession
from cloudai.types import Deployment


class Drafted(msgspec.Struct):
    """The requests of a deployment, in order, and what is uploaded first."""

    sources: list[tuple[str, model_upload.Source]]
    models: list[dict[str, Any]]
    config: dict[str, Any]


class Planner:
    """Plans deployments for a session."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    def _base(self, spec: Deployment) -> str:
        return f"s3://{self._session.bucket()}/cloudai/{spec.name}"

    def draft(self, spec: Deployment, draft: common.Draft) -> Drafted | None:
        service = self._session.model("sagemaker")
        config_shape = service.operation_model("CreateEndpointConfig").input_shape
        model_shape = service.operation_model("CreateModel").input_shape
        types = service.shape_for("ProductionVariantInstanceType")
        role = draft.attempt(self._session.role)
        base = draft.attempt(lambda: self._base(spec))
        draft.attempt(lambda: common.check_key(spec.idempotency_key))
        vpc = draft.attempt(self._session.vpc)
        kms_key = draft.attempt(self._session.kms_key)
        wire.check(spec, draft, vpc=vpc is not None)
        nests = {
            name: service.operation_model(name).input_shape.members
            for name in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint")
        }
        draft.found(unread("aws", spec.native.get("aws", {}), nests))
        served: list[wire.Served] = []
        sources: list[tuple[str, model_upload.Source]] = []
        for variant in spec.variants:
            where = f"variants.{variant.name}"
            machine = None
            if spec.mode != "serverless":
                found = draft.attempt(
                    lambda variant=variant, where=where: common.machines(
                        variant.resources, types, f"{where}.resources"
                    )
                )
                machine = found[0] if found else None
            handler = variant.handler or spec.handler
            source = draft.attempt(
                lambda variant=variant, handler=handler, where=where: model_upload.source(
                    variant.uri, handler, spec.requirements, spec.image, base or "",
                    f"{where}.model",
                )
            )  # fmt: skip
            image = draft.attempt(
                lambda machine=machine, source=source: model_upload.image(
                    self._session,
                    spec.image,
                    spec.framework,
                    machine,
                    source is None or source.code is not None,
                    vpc=_from_vpc(spec),
                )
            )
            if source is None or image is None or (machine is None and spec.mode != "serverless"):
                continue
            if variant.resources.disk is not None and machine and catalog.own_disk(machine):
                draft.dropped.append(
                    f"{where}.resources.disk: {machine} has disks of its own, and takes no other"
                )
            digest = s3.digest(source.digest, image.digest, wire.digest(spec, _variables(spec)))
            served.append(
                wire.Served(
                    variant=variant,
                    model=wire.named(f"{spec.name}-{variant.name}", digest),
                    data=source.target or source.uri,
                    image=image.image,
                    environment=image.environment,
                    machine=machine,
                )
            )
            sources.append((where, source))
        if role is None or base is None or len(served) < len(spec.variants):
            return None
        place = wire.Place(role=role, base=base, kms_key=kms_key, vpc=vpc)
        if kms_key is not None:
            draft.dropped += common.own_disks(one.machine for one in served if one.machine)
        models = [
            wire.model(spec, one, place, code=source.code is not None)
            for one, (_, source) in zip(served, sources, strict=True)
        ]
        plain = wire.config(spec, served, place, "x")
        untagged = {name: value for name, value in plain.items() if name != "Tags"}
        digest = s3.digest(msgspec.json.encode(untagged))
        config = {**plain, "EndpointConfigName": wire.named(spec.name, digest)}
        for body in models:
            draft.check(model_shape, body, wire.FIELDS)
        draft.check(config_shape, config, wire.FIELDS)
        return Drafted(sources, models, config)


def _variables(spec: Deployment) -> list[str]:
    """What the container is told beside the spec's own variables."""
    if spec.image is None:
        return [] if spec.workers is None else [f"workers={spec.workers}"]
    return [f"{name}={value}" for name, value in container.environment(spec).items()]


def _from_vpc(spec: Deployment) -> bool:
    """Whether ``native`` has SageMaker pull the image from a registry inside the VPC."""
    model = spec.native.get("aws", {}).get("CreateModel", {})
    return "ImageConfig" in model.get("PrimaryContainer", {})
