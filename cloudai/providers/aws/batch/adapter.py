"""Batch transforms: SageMaker's transform jobs for models, Bedrock's model invocation jobs for
chat and embeddings, and the core's runner in a process of ours where neither fits."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.batches.assemble import absolute
from cloudai._core.batches.client_side import ClientBatches
from cloudai._core.batches.cost import HALF, estimate
from cloudai._core.calls import wait
from cloudai._core.calls.call import multi_step_create
from cloudai._core.calls.paging import paged
from cloudai._core.files.paths import here
from cloudai._core.files.tree import uploads
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CloudAIError,
    Conflict,
    NotFound,
)
from cloudai.protocols import Call, Place
from cloudai.providers.aws import catalog, common, s3, tags
from cloudai.providers.aws import logs as _logs
from cloudai.providers.aws.batch import staging, wire
from cloudai.providers.aws.batch.plan import Drafted, Planner, Service, records
from cloudai.providers.aws.batch.status import GROUP, Snapshots
from cloudai.providers.aws.endpoints import model_upload
from cloudai.providers.aws.models import TABLE
from cloudai.providers.aws.session import session
from cloudai.types import (
    BatchTransform,
    JobStatus,
    LogPage,
    NativeRequest,
    Plan,
)


class AwsBatch:
    """Batch transforms. ``native={"aws": {"service": "client"}}`` keeps a chat or embedding batch
    on the client's side, ``"bedrock"`` sends it to Bedrock; else Bedrock runs those of 100 lines
    and more."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._store = s3.Store(self._session)
        self._planner = Planner(self._session)
        self._looks = Snapshots(self._session, self._store, self._planner)
        self._client = ClientBatches(profile, files="cloudai.providers.aws.batch.staging:here")
        self._keys = tags.Keys(self._session, "transform", "describe_transform_job", "TransformJob")

    # Planning.

    def plan(self, spec: BatchTransform) -> Plan:
        """The requests, what would be refused, what is lost."""
        draft = common.Draft()
        made = self._planner.draft(spec, draft, None)
        travels = draft.attempt(lambda: uploads(spec)) if made is not None else None
        requests: list[NativeRequest] = []
        if made is not None and made.service == "client":
            body = {"input": spec.input, "output": spec.output}
            requests.append(NativeRequest(operation="cloudai:run_batch", body=body))
        elif made is not None:
            target = {"from": spec.input, "to": f"{made.base}/in/"}
            requests.append(NativeRequest(operation="s3:PutObject", body=target))
            if made.model:
                requests.append(NativeRequest(operation="sagemaker:CreateModel", body=made.model))
            operation = (
                "sagemaker:CreateTransformJob"
                if made.service == "transform"
                else "bedrock:CreateModelInvocationJob"
            )
            requests.append(NativeRequest(operation=operation, body=made.job))
        cost = None
        if made is not None and made.service == "transform":
            machine, count = wire.machines(made.job)
            most = spec.timeout or 3600.0
            what = f"for a minute up to {'the timeout' if spec.timeout else 'an hour'}"
            cost = common.cost(machine, count, 60, most, what)
        elif made is not None:
            share = HALF if made.service == "invocation" else 1.0
            price = self._session.profile.prices.get(spec.chat or spec.embeddings or "")
            cost = estimate(spec, TABLE, share, price=price)
        return Plan(
            provider="aws",
            capability="batch",
            cost=cost,
            notes=() if made is None or made.service != "transform" else (wire.pace(spec),),
            requests=tuple(requests),
            violations=draft.violations,
            dropped=tuple(draft.dropped),
            uploads=travels or (),
        )

    # Doing.

    def check(self, spec: BatchTransform) -> None:
        draft = common.Draft()
        self._planner.draft(absolute(spec), draft, None if here(spec.input) else 1)
        draft.refuse()

    def submit(self, spec: BatchTransform, call: Call) -> str:
        """Prepares the lines, puts them into S3 and starts the job. Its id is a transform job's
        name, a model invocation job's ARN, or ``client-…``."""
        spec = absolute(spec)
        self.check(spec)
        self._check_remote(spec, call)
        with tempfile.TemporaryDirectory(prefix="cloudai-") as name:
            folder = Path(name)
            path = staging.fetch(self._store, spec, folder, call)
            lines = records(spec, path)
            draft = common.Draft()
            made = self._planner.draft(spec, draft, lines)
            draft.refuse()
            assert made is not None  # noqa: S101 - nothing was wrong
            if made.service == "client":
                return self._client.submit(spec)
            prepared = staging.prepare(
                spec, path, folder, _line_of(spec, made.service), _size(spec, made.service, lines)
            )
            with multi_step_create():
                self._upload(spec, made, prepared, call)
        with multi_step_create():
            if made.service == "transform":
                return self._start_transform(spec, made, call)
            found = self._session.call("bedrock", "create_model_invocation_job", call, **made.job)
        return found["jobArn"]

    def discard(self, spec: BatchTransform, call: Call) -> None:
        """Removes the objects and the model of a batch that was never started."""
        name = str(spec.name)
        try:
            self._session.call("sagemaker", "describe_transform_job", call, TransformJobName=name)
        except NotFound:
            with suppress(NotFound):
                manifest = self._looks.manifest(name, call)
                if manifest.model is not None:
                    self._forget_model(manifest.model, call)
            self._store.delete_under(f"{self._planner.base(name)}/", call)

    def _check_remote(self, spec: BatchTransform, call: Call) -> None:
        for field in ("input", "output"):
            uri = getattr(spec, field)
            if s3.is_s3(uri):
                self._store.check_bucket(s3.parse(uri, field)[0], field, call)
        if s3.is_s3(spec.output) and not spec.overwrite and self._store.exists(spec.output, call):
            raise Conflict(
                f"the output {spec.output} exists",
                provider="aws",
                hint="Use overwrite=True to replace it, or name another output.",
            )

    def _upload(
        self, spec: BatchTransform, made: Drafted, prepared: staging.Prepared, call: Call
    ) -> None:
        self._store.check_bucket(self._session.bucket(), "bucket", call)
        original = f"{made.base}/original/{prepared.input.name}"
        self._store.upload(prepared.input, original, call)
        for part in prepared.parts:
            self._store.upload(part, f"{made.base}/in/{part.name}", call)
        manifest = wire.Manifest(
            spec=spec,
            name=made.job.get("TransformJobName") or made.job["jobName"],
            original=original,
            lines=prepared.lines,
            bad=prepared.bad,
            model=made.model.get("ModelName"),
            created=time.time(),
        )
        self._store.put(f"{made.base}/batch.json", msgspec.json.encode(manifest), call)

    def _start_transform(self, spec: BatchTransform, made: Drafted, call: Call) -> str:
        assert made.source is not None  # noqa: S101 - _draft_transform made both
        assert spec.name is not None  # noqa: S101
        model_upload.upload(self._store, made.source, "model", call)
        with suppress(Conflict):  # an earlier try made it: its name holds its digest
            self._session.call("sagemaker", "create_model", call, **made.model)
        self._keys.sending(spec.idempotency_key, spec.name)
        try:
            self._session.call("sagemaker", "create_transform_job", call, **made.job)
        except Conflict as error:
            return self._keys.adopt(error, spec.idempotency_key, spec.name, call)
        except CloudAIError as error:
            if not error.ambiguous and not error.retryable:
                self._forget_model(made.model["ModelName"], call)
            raise
        return spec.name

    def _forget_model(self, name: str, call: Call) -> None:
        try:
            self._session.call("sagemaker", "delete_model", call, ModelName=name)
        except NotFound:
            return

    def find(self, key: str, call: Call) -> str | None:
        """The batch that was submitted with a key."""
        found = self._client.find(key) or self._keys.find(key, call)
        if found is not None:
            return found
        digest = s3.digest(key)
        rows = self._session.call(
            "bedrock", "list_model_invocation_jobs", call, nameContains=digest
        )
        return next((row["jobArn"] for row in rows["invocationJobSummaries"]), None)

    def where(self, call: Call) -> Place:
        return self._session.place(call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key that it carries. Raises NotFound."""
        if self._client.owns(id):
            return self._client.owner(id)
        if id.startswith("arn:"):
            told = self._session.call("bedrock", "list_tags_for_resource", call, resourceARN=id)
            return {tag["key"]: tag["value"] for tag in told["tags"]}.get(common.KEY_TAG)
        return self._keys.owner(id, call)

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of a transform job's machines, on demand; 0.0 where none runs, None
        for what is billed by the token."""
        if self._client.owns(id) or id.startswith("arn:"):
            return None
        job = self._session.call("sagemaker", "describe_transform_job", call, TransformJobName=id)
        if job["TransformJobStatus"] not in {"InProgress", "Stopping"}:
            return 0.0
        return catalog.hourly([wire.machines(job)])

    def resume(self, id: str | None, spec: BatchTransform, call: Call) -> None:
        """Goes on with a batch on the client's side whose worker was lost."""
        if id is not None and self._client.owns(id):
            self._client.resume(id, absolute(spec))

    def status(self, id: str, call: Call) -> JobStatus:
        """The snapshot. Whoever first sees that the job has ended puts its output together."""
        if self._client.owns(id):
            return self._client.status(id)
        return self._looks.status(id, call)

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """New lines; model invocation jobs write none."""
        if self._client.owns(id):
            return self._client.logs(id, cursor)
        if id.startswith("arn:"):
            return LogPage(lines=(), cursor=cursor or "")
        return _logs.page(self._session, GROUP, f"{id}/", cursor, call)

    def cancel(self, id: str, call: Call) -> None:
        """Stops the batch; harmless when it has ended."""
        if self._client.owns(id):
            self._client.cancel(id)
        else:
            self._looks.stop(id, call)

    def delete(self, id: str, call: Call) -> None:
        """Stops the batch, and removes its model and its objects in S3; the output stays, and so
        does what another program made of its own. AWS
        keeps the records of ended transform and invocation jobs."""
        if self._client.owns(id):
            self._client.delete(id)
            return
        try:
            status = self.status(id, call)
        except NotFound:
            return
        if not status.state.done:
            self._looks.stop(id, call)
            self._until_ended(id, call)
        name = id
        if id.startswith("arn:"):
            found = self._session.call(
                "bedrock", "get_model_invocation_job", call, jobIdentifier=id
            )
            name = found["jobName"]
        try:
            manifest = self._looks.manifest(name, call)
        except NotFound:  # another program's: it has no objects of ours
            return
        if manifest.model is not None:
            self._forget_model(manifest.model, call)
        self._store.delete_under(f"{self._planner.base(name)}/", call)

    def _until_ended(self, id: str, call: Call) -> None:
        for pause in wait.intervals(remote=True, timeout=call.remaining()):
            if self.status(id, call).state.done:
                return
            time.sleep(pause)
        raise Conflict(
            f"the batch {id!r} is still stopping", provider="aws", hint="Try again later"
        )

    def list(self, call: Call) -> Sequence[JobStatus]:
        """The batches that cloudai made, those of this machine's workers among them."""
        found = [*self._client.list()]
        ids = self._keys.listed(call)
        prefix = f"s3://{self._session.bucket()}/cloudai/"

        def fetch(token: str | None) -> tuple[list[dict[str, Any]], str | None]:
            about = {"nextToken": token} if token else {}
            page = self._session.call("bedrock", "list_model_invocation_jobs", call, **about)
            return page["invocationJobSummaries"], page.get("nextToken")

        ids += [
            row["jobArn"]
            for row in paged("aws", fetch)
            if row["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"].startswith(prefix)
        ]
        for id in ids:
            try:
                found.append(self.status(id, call))
            except NotFound:
                continue  # deleted: its manifest is gone
        return found


def _size(spec: BatchTransform, service: Service, lines: int) -> int:
    """The lines of one file: SageMaker shares out files among its machines."""
    if service != "transform":
        return 0
    return max(1, min(wire.lines_of(spec), -(-lines // spec.shards)))


def _line_of(spec: BatchTransform, service: Service) -> Any:
    """What a record becomes on its way to the job."""
    if service == "transform":
        return lambda number, record: record

    def line(number: int, record: Any) -> dict[str, Any]:
        return {"recordId": f"{number:011d}", "modelInput": wire.model_input(spec, record)}

    return line
