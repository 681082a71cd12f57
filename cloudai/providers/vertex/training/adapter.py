"""Training jobs: CustomJobs of Vertex AI, and for ``kind="finetune"`` its TuningJobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.calls.call import multi_step_create
from cloudai._core.files.paths import here
from cloudai._core.files.tree import planned
from cloudai._core.metrics import MetricPatterns
from cloudai._core.profiles.config import Profile
from cloudai.errors import InvalidRequest, NotFound, UnsupportedByProvider
from cloudai.protocols import Call, Place
from cloudai.providers.vertex import SPEC, catalog, common, once
from cloudai.providers.vertex import logs as _logs
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.gcs import Files, split
from cloudai.providers.vertex.resources import Resources
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.providers.vertex.training import package, wire
from cloudai.providers.vertex.training.tuning import Tuning
from cloudai.providers.vertex.training.tuning_wire import COLLECTION
from cloudai.types import (
    CostRange,
    JobStatus,
    LogPage,
    MetricPoint,
    NativeRequest,
    Plan,
    State,
    TrainingJob,
    Violation,
)
from cloudai.types._base import invalid

_TAIL: Final = 20


class VertexTraining:
    """Training jobs on Vertex AI. A job's id is its resource name."""

    def __init__(self, profile: Profile) -> None:
        self._session = profile.shared(VertexSession.of)
        self._files = profile.shared(Files.of)
        self._jobs = Resources(self._session, "customJobs")
        self._tuning = Tuning(self._session, self._files)
        self._points: dict[str, _Points] = {}

    def plan(self, spec: TrainingJob) -> Plan:
        """Needs no connection; reads the source's folder, or the training files."""
        if spec.kind == "finetune":
            return self._tuning.plan(spec)
        place = self._place(spec)
        travels, wrong = planned(spec, self._session.profile.home)
        found = [*wire.violations(spec, place), *wrong, *_missing(spec)]
        requests: list[NativeRequest] = []
        cost: CostRange | None = None
        if not found:
            try:
                for uri, path in self._uploads(spec, place):
                    body = {"from": str(path)} if path is not None else {"archive": spec.source}
                    requests.append(NativeRequest(operation=f"PUT {uri}", body=body))
                requests.append(
                    NativeRequest(operation=self._operation, body=wire.encode(spec, place))
                )
                machine = catalog.machine(spec.resources, place.location)
                share = catalog.SPOT_SHARE if spec.spot else 1.0
                cost = catalog.cost(machine, spec.resources.nodes, spec.timeout, share)
            except InvalidRequest as error:
                found.append(Violation(error.field or "spec", error.message, error.hint or ""))
        return Plan(
            provider=PROVIDER,
            capability="training",
            requests=tuple(requests),
            violations=tuple(found),
            dropped=tuple(wire.dropped(spec)),
            uploads=travels,
            notes=() if found else tuple(wire.notes(spec, place.location)),
            cost=cost,
        )

    @property
    def _operation(self) -> str:
        return f"POST /{API}/{self._session.parent}/customJobs"

    def submit(self, spec: TrainingJob, call: Call) -> str:
        """Uploads the source, then creates the job. Raises InvalidRequest for what ``plan`` lists
        and for a bucket in another region."""
        if spec.kind == "finetune":
            return self._tuning.submit(spec, call)
        place = self._place(spec)
        _, wrong = planned(spec, self._session.profile.home)
        for violation in (*wire.violations(spec, place), *wrong, *_missing(spec)):
            raise InvalidRequest(
                f"{violation.field}: {violation.problem}",
                field=violation.field,
                provider=PROVIDER,
                hint=violation.mend or None,
            )
        body = wire.encode(spec, place)
        uploads = self._uploads(spec, place)
        archive = package.build(spec, self._session.profile.home) if spec.kind == "script" else b""
        self._files.check_region(split(place.base)[0], call)
        for name in spec.inputs:
            self._files.check_input(f"inputs.{name}", spec.input(name).uri, call)
        key = str(spec.idempotency_key)
        made = once.rival(self._files, place.base, lambda: self.find(key, call), call)
        if made is not None:
            return made
        with multi_step_create(), self._files.undone(place.base, call):
            for uri, path in uploads:
                if path is None:
                    self._files.put(uri, archive, call)
                elif path.is_dir():
                    self._files.put_folder(uri, path, call)
                else:
                    self._files.put_file(uri, path, call)
            return str(self._jobs.create(body, call)["name"])

    def discard(self, spec: TrainingJob, call: Call) -> None:
        """Removes what was uploaded for a job that was never made; its place is named after the
        idempotency key."""
        if spec.kind == "finetune":
            self._tuning.discard(spec, call)
        else:
            self._files.remove_folder(self._place(spec).base, call)

    def where(self, call: Call) -> Place:
        return self._session.place()

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key as its label. Raises NotFound."""
        found = self._tuning.job(id, call) if _tunes(id) else self._jobs.get(id, call)
        return found.get("labels", {}).get(common.KEY_LABEL)

    tag_of = staticmethod(common.key_label)

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of its machines, on demand in us-central1; 0.0 where none runs."""
        if _tunes(id):
            return None  # it is billed by the token
        job = self._jobs.get(id, call)
        if common.state(job.get("state")) not in {State.STARTING, State.RUNNING, State.STOPPING}:
            return 0.0
        pools = job.get("jobSpec", {}).get("workerPoolSpecs", ())
        return catalog.hourly(
            [(one.get("machineSpec", {}), int(one.get("replicaCount", 1))) for one in pools if one]
        )

    def find(self, key: str, call: Call) -> str | None:
        found = self._jobs.find(key, call)
        return self._tuning.find(key, call) if found is None else str(found["name"])

    def status(self, id: str, call: Call) -> JobStatus:
        """Metrics are read from the log, what is new of it each time."""
        if _tunes(id):
            return self._tuning.status(id, call)
        job = self._jobs.get(id, call)
        found = wire.status(job, self._session.http.now())
        changes: dict[str, Any] = {}
        if wire.metrics_of(job) and found.started_at is not None:
            changes["metrics"] = self._metrics(job, found, call)
        if found.state is State.FAILED:
            changes["log_tail"] = _logs.tail(
                self._session, _filter(found.id), found.created_at, _TAIL, call
            )
        if not changes:
            return found
        return msgspec.structs.replace(found, **changes)

    def _metrics(
        self, job: dict[str, Any], found: JobStatus, call: Call
    ) -> dict[str, tuple[MetricPoint, ...]]:
        points = self._points.setdefault(found.id, _Points(job))
        while True:
            page = _logs.read(
                self._session, _filter(found.id), found.created_at, points.cursor, call
            )
            points.add(page)
            if not page.lines:
                break
        if found.state.done:
            self._points.pop(found.id, None)
        return points.found()

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        if _tunes(id):
            return self._tuning.logs(id, cursor, call)
        since: float | None = None
        if cursor is None:
            since = common.seconds(self._jobs.get(id, call).get("createTime"))
        return _logs.read(self._session, _filter(self._jobs.name(id)), since, cursor, call)

    def cancel(self, id: str, call: Call) -> None:
        (self._tuning if _tunes(id) else self._jobs).cancel(id, call)

    def delete(self, id: str, call: Call) -> None:
        """Removes the job, its source, and the outputs that were left to cloudai to place.
        Of a tuning job, the tuned model and its endpoints; its record stays at the service."""
        if _tunes(id):
            self._tuning.delete(id, call)
            return
        job = self._jobs.end(id, call)
        if job is None:
            return
        base = job.get("jobSpec", {}).get("baseOutputDirectory", {}).get("outputUriPrefix", "")
        if base.endswith("/output") and "/cloudai/training/" in base:
            self._files.remove_folder(base.removesuffix("/output"), call)
        self._jobs.drop(id, call)

    def list(self, call: Call) -> Sequence[JobStatus]:
        found = list(self._jobs.list(f"labels.{common.KEY_LABEL}:*", call))
        now = self._session.http.now()
        return [*(wire.status(job, now) for job in found), *self._tuning.list(call)]

    def download(self, id: str, output: str, target: str, call: Call) -> str:
        """Copies an output into a new or empty folder. Raises UnsupportedByProvider for a tuned
        model, which has no files."""
        if _tunes(id):
            raise UnsupportedByProvider(
                "downloading a tuned model",
                provider=PROVIDER,
                alternative=SPEC.gaps["training:weights"],
            )
        uri = self.status(id, call).outputs.get(output)
        if uri is None:
            raise NotFound(f"the job has no output {output!r}", provider=PROVIDER)
        folder = Path(target)
        if folder.exists() and any(folder.iterdir()):
            raise invalid("to", target, "is not empty", "Name a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self._files.get_folder(uri, folder, call)
        return target

    def _place(self, spec: TrainingJob) -> wire.Place:
        session = self._session
        return wire.Place(
            session.project,
            session.location,
            common.place(session.bucket, "training", spec.name, spec.idempotency_key),
            session.profile.get("service_account"),
            session.profile.get("network"),
            _ranges(session.profile.get("reserved_ip_ranges")),
        )

    def _uploads(self, spec: TrainingJob, place: wire.Place) -> list[tuple[str, Path | None]]:
        """URI and path of what is uploaded; None for the archive of the source."""
        found: list[tuple[str, Path | None]] = []
        if spec.kind == "script":
            found.append((place.source, None))
        for name in spec.inputs:
            path = here(spec.input(name).uri)
            if path is not None:
                found.append((wire.staged(spec, place, name), path))
        return found


def _ranges(given: Any) -> tuple[str, ...]:
    """A list, or names with commas between."""
    names = given.split(",") if isinstance(given, str) else given or ()
    return tuple(name.strip() for name in names if name.strip())


def _tunes(id: str) -> bool:
    return f"/{COLLECTION}/" in id


class _Points:
    """The metrics of one job, as far as its log was read."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._patterns = MetricPatterns((one.name, one.regex) for one in wire.metrics_of(job))
        self._lines: list[tuple[str, float]] = []
        self.cursor: str | None = None

    def add(self, page: LogPage) -> None:
        self.cursor = page.cursor
        told = ((line.text, line.time or 0.0) for line in page.lines)
        self._lines += [line for line in told if any(True for _ in self._patterns.values(line[0]))]

    def found(self) -> dict[str, tuple[MetricPoint, ...]]:
        # Sorted by time alone: lines of one time keep the order of the log.
        return self._patterns.points(sorted(self._lines, key=lambda line: line[1]))


def _filter(id: str) -> str:
    return f'resource.type="ml_job" AND resource.labels.job_id="{common.last(id)}"'


def _missing(spec: TrainingJob) -> list[Violation]:
    """What the spec names and this machine has not."""
    found: list[Violation] = []
    for name in spec.inputs:
        path = here(spec.input(name).uri)
        if path is not None and not path.exists():
            found.append(
                Violation(f"inputs.{name}", f"there is no {str(path)!r}.", "Mend the path.")
            )
    return found
