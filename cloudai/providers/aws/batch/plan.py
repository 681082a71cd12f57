"""Who runs a batch, and with which requests: pure, but for local files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from cloudai._core.batches import spool
from cloudai._core.batches.formats import Source, format_of
from cloudai._core.batches.runner import check_paths
from cloudai._core.files.paths import here
from cloudai.errors import UnsupportedByProvider
from cloudai.providers.aws import common, families, s3
from cloudai.providers.aws.batch import wire
from cloudai.providers.aws.endpoints import model_upload
from cloudai.providers.aws.endpoints import wire as endpoint_wire
from cloudai.providers.aws.session import AwsSession
from cloudai.types import BatchTransform, Deployment, Variant
from cloudai.types._base import invalid

Service = Literal["transform", "invocation", "client"]


class Drafted(msgspec.Struct):
    """A batch, planned: who runs it, and with which requests."""

    service: Service
    base: str
    job: dict[str, Any] = {}
    model: dict[str, Any] = {}
    source: model_upload.Source | None = None


class Planner:
    """Plans batches for a session."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    def _service(self, spec: BatchTransform, lines: int | None) -> Service:
        if spec.endpoint is not None:
            return "client"
        if spec.model is not None:
            return "transform" if lines != 0 else "client"
        named = spec.chat if spec.chat is not None else spec.embeddings or ""
        wish = spec.native.get("aws", {}).get("service")
        if wish not in {None, "client", "bedrock"}:
            raise invalid("native.aws.service", wish, "is no service", 'Use "client" or "bedrock".')
        if named.startswith(families.SAGEMAKER) or wish == "client":
            return "client"
        fits = lines is None or wire.MIN_RECORDS <= lines <= wire.MAX_RECORDS
        if wish == "bedrock" and not fits:
            raise invalid(
                "input",
                spec.input,
                f"has {lines} lines, and Bedrock's jobs take {wire.MIN_RECORDS} to "
                f"{wire.MAX_RECORDS}",
                'Leave native["aws"]["service"] out: it then runs on the client\'s side.',
            )
        has_role = self._session.profile.get("role") is not None
        return "invocation" if fits and (has_role or wish == "bedrock") else "client"

    def draft(self, spec: BatchTransform, draft: common.Draft, lines: int | None) -> Drafted | None:
        """``lines`` is None while nobody has counted them."""
        if lines is None:
            lines = draft.attempt(lambda: _count(spec))
        draft.attempt(lambda: _check_input(spec))
        draft.attempt(lambda: _check_output(spec))
        draft.attempt(lambda: wire.check_params(spec))
        draft.attempt(lambda: wire.lines_of(spec))
        draft.attempt(lambda: common.check_key(spec.idempotency_key))
        service: Service | None = draft.attempt(lambda: self._service(spec, lines))
        if service is None:
            return None
        draft.dropped += _dropped(spec, service)
        if service == "client":
            if spec.model is not None:
                self._draft_transform(spec, draft)
            return Drafted("client", "")
        if service == "transform":
            return self._draft_transform(spec, draft)
        base = draft.attempt(lambda: self.base(wire.invocation_name(spec)))
        role = draft.attempt(self._session.role)
        if base is None or role is None:
            return None
        vpc = draft.attempt(self._session.vpc)
        kms_key = draft.attempt(self._session.kms_key)
        body = wire.invocation(spec, role, base, kms_key, vpc)
        operation = self._session.model("bedrock").operation_model("CreateModelInvocationJob")
        draft.check(operation.input_shape, body, wire.FIELDS)
        return Drafted("invocation", base, body)

    def _draft_transform(self, spec: BatchTransform, draft: common.Draft) -> Drafted | None:
        service = self._session.model("sagemaker")
        base = draft.attempt(lambda: self.base(spec.name or ""))
        role = draft.attempt(self._session.role)
        vpc = draft.attempt(self._session.vpc)
        types = service.shape_for("TransformInstanceType")
        machines = draft.attempt(lambda: common.machines(spec.resources, types))
        source = draft.attempt(
            lambda: model_upload.source(
                spec.model_uri or "", spec.handler, spec.requirements, spec.image, base or ""
            )
        )
        machine = machines[0] if machines else None
        image = draft.attempt(
            lambda: model_upload.image(
                self._session,
                spec.image,
                spec.framework,
                machine,
                source is None or source.code is not None,
            )
        )
        if spec.secrets:
            draft.wrong(
                UnsupportedByProvider(
                    "secrets for a transform job's container",
                    provider="aws",
                    alternative="Have load() fetch them from Secrets Manager or SSM",
                    field="secrets",
                )
            )
        if base is None or role is None or machine is None or source is None or image is None:
            return None
        name = endpoint_wire.named(
            spec.name or "", s3.digest(source.digest, image.digest, spec.name or "")
        )
        served = endpoint_wire.Served(
            variant=Variant(model=source.uri),
            model=name,
            data=source.target or source.uri,
            image=image.image,
            environment=image.environment,
            machine=machine,
        )
        place = endpoint_wire.Place(role=role, base=base, vpc=vpc)
        native = spec.native.get("aws", {}).get("CreateModel", {})
        as_endpoint = Deployment(
            name=spec.name or "",
            variants=(served.variant,),
            image=spec.image,
            env=spec.env,
            tags=spec.tags,
            native={"aws": {"CreateModel": native}},
        )
        model = endpoint_wire.model(
            as_endpoint, served, place, code=source.code is not None, slow=True
        )
        kms_key = draft.attempt(self._session.kms_key)
        if kms_key is not None:
            draft.dropped += common.own_disks([machine])
        job = wire.transform(spec, name, machine, base, kms_key)
        draft.check(service.operation_model("CreateModel").input_shape, model, wire.FIELDS)
        draft.check(service.operation_model("CreateTransformJob").input_shape, job, wire.FIELDS)
        return Drafted("transform", base, job, model, source)

    def base(self, name: str) -> str:
        return f"s3://{self._session.bucket()}/cloudai/{name}"


