"""How a batch stands at SageMaker or Bedrock: its snapshot, and its output once it has ended, put
together by whoever sees that first."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.batches.assemble import Result, publish, source_of, unmark
from cloudai._core.numerals import numeral
from cloudai.errors import Conflict, InvalidRequest, NotFound
from cloudai.protocols import Call
from cloudai.providers.aws import common, logs, s3
from cloudai.providers.aws.batch import staging, wire
from cloudai.providers.aws.batch.plan import Planner, Service
from cloudai.providers.aws.session import AwsSession
from cloudai.types import JobStatus, State
from cloudai.types._base import met

GROUP: Final = "/aws/sagemaker/TransformJobs"
"""The log group of transform jobs."""
_TAIL: Final = 20


class Snapshots:
    """Of a session's batches. An id is a transform job's name, or a model invocation job's ARN."""

    def __init__(self, session: AwsSession, store: s3.Store, planner: Planner) -> None:
        self._session = session
        self._store = store
        self._planner = planner

    def status(self, id: str, call: Call) -> JobStatus:
        """The snapshot. Raises NotFound."""
        if id.startswith("arn:"):
            return self._invocation_status(id, call)
        return self._transform_status(id, call)

    def manifest(self, name: str, call: Call) -> wire.Manifest:
        """What was kept of a batch when it was submitted. Raises NotFound."""
        data = self._store.get(f"{self._planner.base(name)}/batch.json", call)
        if data is None:
            raise NotFound(
                f"there is no batch {name!r}",
                provider="aws",
                hint=f"Its manifest is not in {self._session.bucket()}",
            )
        return msgspec.json.decode(data, type=met(wire.Manifest))

    def stop(self, id: str, call: Call) -> None:
        """Stops it; harmless when it has ended."""
        try:
            if id.startswith("arn:"):
                self._session.call("bedrock", "stop_model_invocation_job", call, jobIdentifier=id)
            else:
                self._session.call("sagemaker", "stop_transform_job", call, TransformJobName=id)
        except (Conflict, InvalidRequest):
            return  # it has ended, or is stopping already

    def _known(self, name: str, output: str, call: Call) -> wire.Manifest | None:
        """The manifest; None where the job writes elsewhere: another program made it. Raises
        NotFound for one of ours that was deleted, whose record AWS keeps."""
        if output.rstrip("/").endswith(f"/cloudai/{name}/out"):
            return self.manifest(name, call)
        return None

    def _transform_status(self, id: str, call: Call) -> JobStatus:
        found = self._session.call("sagemaker", "describe_transform_job", call, TransformJobName=id)
        output = found["TransformOutput"]["S3OutputPath"]
        manifest = self._known(id, output, call)
        native = found["TransformJobStatus"]
        state = wire.TRANSFORM_STATES.get(native, State.UNKNOWN)
        if state is State.RUNNING and "TransformStartTime" not in found:
            state = State.STARTING
        created = found["CreationTime"].timestamp()
        limit = manifest.spec.timeout if manifest else None
        late = limit is not None and time.time() - created > limit
        if late and not state.done and state is not State.STOPPING:
            # Transform jobs know no time limit of their own; whoever looks stops a late one.
            self.stop(id, call)
        status = JobStatus(
            id=id,
            state=state,
            reason=found.get("FailureReason"),
            native_state=native,
            created_at=created,
            started_at=_seconds(found.get("TransformStartTime")),
            ended_at=_seconds(found.get("TransformEndTime")),
            **_from_manifest(manifest, id, output),
        )
        if state is State.CANCELLED and limit is not None:
            ended = status.ended_at or time.time()
            if ended - created >= limit:
                reason = f"it ran longer than {numeral(limit)} s"
                return msgspec.structs.replace(status, state=State.TIMED_OUT, reason=reason)
        if state is State.FAILED:
            tail = logs.tail(self._session, GROUP, f"{id}/", _TAIL, call)
            capacity = common.no_capacity(status.reason)
            return msgspec.structs.replace(status, log_tail=tail, capacity=capacity)
        if state is not State.SUCCEEDED or manifest is None:
            return status
        return self._ended(status, manifest, "transform", self._planner.base(id), call)

    def _invocation_status(self, id: str, call: Call) -> JobStatus:
        found = self._session.call("bedrock", "get_model_invocation_job", call, jobIdentifier=id)
        output = found["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"]
        manifest = self._known(found["jobName"], output, call)
        native = found["status"]
        state = wire.INVOCATION_STATES.get(native, State.UNKNOWN)
        told = _from_manifest(manifest, found["jobName"], output)
        if manifest is not None:
            told["progress"] = (found.get("processedRecordCount") or 0, told["progress"][1])
        status = JobStatus(
            id=id,
            state=state,
            reason=found.get("message"),
            native_state=native,
            created_at=_seconds(found.get("submitTime")),
            ended_at=_seconds(found.get("endTime")),
            **told,
        )
        if state is not State.SUCCEEDED or manifest is None:
            return status
        return self._ended(status, manifest, "invocation", self._planner.base(manifest.name), call)

    def _ended(
        self, status: JobStatus, manifest: wire.Manifest, service: Service, base: str, call: Call
    ) -> JobStatus:
        """The snapshot of a job that has ended: with its output put together, once."""
        data = self._store.get(f"{base}/result.json", call)
        if data is not None:
            result = msgspec.json.decode(data, type=met(Result))
        else:
            try:
                result = self._collated(manifest, service, base, call)
            except Conflict:  # another process is at it
                return msgspec.structs.replace(status, state=State.RUNNING)
            self._store.put(f"{base}/result.json", msgspec.json.encode(result), call)
            unmark(manifest.spec, manifest.name)
        total = manifest.lines + manifest.bad
        return msgspec.structs.replace(
            status,
            state=result.state,
            reason=result.reason,
            outputs=result.outputs,
            errors=result.errors,
            progress=(total, total),
        )

    def _collated(self, manifest: wire.Manifest, service: Service, base: str, call: Call) -> Result:
        with tempfile.TemporaryDirectory(prefix="cloudai-") as name:
            folder = Path(name)
            source = folder / manifest.original.rpartition("/")[2]
            self._store.download(manifest.original, source, call)
            if service == "transform":
                results = staging.transform_results(self._store, base, folder, call)
            else:
                results = staging.invocation_results(
                    self._store, base, manifest.lines, folder, call
                )
            spec = manifest.spec
            return publish(
                spec,
                manifest.name,
                lambda _: staging.Answers(spec, source_of(spec, source), results),
                source=source,
                deliver=lambda path, uri: self._store.upload(path, uri, call),
            )


def _from_manifest(manifest: wire.Manifest | None, name: str, output: str) -> dict[str, Any]:
    """What only the manifest knows; of another program's job its name and where it writes."""
    if manifest is None:
        return {"name": name, "outputs": {"output": output}}
    return {
        "name": manifest.spec.name,
        "idempotency_key": manifest.spec.idempotency_key,
        "progress": (0, manifest.lines + manifest.bad),
    }


def _seconds(value: Any) -> float | None:
    return None if value is None else value.timestamp()
