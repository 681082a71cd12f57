"""What training jobs and batch transforms of the fake have in common."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai.errors import ConfigError, InvalidRequest, NotFound
from cloudai.protocols import Call
from cloudai.providers.fake._course import Course, course
from cloudai.providers.fake._state import FakeState, speed
from cloudai.providers.fake._store import JobRow
from cloudai.types import (
    BatchTransform,
    CostRange,
    JobStatus,
    LogLine,
    LogPage,
    MetricPoint,
    NativeRequest,
    Plan,
    State,
    TrainingJob,
    Violation,
)
from cloudai.types._base import met

SpecT = TypeVar("SpecT", TrainingJob, BatchTransform)

TAIL = 20
"""Lines of the log that a failed job shows."""

FREE = CostRange(low=0.0, high=0.0, basis="the fake provider costs nothing", as_of="2026-11-22")


class FakeJobs(ABC, Generic[SpecT]):
    """The life of a job, from its row in the store. A capability adds what it checks, what it
    publishes and what it logs."""

    capability: ClassVar[str]
    spec_type: type[SpecT]

    def __init__(self, profile: Profile) -> None:
        self.cloud_state = profile.shared(FakeState.of)
        self.store = self.cloud_state.store
        self._speed = speed(profile)

    def plan(self, spec: SpecT) -> Plan:
        """What a submission would do; nothing is looked at but local paths."""
        violations = self.violations(spec)
        try:
            self.cloud_state.own_fate(self.capability, spec.native)
        except ConfigError as error:
            violations.append(Violation("native.fake", str(error)))
        return Plan(
            provider="fake",
            capability=self.capability,
            requests=(
                NativeRequest(
                    operation=f"fake:{self.capability}.submit", body=msgspec.to_builtins(spec)
                ),
            ),
            violations=tuple(violations),
            dropped=tuple(self.dropped(spec)),
            cost=FREE,
        )

    def submit(self, spec: SpecT, call: Call) -> str:
        """Raises InvalidRequest for the first violation, and scripted errors. A key that has a
        job already gives that job."""
        key = spec.idempotency_key or call.key or uuid.uuid4().hex
        with self.cloud_state.serving(f"{self.capability}.submit", spec, call):
            found = self.store.by_key(self.capability, key)
            if found is not None:
                return found.id
            for violation in self.plan(spec).violations:
                raise InvalidRequest(str(violation), field=violation.field, provider="fake")
            # The seconds are scaled here, once, so that every process sees the same course.
            fate = self.cloud_state.fate(self.capability, spec.native).faster(self._speed)
            id = f"{self.capability}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
            fate, work = self.prepare(id, spec, fate, call)
            row = JobRow(
                id=id,
                capability=self.capability,
                key=key,
                name=spec.name or id,
                spec=msgspec.json.encode(spec),
                fate=fate,
                created=0.0,
                work=msgspec.json.encode(work),
            )
            return self.store.add(row).id

    def find(self, key: str, call: Call) -> str | None:
        with self.cloud_state.serving(f"{self.capability}.find", key, call):
            found = self.store.by_key(self.capability, key)
            return found.id if found else None

    def status(self, id: str, call: Call) -> JobStatus:
        with self.cloud_state.serving(f"{self.capability}.status", id, call):
            with self.store.open() as db:
                now, row = self.store.now(db), self.store.job(db, self.capability, id)
            return self._status(row, now)

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        with self.cloud_state.serving(f"{self.capability}.logs", id, call):
            with self.store.open() as db:
                now, row = self.store.now(db), self.store.job(db, self.capability, id)
            try:
                seen = int(cursor or 0)
            except ValueError:
                raise InvalidRequest(
                    f"cursor={cursor!r} is none of the fake's", field="cursor", provider="fake"
                ) from None
            lines = self._lines(row, self._course(row), now)
            return LogPage(lines=tuple(lines[seen:]), cursor=str(max(seen, len(lines))))

    def cancel(self, id: str, call: Call) -> None:
        with (
            self.cloud_state.serving(f"{self.capability}.cancel", id, call),
            self.store.writing() as db,
        ):
            self.store.job(db, self.capability, id)
            db.execute(
                "UPDATE jobs SET cancelled = coalesce(cancelled, ?) WHERE id=?",
                (self.store.now(db), id),
            )

    def delete(self, id: str, call: Call) -> None:
        """Outputs at places that the spec names stay: they are the caller's."""
        with self.cloud_state.serving(f"{self.capability}.delete", id, call):
            with self.store.writing() as db:
                db.execute("DELETE FROM jobs WHERE capability=? AND id=?", (self.capability, id))
            if Path(id).name == id:
                shutil.rmtree(self.folder(id), ignore_errors=True)

    def list(self, call: Call) -> Sequence[JobStatus]:
        with self.cloud_state.serving(f"{self.capability}.list", None, call):
            with self.store.open() as db:
                now, rows = self.store.now(db), self.store.jobs(db, self.capability)
            return [self._status(row, now) for row in rows]

    def folder(self, id: str) -> Path:
        """What the job leaves in the fake's own home."""
        return self.store.folder / "jobs" / id

    # What a capability adds.

    @abstractmethod
    def violations(self, spec: SpecT) -> list[Violation]:
        """What of the spec the fake refuses."""

    @abstractmethod
    def dropped(self, spec: SpecT) -> list[str]:
        """What of the spec has no effect here."""

    @abstractmethod
    def prepare(self, id: str, spec: SpecT, fate: Any, call: Call) -> tuple[Any, dict[str, Any]]:
        """Does at submission what has to be done then; gives the fate, and what to remember."""

    @abstractmethod
    def publish(self, row: JobRow, spec: SpecT, way: Course) -> None:
        """Puts the outputs in place; called once, when the job has ended with some."""

    @abstractmethod
    def outputs(self, row: JobRow, spec: SpecT) -> dict[str, str]:
        """Where the outputs are, by name."""

    @abstractmethod
    def counted(self, row: JobRow, way: Course, now: float) -> dict[str, Any]:
        """Further fields of the status."""

    @abstractmethod
    def said(self, spec: SpecT) -> list[tuple[float, str]]:
        """Lines that the work logs, each with the part of it that is done by then."""

    # The common part.

    def _spec(self, row: JobRow) -> SpecT:
        return msgspec.json.decode(row.spec, type=met(self.spec_type))

    def _course(self, row: JobRow) -> Course:
        spec = self._spec(row)
        return course(row.fate, row.created, row.cancelled, spec.timeout, spec.retry)

    def _status(self, row: JobRow, now: float) -> JobStatus:
        way = self._course(row)
        phase = way.at(now)
        done = phase.state.done
        outputs: dict[str, str] = {}
        if phase.state in {State.SUCCEEDED, State.PARTIAL}:
            self._publish(row, way)
            outputs = self.outputs(row, self._spec(row))
        tail: tuple[str, ...] = ()
        if done and phase.state is not State.SUCCEEDED:
            tail = tuple(line.text for line in self._lines(row, way, now)[-TAIL:])
        started = way.started
        return JobStatus(
            id=row.id,
            state=phase.state,
            name=row.name,
            idempotency_key=row.key,
            reason=way.reason if done else None,
            native_state=phase.state.value.lower(),
            created_at=row.created,
            started_at=started if started is not None and started <= now else None,
            ended_at=phase.start if done else None,
            exit_code=way.exit_code if done else None,
            restarts=phase.restarts,
            outputs=outputs,
            log_tail=tail,
            cost=0.0,
            **self.counted(row, way, now),
        )

    def _publish(self, row: JobRow, way: Course) -> None:
        if row.published:
            return
        with self.store.writing() as db:
            try:
                fresh = self.store.job(db, self.capability, row.id)
            except NotFound:
                return  # deleted meanwhile
            if not fresh.published:
                self.publish(fresh, self._spec(fresh), way)
                db.execute("UPDATE jobs SET published=1 WHERE id=?", (row.id,))

    def _lines(self, row: JobRow, way: Course, now: float) -> list[LogLine]:
        lines = [
            (phase.start, phase.state.value.lower()) for phase in way.phases if phase.start <= now
        ]
        scripted = row.fate.logs
        said = [
            *self.said(self._spec(row)),
            *((index / len(scripted), text) for index, text in enumerate(scripted)),
        ]
        for part, text in said:
            moment = way.moment(part)
            if moment is not None and moment <= now:
                lines.append((moment, text))
        # What happens at one time stands in a fixed order: by state, then what the work says.
        lines.sort(key=lambda line: line[0])
        if way.end.start <= now and way.end.state is not State.SUCCEEDED:
            lines.append((way.end.start, f"{way.end.state}: {way.reason}"))
        return [LogLine(text, time) for time, text in lines]


def place(made: Path, target: Path) -> None:
    """Moves what was made to where it belongs: a new folder in one step, and into a folder
    that is there file by file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.replace(made, target)
        return
    for file in made.iterdir():
        os.replace(file, target / file.name)
    made.rmdir()


def points(way: Course, values: Sequence[float], now: float) -> tuple[MetricPoint, ...]:
    """The points of a metric that have come by now, spread evenly over the work."""
    found: list[MetricPoint] = []
    for step, value in enumerate(values):
        moment = way.moment((step + 1) / len(values))
        if moment is not None and moment <= now:
            found.append(MetricPoint(value, step, moment))
    return tuple(found)
