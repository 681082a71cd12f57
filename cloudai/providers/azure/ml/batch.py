"""Batch transforms on Azure ML: a batch endpoint for each, asked once.

The input travels in numbered parts, whose lines carry their numbers; the scoring script writes
each part's outputs under its name. So the output is put together in the input's order, with
keys and joins, by whoever sees the end first. All that is needed for it is kept at the
endpoint. Batch deployments run on a cluster: ``native={"azure": {"compute": NAME}}``.

Input and output may lie in storage: then the input is kept beside the parts, in the workspace's
datastore, as it was when the batch was submitted.

Longer than other modules: the adapter's methods are one Protocol's, over one workspace.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from cloudai._core.batches.assemble import (
    Lookup,
    Result,
    absolute,
    publish,
    sendable,
    source_of,
    unmark,
)
from cloudai._core.batches.formats import format_of
from cloudai._core.batches.runner import check_paths
from cloudai._core.files.paths import local_path
from cloudai._core.files.tree import planned
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CallTimeout,
    CloudAIError,
    Conflict,
    HandlerError,
    InvalidRequest,
    NotFound,
    ProviderError,
)
from cloudai.protocols import Call, Place
from cloudai.providers.azure import arm
from cloudai.providers.azure.errors import refuse
from cloudai.providers.azure.ml import machines, model_assets
from cloudai.providers.azure.ml.job_wire import KEY, LOGS, NAME, STATES
from cloudai.providers.azure.ml.workspace import (
    API_VERSION,
    ARTIFACTS,
    DATA,
    Files,
    Workspace,
    address,
    datastore_uri,
    remote,
)
from cloudai.types import (
    BatchTransform,
    JobStatus,
    LogLine,
    LogPage,
    NativeRequest,
    Plan,
    State,
    Violation,
)
from cloudai.types._base import invalid, met

_SPEC: Final = "cloudai.spec"
_LINES: Final = "cloudai.lines"
_INPUT: Final = "cloudai.input"
_JOB: Final = "cloudai.job"
_DEPLOYMENT: Final = "main"
_PART: Final = 10_000
"""Lines of one part, which is what a machine takes at a time."""


class AzureMLBatch:
    """``Jobs[BatchTransform]`` on the profile's workspace. The id is the batch endpoint's name."""

    def __init__(self, profile: Profile) -> None:
        self._workspace = Workspace(profile)

    # -- going out -----------------------------------------------------------------------

    def _check(self, spec: BatchTransform) -> None:
        model_assets.check(str(spec.model_uri), spec.handler, "model")
        for field in ("input", "output"):
            uri = str(getattr(spec, field))
            if remote(uri) and not uri.startswith("azureml://"):
                address(uri, field)
        format_of(Path(spec.input), spec.format)
        if remote(spec.output):
            return
        output = local_path(spec.output, "output")
        if not remote(spec.input):
            check_paths(spec)
        if output.exists() and not spec.overwrite:
            raise _taken(output)

    def _compute(self, spec: BatchTransform) -> str | None:
        native = spec.native.get("azure", {})
        return native.get("compute") or self._workspace.profile.get("compute")

    def _violations(self, spec: BatchTransform) -> list[Violation]:
        native = spec.native.get("azure", {})
        found = model_assets.image_violations(spec.image) + model_assets.violations(spec)
        if self._compute(spec) is None:
            mend = "Name a cluster: compute in the profile, or native.azure.compute."
            found.append(Violation("compute", "is needed by batch endpoints.", mend))
        for name in set(native) - {"compute"}:
            found.append(Violation(f"native.azure.{name}", "is not known here.", "Use compute."))
        if spec.secrets:
            found.append(Violation("secrets", "cannot be handed over by the service."))
        return found

    def plan(self, spec: BatchTransform) -> Plan:
        """The endpoint's and the deployment's requests, with places for the assets' ids."""
        violations = self._violations(spec)
        requests: tuple[NativeRequest, ...] = ()
        try:
            self._check(spec)
        except CloudAIError as error:
            violations.append(Violation(getattr(error, "field", None) or "output", str(error)))
        if not violations:
            base = self._workspace.id_of(f"batchEndpoints/{_id(spec.idempotency_key or '')}")
            ids = ("<the model's id>", "<the code's id>", "<the environment's id>")
            query = f"?api-version={API_VERSION}"
            requests = (
                NativeRequest(
                    operation=f"PUT {base}{query}",
                    body=self._endpoint(spec, "<where the parts lie>", 0, ""),
                ),
                NativeRequest(
                    operation=f"PUT {base}/deployments/{_DEPLOYMENT}{query}",
                    body=self._deployment(spec, *ids, ""),
                ),
            )
        dropped = ["timeout: set on the cluster's jobs"] if spec.timeout is not None else []
        return Plan(
            provider="azure",
            capability="batch",
            requests=requests,
            violations=tuple(violations),
            dropped=tuple(dropped),
            uploads=() if violations else planned(spec)[0],
        )

    @staticmethod
    def _endpoint(spec: BatchTransform, uri: str, lines: int, location: str) -> dict[str, Any]:
        return {
            "location": location,
            "tags": {**spec.tags, KEY: spec.idempotency_key or "", NAME: spec.name or ""},
            "identity": {"type": "SystemAssigned"},
            "properties": {
                "authMode": "AADToken",
                "defaults": {"deploymentName": _DEPLOYMENT},
                "properties": {
                    _SPEC: msgspec.json.encode(spec).decode(),
                    _LINES: str(lines),
                    _INPUT: uri,
                },
            },
        }

    def _deployment(
        self, spec: BatchTransform, model: str, code: str, environment: str, location: str
    ) -> dict[str, Any]:
        compute = self._compute(spec)
        settings = {"params": spec.params, "batch_size": spec.batch_size}
        return {
            "location": location,
            "properties": {
                "model": {"referenceType": "Id", "assetId": model},
                "codeConfiguration": {"codeId": code, "scoringScript": model_assets.SCRIPT},
                "environmentId": environment,
                "environmentVariables": {**spec.env, "CLOUDAI_BATCH": json.dumps(settings)},
                "compute": self._workspace.id_of(f"computes/{compute}"),
                "resources": {"instanceCount": spec.shards},
                "maxConcurrencyPerInstance": 1,
                "miniBatchSize": 1,
                "outputAction": "SummaryOnly",
                "errorThreshold": 0,
                "retrySettings": {"maxRetries": spec.retry.max, "timeout": "PT1H"},
            },
        }

    def check(self, spec: BatchTransform) -> None:
        self._check(spec)
        refuse(self._violations(spec))

    def submit(self, spec: BatchTransform, call: Call) -> str:
        """Uploads the parts and the model, makes the endpoint; ``status`` asks it once it is
        up. Raises InvalidRequest for a bad line (``on_error="fail"``) before that."""
        self.check(spec)
        spec = absolute(spec)
        workspace = self._workspace
        there = not spec.overwrite and remote(spec.output)
        if there and workspace.exists(spec.output, call, "output"):
            raise _taken(spec.output)
        id = _id(spec.idempotency_key or "")
        with model_assets.scratch() as folder:
            near = self._near(spec, spec.input, Path(folder), call)
            if near is not spec:
                # The records once more, as they are now, for whoever puts the output together.
                workspace.put(_kept_input(id, spec), Path(near.input), call)
            files, lines = _write_parts(near, Path(folder))
            uri = workspace.upload("codes", files, call)[1]
        model = model_assets.upload_model(workspace, str(spec.model_uri), call)
        code = model_assets.upload_code(workspace, spec.handler, call)
        environment = model_assets.register_environment(
            workspace, spec, spec.resources, call, model_assets.BATCH
        )
        location = str(workspace.send("GET", "", call)["location"])
        path = f"batchEndpoints/{id}"
        workspace.send("PUT", path, call, self._endpoint(spec, uri, lines, location))
        body = self._deployment(spec, model, code, environment, location)
        workspace.send("PUT", f"{path}/deployments/{_DEPLOYMENT}", call, body)
        return id

    def _near(self, spec: BatchTransform, uri: str, folder: Path, call: Call) -> BatchTransform:
        """The spec with its input on this machine, which is copied from ``uri`` where it is not."""
        if not remote(spec.input):
            return spec
        path = folder / "input" / spec.input.rpartition("/")[2]
        try:
            self._workspace.fetch(uri, path, call, "input")
        except NotFound:
            raise invalid("input", spec.input, "does not exist") from None
        return replace(spec, input=str(path), format=format_of(path, spec.format))

    def where(self, call: Call) -> Place:
        return self._workspace.place(call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key in its tag. Raises NotFound."""
        return (self._get(id, call).get("tags") or {}).get(KEY) or None

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its machines of the cluster, on demand in East US; 0.0 where none
        runs."""
        kept = self._kept(id, call)
        spec = msgspec.json.decode(kept[_SPEC], type=met(BatchTransform))
        job = self._job(id, kept, call)
        native = str(job["properties"].get("status")) if job is not None else ""
        if job is None or STATES.get(native.lower(), State.UNKNOWN).done:
            return 0.0
        size = self._workspace.size_of(self._compute(spec) or "", call)
        return machines.hourly([(str(size), spec.shards)])

    def find(self, key: str, call: Call) -> str | None:
        id = _id(key)
        # An endpoint without its deployment was begun and not made whole.
        path = f"batchEndpoints/{id}/deployments/{_DEPLOYMENT}"
        return id if self._workspace.found(path, call) is not None else None

    # -- looking -------------------------------------------------------------------------

    def _get(self, id: str, call: Call) -> dict[str, Any]:
        try:
            return self._workspace.send("GET", f"batchEndpoints/{id}", call)
        except NotFound as error:
            error.message = f"there is no batch {id!r} in the workspace"
            raise

    def _job(self, id: str, kept: dict[str, str], call: Call) -> dict[str, Any] | None:
        """The job that the endpoint was asked for."""
        return self._workspace.found(f"jobs/{_run(id, kept)}", call)

    def _log(self, id: str, kept: dict[str, str], call: Call, start: int = 0) -> bytes:
        for name in LOGS:
            path = name.format(_run(id, kept), 0)
            found = self._workspace.read(ARTIFACTS, path, call, start)
            if found:
                return found
        return b""

    def status(self, id: str, call: Call) -> JobStatus:
        """A snapshot; asks the endpoint once it is up, and puts the output together once the
        job has ended."""
        item = self._get(id, call)
        kept: dict[str, str] = item["properties"]["properties"]
        spec = msgspec.json.decode(kept[_SPEC], type=met(BatchTransform))
        job = self._job(id, kept, call)
        if job is None:
            path = f"batchEndpoints/{id}/deployments/{_DEPLOYMENT}"
            deployment = self._workspace.send("GET", path, call)
            native = str(deployment["properties"].get("provisioningState"))
            if native.lower() in {"failed", "canceled"}:
                reason = "the deployment did not come up"
                return self._snapshot(id, spec, kept, State.FAILED, native, reason=reason)
            if native.lower() == "succeeded":
                self._invoke(id, item, kept, call)
            return self._snapshot(id, spec, kept, State.STARTING, native)
        native = str(job["properties"].get("status"))
        state = STATES.get(native.lower(), State.UNKNOWN)
        if state is not State.SUCCEEDED:
            reason = self._why(id, kept, call) if state is State.FAILED else None
            return self._snapshot(id, spec, kept, state, native, reason=reason)
        try:
            result = self._published(id, spec, call)
        except Conflict:
            reason = "another process is putting the output together"
            return self._snapshot(id, spec, kept, State.RUNNING, native, reason=reason)
        return replace(
            self._snapshot(id, spec, kept, result.state, native, reason=result.reason),
            outputs=result.outputs,
            errors=result.errors,
            progress=(result.lines, result.lines),
        )

    def _invoke(self, id: str, item: dict[str, Any], kept: dict[str, str], call: Call) -> None:
        """Asks the endpoint. The job's name is told, so that a second asking meets the first; what
        the service calls it all the same is kept at the endpoint. Token, fields and their letters
        are azure-ai-ml 1.35's (``BatchEndpointOperations.invoke``, ``BatchJobSchema``)."""
        output = {"jobOutputType": "UriFolder", "uri": datastore_uri(f"cloudai/{id}")}
        body = {
            "properties": {
                "name": _run(id, kept),
                "inputData": {"input": {"jobInputType": "UriFolder", "uri": kept[_INPUT]}},
                "outputData": {"score": output},
            }
        }
        url = str(item["properties"]["scoringUri"])
        session = self._workspace.session
        auth = session.machine_learning
        headers = {"azureml-model-deployment": _DEPLOYMENT}
        try:
            answer = arm.send(session, "POST", url, "", call, body, headers=headers, auth=auth)
        except Conflict:
            return
        name = str((answer.body or {}).get("name") or "")
        if name and name != _run(id, kept):
            known = {key: item[key] for key in ("location", "tags", "identity") if key in item}
            properties = {
                "authMode": "AADToken",
                "defaults": {"deploymentName": _DEPLOYMENT},
                "properties": {**kept, _JOB: name},
            }
            body = {**known, "properties": properties}
            self._workspace.send("PUT", f"batchEndpoints/{id}", call, body)

    def _snapshot(
        self,
        id: str,
        spec: BatchTransform,
        kept: dict[str, str],
        state: State,
        native: str,
        reason: str | None = None,
    ) -> JobStatus:
        return JobStatus(
            id=id,
            state=state,
            name=spec.name,
            idempotency_key=spec.idempotency_key,
            reason=reason,
            native_state=native,
            progress=(0, int(kept[_LINES])),
        )

    def _why(self, id: str, kept: dict[str, str], call: Call) -> str:
        lines = self._log(id, kept, call).decode("utf-8", "replace").splitlines()
        return lines[-1] if lines else "the service gave no reason"

    def _published(self, id: str, spec: BatchTransform, call: Call) -> Result:
        """Puts the output together, once; in storage, a mark beside the kept input tells."""
        workspace, kept = self._workspace, f"{_kept_path(id)}/result.json"
        away = remote(spec.input) or remote(spec.output)
        told = workspace.read(DATA, kept, call) if away else b""
        if told:
            return msgspec.json.decode(told, type=met(Result))
        with model_assets.scratch() as scratch:
            near = self._near(spec, _kept_input(id, spec), Path(scratch), call)

            def answers(folder: Path) -> _Answers:
                workspace.download(DATA, f"cloudai/{id}", folder, call)
                return _Answers(near, folder)

            result = publish(
                spec,
                id,
                answers,
                source=Path(near.input),
                deliver=lambda path, uri: workspace.put(uri, path, call, "output"),
            )
            if away and result.state is not State.FAILED:
                mark = Path(scratch) / "result.json"
                mark.write_bytes(msgspec.json.encode(result))
                workspace.put(datastore_uri(kept), mark, call)
        return result

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The job's log. The cursor is a number of bytes."""
        kept = self._kept(id, call)
        start = int(cursor or 0)
        fresh = self._log(id, kept, call, start)
        lines = fresh.decode("utf-8", "replace").splitlines()
        return LogPage(
            lines=tuple(LogLine(text=line) for line in lines), cursor=str(start + len(fresh))
        )

    def cancel(self, id: str, call: Call) -> None:
        """Stops the job; one that has not begun is begun and stopped."""
        end = time.monotonic() + 60
        while (job := self._job(id, self._kept(id, call), call)) is None:
            found = self.status(id, call)
            if found.state.done:
                return
            if time.monotonic() > end:
                raise CallTimeout("the batch deployment is still being made", provider="azure")
            time.sleep(0.2)
        with suppress(Conflict, InvalidRequest):
            self._workspace.send("POST", f"jobs/{job['name']}/cancel", call)

    def _kept(self, id: str, call: Call) -> dict[str, str]:
        return self._get(id, call)["properties"]["properties"]

    def delete(self, id: str, call: Call) -> None:
        """Stops the job, deletes the endpoint and the parts' outputs; the output stays."""
        try:
            item = self._get(id, call)
        except NotFound:
            return
        job = self._job(id, item["properties"]["properties"], call)
        if job is not None:
            with suppress(Conflict, InvalidRequest):
                self._workspace.send("POST", f"jobs/{job['name']}/cancel", call)
            self._workspace.remove(DATA, f"cloudai/{id}", call)
            with suppress(NotFound):
                self._workspace.send("DELETE", f"jobs/{job['name']}", call)
        spec = msgspec.json.decode(
            item["properties"]["properties"][_SPEC], type=met(BatchTransform)
        )
        if remote(spec.input) or remote(spec.output):
            self._workspace.remove(DATA, _kept_path(id), call)
        self._workspace.send("DELETE", f"batchEndpoints/{id}", call)
        unmark(spec, id)

    def list(self, call: Call) -> Sequence[JobStatus]:
        """The batches that were made through cloudai; none of them is gone on with."""
        found: list[JobStatus] = []
        for item in self._workspace.listed("batchEndpoints", call):
            kept = item["properties"].get("properties") or {}
            if _SPEC not in kept:
                continue
            spec = msgspec.json.decode(kept[_SPEC], type=met(BatchTransform))
            job = self._job(str(item["name"]), kept, call)
            native = str(job["properties"].get("status")) if job else "Creating"
            state = STATES.get(native.lower(), State.UNKNOWN) if job else State.STARTING
            found.append(self._snapshot(str(item["name"]), spec, kept, state, native))
        return found


class _Answers(Lookup):
    """Looks outputs up in the parts that the scoring script wrote."""

    def __init__(self, spec: BatchTransform, folder: Path) -> None:
        super().__init__(source_of(spec))
        self._found: dict[int, dict[str, Any]] = {}
        for part in sorted(folder.glob("*.jsonl")):
            for line in part.read_bytes().splitlines():
                row = msgspec.json.decode(line)
                self._found[row["line"]] = row

    def answer(self, index: int, record: Any) -> Any:
        row = self._found.get(index)
        if row is None:
            raise ProviderError(f"record {index + 1} has no output", provider="azure")
        if "error" in row:
            told = row["error"]
            raise HandlerError(f"{told['type']}: {told['message']}", provider="azure")
        return row["output"]


def _write_parts(spec: BatchTransform, folder: Path) -> tuple[Files, int]:
    """The input in numbered parts, and the number of its records."""
    made = list(
        sendable(
            spec,
            source_of(spec),
            lambda index, value: msgspec.json.encode({"line": index, "value": value}) + b"\n",
        )
    )
    rows = [row for row in made if row is not None]
    each = max(1, min(_PART, -(-len(rows) // spec.shards)))
    files: Files = {}
    for at in range(0, max(len(rows), 1), each):
        name = f"part-{at // each:05}.jsonl"
        files[name] = folder / name
        files[name].write_bytes(b"".join(rows[at : at + each]))
    return files, len(made)


def _taken(output: Path | str) -> Conflict:
    hint = "Use overwrite=True to replace it, or name another output."
    return Conflict(f"the output {output} exists", provider="azure", hint=hint)


def _kept_path(id: str) -> str:
    """Where a batch whose files lie in storage keeps its input, in the workspace's datastore."""
    return f"cloudai/{id}-kept"


def _kept_input(id: str, spec: BatchTransform) -> str:
    return datastore_uri(f"{_kept_path(id)}/{spec.input.rpartition('/')[2]}")


def _run(id: str, kept: dict[str, str]) -> str:
    """The job's name: what the service called it, else what it is asked to."""
    return kept.get(_JOB) or f"{id}-run"


def _id(key: str) -> str:
    """A batch endpoint's name: at most 32 characters, unique in its region."""
    return f"cb-{hashlib.sha256(key.encode()).hexdigest()[:25]}"
