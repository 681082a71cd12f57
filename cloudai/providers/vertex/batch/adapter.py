"""Batch transforms: BatchPredictionJobs of models, of Gemini and of its embedding models.

The job is Vertex AI's own and needs nobody to watch it. Its output comes in any order; the first
look after its end puts it into the input's order, once, with the same code as the local provider,
and leaves a marker beside the job's files. Until then the state is STOPPING.

Longer than other modules: the adapter's methods are one Protocol's, over one session.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.batches.assemble import (
    Lookup,
    Result,
    absolute,
    publish,
    sendable,
    source_of,
    unmark,
)
from cloudai._core.batches.cost import HALF, estimate
from cloudai._core.batches.formats import Source, format_of
from cloudai._core.batches.runner import PER_RECORD
from cloudai._core.calls.call import multi_step_create
from cloudai._core.files.paths import here, local_path
from cloudai._core.files.tree import planned
from cloudai._core.profiles.config import Profile
from cloudai.errors import Conflict, InvalidRequest, NotFound
from cloudai.protocols import Call, Place
from cloudai.providers.vertex import catalog, common, once
from cloudai.providers.vertex import logs as _logs
from cloudai.providers.vertex.batch import wire
from cloudai.providers.vertex.chat import wire as chat_wire
from cloudai.providers.vertex.endpoints import wire as endpoints_wire
from cloudai.providers.vertex.endpoints.models import Models
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.gcs import Files
from cloudai.providers.vertex.models import TABLE
from cloudai.providers.vertex.resources import Resources
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types import (
    BatchTransform,
    CostRange,
    Deployment,
    JobStatus,
    LogPage,
    NativeRequest,
    Plan,
    State,
    Variant,
    Violation,
)
from cloudai.types._base import met

_KEPT: Final = "cloudai/batch/"


class VertexBatch:
    """Batch transforms on Vertex AI. A batch's id is its job's resource name."""

    def __init__(self, profile: Profile) -> None:
        self._session = profile.shared(VertexSession.of)
        self._files = profile.shared(Files.of)
        self._jobs = Resources(self._session, "batchPredictionJobs")
        self._models = Models(self._session, self._files, "batch-models")
        self._totals: dict[str, int | None] = {}

    # -- planning ----------------------------------------------------------------------------

    def plan(self, spec: BatchTransform) -> Plan:
        """Needs no connection; looks at a local input to tell the kind of its lines."""
        found = self._violations(spec)
        requests: list[NativeRequest] = []
        if not found:
            base = self._base(spec)
            objects = self._objects_of(spec)
            requests = [
                NativeRequest(operation=f"PUT {base}/{wire.INPUT}", body={"from": spec.input}),
                NativeRequest(
                    operation=f"POST /{API}/{self._session.parent}/batchPredictionJobs",
                    body=self._encode(spec, self._transformer(spec, None), objects=objects),
                ),
            ]
        return Plan(
            provider=PROVIDER,
            capability="batch",
            requests=tuple(requests),
            violations=tuple(found),
            dropped=tuple(wire.dropped(spec)),
            uploads=() if found else planned(spec)[0],
            cost=None if found else self._cost(spec),
        )

    def _cost(self, spec: BatchTransform) -> CostRange | None:
        if spec.model is not None:
            machine = catalog.machine(spec.resources, self._session.location)
            return catalog.cost(machine, spec.shards, spec.timeout)
        price = self._session.profile.prices.get(spec.chat or spec.embeddings or "")
        return estimate(spec, TABLE, HALF, price=price)

    def _violations(self, spec: BatchTransform) -> list[Violation]:
        found = wire.violations(spec)
        if spec.model is not None:
            found += self._models.violations(self._deployment(spec))
        path = here(spec.input)
        if path is not None and not path.is_file():
            found.append(Violation("input", f"there is no file {spec.input!r}."))
        return found

    def _objects_of(self, spec: BatchTransform) -> bool:
        """Whether all lines of a local input are objects; what ``submit`` finds out of a bucket's
        is taken to be so where its name says CSV."""
        if spec.input.startswith("gs://"):
            return spec.model is not None and format_of(Path(spec.input), spec.format) == "csv"
        return self._all_objects(spec, source_of(spec))

    @staticmethod
    def _all_objects(spec: BatchTransform, source: Source) -> bool:
        if spec.chat is not None or spec.embeddings is not None:
            return False
        some = False
        for _, raw in source.records():
            try:
                value = source.decode(raw)
            except PER_RECORD:
                continue
            if not isinstance(value, dict):
                return False
            some = True
        return some

    def _deployment(self, spec: BatchTransform) -> Deployment:
        """The model as an endpoint would have it: one set of rules for both."""
        name = "".join(c if c.isalnum() else "-" for c in (spec.name or "batch").lower())
        return Deployment(
            name=f"b-{name}"[:60].rstrip("-"),
            variants=(
                Variant(model=spec.model or "", handler=spec.handler, resources=spec.resources),
            ),
            framework=spec.framework,
            image=spec.image,
            requirements=spec.requirements,
            env=spec.env,
            secrets=spec.secrets,
            idempotency_key=spec.idempotency_key,
        )

    def _base(self, spec: BatchTransform) -> str:
        return common.place(self._session.bucket, "batch", spec.name, spec.idempotency_key)

    def _transformer(self, spec: BatchTransform, call: Call | None) -> dict[str, Any]:
        """What transforms. ``call`` None looks nothing up, for a plan."""
        session = self._session
        model = spec.chat or spec.embeddings
        if model is not None:
            path = chat_wire.path(session.parent, model)
            if "/endpoints/" in path:  # a tuned model, by the endpoint that it chats at
                named = f"the model behind {path}" if call is None else self._behind(path, call)
                return {"model": named}
            # Publishers' models are named without the project.
            return {"model": path[path.index("publishers/") :] if "publishers/" in path else path}
        if spec.endpoint is not None:
            name = f"{session.parent}/endpoints/{spec.endpoint}"
            if call is None:
                return {"model": f"the model behind {name}"}
            return {"model": self._behind(name, call)}
        deployment = self._deployment(spec)
        (variant,) = deployment.variants
        body = endpoints_wire.model(
            deployment,
            variant,
            self._models.artifact(deployment, variant),
            session.location,
        )["model"]
        kept = {key: body[key] for key in ("artifactUri", "containerSpec")}
        return {"unmanagedContainerModel": kept}

    def _behind(self, endpoint: str, call: Call) -> str:
        """The Model with the most of an endpoint's traffic."""
        found = Resources(self._session, "endpoints").get(endpoint, call)
        shares = found.get("trafficSplit", {})
        deployed = sorted(
            found.get("deployedModels", ()), key=lambda one: -int(shares.get(one["id"], 0))
        )
        if not deployed:
            raise Conflict(f"{endpoint} has no model yet", provider=PROVIDER)
        return str(deployed[0]["model"])

    def _encode(
        self, spec: BatchTransform, model: dict[str, Any], *, objects: bool
    ) -> dict[str, Any]:
        return wire.encode(
            spec,
            self._base(spec),
            self._session.location,
            model=model,
            objects=objects,
            service_account=self._session.profile.get("service_account"),
        )

    # -- making ------------------------------------------------------------------------------

    def submit(self, spec: BatchTransform, call: Call) -> str:
        """Writes the input's lines as the model reads them, then creates the job. Raises Conflict
        where the output exists."""
        for violation in self._violations(spec):
            raise InvalidRequest(
                f"{violation.field}: {violation.problem}",
                field=violation.field,
                provider=PROVIDER,
                hint=violation.mend or None,
            )
        if not spec.overwrite and self._exists(spec.output, call):
            raise Conflict(
                f"the output {spec.output} exists",
                provider=PROVIDER,
                hint="Use overwrite=True to replace it, or name another output",
            )
        spec = absolute(spec)
        base, key = self._base(spec), str(spec.idempotency_key)
        self._files.check_region(self._session.bucket, call)
        made = once.rival(self._files, base, lambda: self.find(key, call), call)
        if made is not None:
            return made
        with tempfile.TemporaryDirectory(prefix="cloudai-batch-") as folder, ExitStack() as undo:
            undo.enter_context(self._files.undone(base, call))
            source = self._source(spec, Path(folder), call)
            prepared = Path(folder) / wire.INPUT
            objects = self._all_objects(spec, source)
            count = _prepare(spec, source, prepared, objects=objects)
            undo.enter_context(multi_step_create())
            if spec.model is not None:
                deployment = self._deployment(spec)
                own = self._models.artifact(deployment, deployment.variants[0])
                if own.startswith(self._models.base("")):
                    undo.enter_context(self._files.undone(own, call))
                self._models.put(deployment, deployment.variants[0], call)
            self._files.put_file(f"{base}/{wire.INPUT}", prepared, call)
            told = msgspec.json.encode({"spec": spec, "lines": count})
            self._files.put(f"{base}/{wire.SPEC}", told, call)
            body = self._encode(spec, self._transformer(spec, call), objects=objects)
            return str(self._jobs.create(body, call)["name"])

    def discard(self, spec: BatchTransform, call: Call) -> None:
        """Removes the files of a batch that was never made; their places are named after the
        idempotency key."""
        self._files.remove_folder(self._base(spec), call)
        if spec.model is not None:
            self._models.discard(self._deployment(spec), call)

    def _exists(self, uri: str, call: Call) -> bool:
        if uri.startswith("gs://"):
            return uri in self._files.names(uri, call)
        return local_path(uri, "output").exists()

    def _source(self, spec: BatchTransform, folder: Path, call: Call) -> Source:
        """The input, fetched where it lies in a bucket."""
        path = here(spec.input)
        if path is None:
            path = folder / f"source{Path(spec.input).suffix}"
            try:
                self._files.get_file(spec.input, path, call)
            except NotFound:
                raise NotFound(f"there is no input at {spec.input}", provider=PROVIDER) from None
        return source_of(spec, path)

    def where(self, call: Call) -> Place:
        return self._session.place()

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key as its label. Raises NotFound."""
        return self._jobs.get(id, call).get("labels", {}).get(common.KEY_LABEL)

    tag_of = staticmethod(common.key_label)

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its machines at the least, on demand in us-central1; 0.0 where none
        runs, None for what is billed by the token."""
        job = self._jobs.get(id, call)
        if common.state(job.get("state")).done:
            return 0.0
        told = job.get("dedicatedResources")
        if told is None:
            return None
        return catalog.hourly([(told.get("machineSpec", {}), int(told["startingReplicaCount"]))])

    def find(self, key: str, call: Call) -> str | None:
        found = self._jobs.find(key, call)
        return None if found is None else str(found["name"])

    # -- looking -----------------------------------------------------------------------------

    def status(self, id: str, call: Call) -> JobStatus:
        """The first look after the job's end puts the output together."""
        job = self._jobs.get(id, call)
        base = wire.base_of(job)
        if _KEPT not in base:  # another program's: its output stays as the service wrote it
            place = job.get("outputInfo", {}).get("gcsOutputDirectory")
            found = wire.status(job, None, None)
            return msgspec.structs.replace(found, outputs={"output": place} if place else {})
        found = wire.status(job, self._total(base, call), None)
        ended = found.state in {State.SUCCEEDED, State.PARTIAL, State.FAILED}
        if not ended:
            return found
        try:
            data = self._files.get(f"{base}/{wire.DONE}", call)
            done = msgspec.json.decode(data, type=met(Result))
        except NotFound:
            try:
                done = self._assemble(job, base, found, call)
            except Conflict:  # another process is at it
                return msgspec.structs.replace(found, state=State.STOPPING)
            self._files.put(f"{base}/{wire.DONE}", msgspec.json.encode(done), call)
            unmark(self._kept_spec(base, call)[0], id)
        return wire.status(job, None, done)

    def _total(self, base: str, call: Call) -> int | None:
        if base not in self._totals:
            try:
                self._totals[base] = self._kept_spec(base, call)[1]
            except NotFound:
                return None
        return self._totals[base]

    def _kept_spec(self, base: str, call: Call) -> tuple[BatchTransform, int]:
        told = msgspec.json.decode(self._files.get(f"{base}/{wire.SPEC}", call))
        return msgspec.convert(told["spec"], met(BatchTransform)), int(told["lines"])

    def _assemble(self, job: dict[str, Any], base: str, found: JobStatus, call: Call) -> Result:
        """Puts the output together, and in its place."""
        spec, count = self._kept_spec(base, call)
        lines = self._files.get(f"{base}/{wire.INPUT}", call).splitlines()
        outcomes = wire.Outcomes(spec, lines)
        read = 0
        folder = job.get("outputInfo", {}).get("gcsOutputDirectory")
        for name in self._files.names(folder.rstrip("/") + "/", call) if folder else ():
            for line in self._files.get(name, call).splitlines():
                if line.strip():
                    outcomes.add(line)
                    read += 1
        if found.state is State.FAILED and not read and count:
            return Result(state=State.FAILED, reason=found.reason)
        with tempfile.TemporaryDirectory(prefix="cloudai-batch-") as place:
            source = self._source(spec, Path(place), call)
            done = publish(
                spec,
                job["name"],
                lambda _: _Answers(spec, source, outcomes),
                source=source.path,
                deliver=lambda path, uri: self._files.put_file(uri, path, call),
            )
        if done.state is State.SUCCEEDED and found.state is not State.SUCCEEDED:
            # Each line has its answer, and yet the service does not call it a success.
            reason = found.reason or f"the service calls it {found.native_state}"
            return msgspec.structs.replace(done, state=found.state, reason=reason)
        return done

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        since: float | None = None
        if cursor is None:
            since = common.seconds(self._jobs.get(id, call).get("createTime"))
        what = (
            'resource.type="aiplatform.googleapis.com/BatchPredictionJob" AND '
            f'resource.labels.job_id="{common.last(id)}"'
        )
        return _logs.read(self._session, what, since, cursor, call)

    def cancel(self, id: str, call: Call) -> None:
        self._jobs.cancel(id, call)

    def delete(self, id: str, call: Call) -> None:
        """Removes the job and its files; the output that was asked for stays."""
        job = self._jobs.end(id, call)
        if job is None:
            return
        base = wire.base_of(job)
        if _KEPT in base:
            self._files.remove_folder(base, call)
        own = job.get("unmanagedContainerModel", {}).get("artifactUri", "")
        if own.startswith(self._models.base("")):
            self._files.remove_folder(own, call)
        self._jobs.drop(id, call)

    def list(self, call: Call) -> Sequence[JobStatus]:
        return [
            wire.status(job, None, None)
            for job in self._jobs.list(f"labels.{common.KEY_LABEL}:*", call)
        ]


class _Answers(Lookup):
    """The job's answers, which came in any order."""

    def __init__(self, spec: BatchTransform, source: Source, outcomes: wire.Outcomes) -> None:
        super().__init__(source)
        self._spec = spec
        self._outcomes = outcomes
        self._sent = 0

    def answer(self, index: int, record: Any) -> Any:
        # As ``_prepare`` numbered them; a record that was not sent tells its own error.
        wire.line(self._spec, 0, record, objects=False)
        self._sent += 1
        return self._outcomes.answer(self._sent - 1)


def _prepare(spec: BatchTransform, source: Source, target: Path, *, objects: bool) -> int:
    """Writes the lines that can be sent. Gives their number."""
    count = 0
    made = sendable(spec, source, lambda _, record: wire.line(spec, count, record, objects=objects))
    with target.open("wb") as out:
        for line in made:
            if line is not None:
                out.write(line + b"\n")
                count += 1
    return count
