"""Custom jobs: created, listed, cancelled, and taken through their states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

from cloudai.testing.emulators.vertex import _schema
from cloudai.testing.emulators.vertex._collection import DONE, Collection
from cloudai.testing.emulators.vertex._http import Answer, Refused, Request
from cloudai.testing.emulators.vertex._identity import Logging
from cloudai.testing.emulators.vertex._operations import Operations
from cloudai.testing.emulators.vertex._state import VertexState, stamp
from cloudai.testing.emulators.vertex._storage import Storage


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a job that nothing executes.

    Parameters
    ----------
    state: what it ends in; a state that is no end (``JOB_STATE_PAUSED``) holds it there.
    pending, running: seconds of the clock. code, message: of its error.
    logs: lines that it writes while it runs.
    """

    state: str = "JOB_STATE_SUCCEEDED"
    pending: float = 0.05
    running: float = 0.1
    code: int = 0
    message: str = ""
    logs: tuple[str, ...] = ()


TOLD: Final[dict[str, dict[str, Any]]] = {
    "SUCCEEDED": {"state": "JOB_STATE_SUCCEEDED"},
    "FAILED": {"state": "JOB_STATE_FAILED", "code": 13, "message": "emulated failure"},
    "TIMED_OUT": {"state": "JOB_STATE_FAILED", "code": 4, "message": "It took too long."},
    "EXPIRED": {"state": "JOB_STATE_EXPIRED"},
    "PREEMPTED": {"state": "JOB_STATE_FAILED", "message": "The replica was preempted."},
    "CAPACITY": {
        "state": "JOB_STATE_FAILED",
        "code": 8,
        "message": "Resources are insufficient in region: no capacity. Try another region or use "
        "a different accelerator.",
    },
    "PARTIAL": {"state": "JOB_STATE_PARTIALLY_SUCCEEDED"},
}
"""The common names of ends → what they are here."""


class Execution(Protocol):
    """A job that is really run."""

    def ended(self) -> tuple[int, str] | None:
        """Exit code and error message, once it has ended."""
        ...

    def kill(self) -> None: ...


class Executor(Protocol):
    """Runs jobs and serves models in earnest; without one, what happens is scripted."""

    def on_training_job(self, job: dict[str, Any]) -> Execution | None:
        """Begins to run a CustomJob; None leaves it to its fate."""
        ...

    def starting(self, model: dict[str, Any]) -> bool:
        """Whether a Model still loads; begins it. It does not wait: what loads may itself ask the
        emulator, for its files."""
        ...

    def on_deploy(self, model: dict[str, Any]) -> str | None:
        """Loads a Model and waits; gives why it cannot be, or None."""
        ...

    def on_delete(self, model: dict[str, Any]) -> None:
        """Ends what serves a Model, which is deleted."""
        ...

    def on_predict(
        self, model: dict[str, Any], instances: list[Any], parameters: Any
    ) -> list[Any] | None:
        """The model's predictions; None leaves them to the script. Raises Refused."""
        ...

    def on_raw(
        self, model: dict[str, Any], body: bytes, kind: str
    ) -> tuple[str, Iterator[bytes]] | None:
        """The model's answer to a body of a content type: its content type, and its pieces as
        they are made; None leaves it to the script. Raises Refused."""
        ...