def _check_input(spec: BatchTransform) -> None:
    path = here(spec.input)
    if path is None and not s3.is_s3(spec.input):
        raise invalid("input", spec.input, "is not what is read here", "Use s3:// or a path.")
    if path is not None and not path.is_file():
        raise invalid("input", spec.input, "is not a file", f"Looked at {path}.")
    format_of(Path(spec.input), spec.format)


def _check_output(spec: BatchTransform) -> None:
    path = here(spec.output)
    if path is None:
        if not s3.is_s3(spec.output):
            raise invalid("output", spec.output, "is not written here", "Use s3:// or a path.")
        s3.parse(spec.output, "output")
        return
    source = here(spec.input)
    if source is not None and source.is_file():
        check_paths(spec)
    if path.exists() and not spec.overwrite and not _staged(path):
        raise invalid(
            "output", spec.output, "exists", "Use overwrite=True, or name another output."
        )


def _staged(output: Path) -> bool:
    """Whether a batch of ours is at this output."""
    return spool.path_of(output).exists()


def _count(spec: BatchTransform) -> int | None:
    """The lines of a local input; None for one in S3, and for one that cannot be read."""
    path = here(spec.input)
    if path is None or not path.is_file():
        return None
    return records(spec, path)


def records(spec: BatchTransform, path: Path) -> int:
    kind = format_of(Path(spec.input), spec.format)
    return sum(1 for _ in Source(path, kind, spec.max_payload).records())


def _dropped(spec: BatchTransform, service: Service) -> list[str]:
    found: list[str] = []
    if service == "client" and spec.shards > 1:
        found.append(f"shards={spec.shards}: one process of this machine does the calls")
    if service == "invocation":
        found.append("an input of fewer than 100 lines runs on the client's side instead")
    if service == "transform" and wire.SETTINGS in spec.env:
        found.append(f"env: {wire.SETTINGS} is set by cloudai")
    if service == "transform" and spec.timeout is not None:
        found.append("timeout: a transform job is stopped by whoever looks at it after that time")
    return found