class Jobs(Collection):
    """CustomJobs.

    Attributes
    ----------
    fate: of a job that no entry of ``fates`` fits. fates: pattern on the display name → fate.
    """

    kind = "CustomJob"

    def __init__(
        self, cloud_state: VertexState, operations: Operations, logging: Logging, storage: Storage
    ) -> None:
        super().__init__(cloud_state, operations)
        self._storage = storage
        self._logging = logging
        self.executor: Executor | None = None
        self.fate = Fate()
        self.fates: dict[str, Fate] = {}
        self._courses: dict[str, _Course] = {}

    def _create(self, request: Request, project: str, location: str) -> dict[str, Any]:
        parent = self._cloud_state.parent(project, location)
        version = request.path.split("/")[1]
        body = _schema.checked(
            version, "CustomJob", request.json, ignored=self._cloud_state.ignored
        )
        _check_job(body)
        name = f"{parent}/customJobs/{self._cloud_state.number()}"
        now = self._cloud_state.clock.now()
        job = {**body, "name": name, "createTime": stamp(now), "updateTime": stamp(now)}
        self.all[name] = job
        fate = next(
            (
                fate
                for pattern, fate in self.fates.items()
                if re.search(pattern, job["displayName"])
            ),
            self.fate,
        )
        told = self._cloud_state.told.take("training", "Vertex AI")
        if told is not None:  # it is not run
            fate = msgspec.structs.replace(self.fate, **TOLD[told])
        self._courses[name] = _Course(now, fate, scripted=told is not None)
        self._advance(name)
        return job

    def _advance(self, name: str) -> dict[str, Any]:
        job, course = self.all[name], self._courses[name]
        now = self._cloud_state.clock.now()
        if job.get("state") in DONE:
            return job
        state = self._state(job, course, now)
        if state != job.get("state"):
            job["state"] = state
            job["updateTime"] = stamp(now)
            if state in DONE:
                job["endTime"] = stamp(max(now, course.began or now))
        return job

    def _state(self, job: dict[str, Any], course: _Course, now: float) -> str:
        if course.cancelled is not None:
            if course.execution is not None:
                course.execution.kill()
            job["error"] = {"code": 1, "message": "Job is cancelled by the user."}
            return "JOB_STATE_CANCELLED"
        if now < course.created + course.fate.pending:
            return "JOB_STATE_PENDING"
        if course.began is None:
            course.began = now
            job["startTime"] = stamp(now)
            if self.executor is not None and not course.scripted:
                course.execution = self.executor.on_training_job(job)
            if course.execution is None:
                labels = {"job_id": job["name"].rpartition("/")[2], "task_name": "workerpool0-0"}
                for line in course.fate.logs:
                    self._logging.write("ml_job", labels, line)
        limit = _seconds(job["jobSpec"].get("scheduling", {}).get("timeout"))
        if limit is not None and now >= course.began + limit:
            if course.execution is not None:
                course.execution.kill()
            job["error"] = {"code": 4, "message": f"The job exceeded its timeout of {limit:g}s."}
            return "JOB_STATE_FAILED"
        if course.execution is not None:
            ended = course.execution.ended()
            if ended is None:
                return "JOB_STATE_RUNNING"
            if ended[0] == 0:
                return "JOB_STATE_SUCCEEDED"
            job["error"] = {"code": 13, "message": ended[1]}
            return "JOB_STATE_FAILED"
        if now < course.began + course.fate.running:
            return "JOB_STATE_RUNNING"
        if course.fate.state == "JOB_STATE_SUCCEEDED":
            base = job["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix")
            if base:  # where the job would have put its model
                self._storage.put(f"{base.rstrip('/')}/model/model.json", "{}")
        if course.fate.message or course.fate.code:
            job["error"] = {"code": course.fate.code or 13, "message": course.fate.message}
        return course.fate.state

    def _cancel(self, request: Request, project: str, location: str, id: str) -> Answer:
        job = self._need(project, location, id)
        if job["state"] in DONE:
            raise Refused(
                400, "FAILED_PRECONDITION", f"The CustomJob is in state {job['state']}, not active."
            )
        self._courses[job["name"]].cancelled = self._cloud_state.clock.now()
        job["state"] = "JOB_STATE_CANCELLING"
        return Answer(json={})

    def stop(self) -> None:
        """Ends what is still run."""
        for course in self._courses.values():
            if course.execution is not None:
                course.execution.kill()


class _Course:
    def __init__(self, created: float, fate: Fate, scripted: bool) -> None:
        self.scripted = scripted
        self.created = created
        self.fate = fate
        self.began: float | None = None
        self.cancelled: float | None = None
        self.execution: Execution | None = None


def _seconds(text: str | None) -> float | None:
    return float(text.removesuffix("s")) if text else None


def _check_job(body: dict[str, Any]) -> None:
    """Rules that the messages do not carry."""
    pools = body["jobSpec"]["workerPoolSpecs"]
    check_labels(body.get("labels", {}))
    for index, pool in enumerate(pools):
        where = f"job_spec.worker_pool_specs[{index}]"
        if ("containerSpec" in pool) == ("pythonPackageSpec" in pool):
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"{where}: exactly one of container_spec and python_package_spec must be set.",
            )
        machine = pool.get("machineSpec", {})
        if not machine.get("machineType"):
            raise Refused(400, "INVALID_ARGUMENT", f"{where}.machine_spec.machine_type is required")
        if ("acceleratorType" in machine) != ("acceleratorCount" in machine):
            raise Refused(
                400, "INVALID_ARGUMENT", f"{where}: accelerator type and count go together."
            )
        if int(pool.get("replicaCount", 0)) < 1:
            raise Refused(400, "INVALID_ARGUMENT", f"{where}.replica_count must be at least 1.")
        if index == 0 and int(pool["replicaCount"]) != 1:
            raise Refused(
                400, "INVALID_ARGUMENT", f"{where}: the primary pool must have one replica."
            )
        disk = pool.get("diskSpec", {}).get("bootDiskSizeGb")
        if disk is not None and not 100 <= disk <= 64000:
            raise Refused(
                400, "INVALID_ARGUMENT", f"{where}.disk_spec.boot_disk_size_gb must be at least 100"
            )
    scheduling = body["jobSpec"].get("scheduling", {})
    if scheduling.get("maxWaitDuration") and scheduling.get("strategy") != "FLEX_START":
        raise Refused(400, "INVALID_ARGUMENT", "max_wait_duration is for FLEX_START alone.")


def check_labels(labels: dict[str, str]) -> None:
    """Google's rules for labels."""
    if len(labels) > 64:
        raise Refused(400, "INVALID_ARGUMENT", "At most 64 labels.")
    for key, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(
            r"[a-z0-9_-]{0,63}", value
        ):
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid label: {key}: {value}")
