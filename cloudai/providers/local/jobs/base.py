"""What local training jobs and batch transforms share: rows, folders, supervisors.

Longer than other modules: training and batch share all of it by one class.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sqlite3
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from cloudai._core.numerals import numeral
from cloudai._core.profiles.config import Profile
from cloudai._core.state import detach, lock, processes
from cloudai._core.state.disk import MEND, disk_errors, write_whole
from cloudai._core.state.home import ensure
from cloudai.errors import CloudAIError, NotFound
from cloudai.protocols import Call
from cloudai.providers.local.jobs import logs as _logs
from cloudai.providers.local.jobs.checks import PROVIDER
from cloudai.providers.local.jobs.store import ENDED, Store
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
    Upload,
    Violation,
)
from cloudai.types._base import invalid

SpecT = TypeVar("SpecT", TrainingJob, BatchTransform)

SPAWN_SECONDS: Final = 10.0
"""A supervisor that has not taken its lock after this long is started again."""
SPAWNS: Final = 3
GRACE: Final = 10.0
"""Seconds from SIGTERM to SIGKILL."""
DELETE_GRACE: Final = 1.0
STOP_SECONDS: Final = 10.0
LOST: Final = "the supervisor died (killed, or the machine was restarted); its processes were ended"

ROOT: Final = str(Path(__file__).parents[4])


def module_command(module: str) -> list[str]:
    """Python's arguments that run a module's ``main``. -P leaves the folder it is started in off
    the path; cloudai itself may come from a checkout."""
    return ["-P", "-c", f"import sys; sys.path.append({ROOT!r}); from {module} import main; main()"]


_SUPERVISOR: Final = "cloudai.providers.local.jobs.supervisor"


class LocalJobs(ABC, Generic[SpecT]):
    """Jobs of one kind on this machine. Subclasses say what is checked, made and run.

    Job ids are the specs' names. Each job has a row in ``<home>/local.db`` and a folder
    ``<home>/jobs/<id>``. A job is started by whoever finds it QUEUED without a supervisor, so a
    client that is killed in the middle of ``submit`` leaves nothing that would wait for ever.
    """

    kind: str

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.home = profile.home
        self.device: str | None = profile.get("device")
        self._store = Store(self.home)

    # -- what the subclasses say ---------------------------------------------------------

    @abstractmethod
    def _problems(self, spec: SpecT) -> list[CloudAIError]:
        """All that keeps the spec from running here, without starting anything."""

    def _resolved(self, spec: SpecT) -> SpecT:
        """The spec as it is recorded."""
        return spec

    @abstractmethod
    def _dropped(self, spec: SpecT) -> list[str]:
        """What it asks for and cannot have here."""

    @abstractmethod
    def _sheet(self, spec: SpecT, folder: Path) -> dict[str, Any]:
        """What the supervisor is told: JSON."""

    @abstractmethod
    def _command(self, sheet: dict[str, Any]) -> list[str]:
        """The command that the supervisor starts, for the plan."""

    @abstractmethod
    def _fill(self, spec: SpecT, folder: Path, final: Path) -> None:
        """Puts into the job's new folder what it needs; it becomes ``final``."""

    @abstractmethod
    def _outputs(self, row: sqlite3.Row) -> dict[str, str]:
        """What the job has made so far, by name."""

    def _travels(self, spec: SpecT) -> tuple[Upload, ...]:
        """What is copied for the job."""
        return ()

    def _again(self, spec: SpecT, row: sqlite3.Row) -> bool:
        """Whether a job that has ended is run anew by this submission."""
        return False

    def _removed(self, row: sqlite3.Row) -> None:
        """Removes what the job left outside its folder."""
        return

    # -- the protocol --------------------------------------------------------------------

    def plan(self, spec: SpecT) -> Plan:
        problems = self._problems(spec)
        sheet = self._sheet(spec, self._store.folder(spec.name or "NAME"))
        body = {
            "argv": self._command(sheet),
            "cwd": sheet["cwd"],
            "env": sorted({*sheet["env"], *sheet["secrets"]}),
            "folder": str(self._store.folder(spec.name or "NAME")),
            "requirements": sheet["requirements"],
            "timeout": sheet["timeout"],
            "retry": sheet["retry"],
        }
        return Plan(
            provider=PROVIDER,
            capability=self.kind,
            requests=(NativeRequest(operation="local:process", body=body),),
            violations=tuple(
                Violation(
                    getattr(problem, "field", None) or "", problem.message, problem.hint or ""
                )
                for problem in problems
            ),
            dropped=tuple(self._dropped(spec)),
            uploads=() if problems else self._travels(spec),
            cost=CostRange(low=0.0, high=0.0, basis="this machine", as_of="2026-11-22"),
        )

    def submit(self, spec: SpecT, call: Call) -> str:
        id, key = spec.name, call.key or spec.idempotency_key
        if not id or not key:
            raise invalid("name", id, "or the idempotency key is not set", "Use cloudai.Client.")
        known = self._store.find(self.kind, key)
        if known is None:
            with suppress(NotFound):  # one of this name that was lost is ended before we ask
                self._settled(self._store.row(id, self.kind))
        else:
            row = self._settled(self._store.row(known))
            if row["state"] not in ENDED or not self._again(spec, row):
                return known
        problems = self._problems(spec)
        if problems:
            raise problems[0]
        made = self._record(self._resolved(spec), id, key)
        if made == id:
            self._start(id)
        return made

    def resume(self, id: str | None, spec: SpecT, call: Call) -> None:
        """Goes on with what was lost, where it is of the kind that is run anew."""
        if id is not None:
            row = self._settled(self._store.row(id))
            if row["state"] in ENDED and row["native_state"] == "lost" and self._again(spec, row):
                self.submit(spec, call)

    def find(self, key: str, call: Call) -> str | None:
        return self._store.find(self.kind, key)

    def status(self, id: str, call: Call) -> JobStatus:
        return self._status(self._settled(self._store.row(id, self.kind)))

    def list(self, call: Call) -> Sequence[JobStatus]:
        return [self._status(self._settled(row)) for row in self._store.rows(self.kind)]

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        row = self._settled(self._store.row(id, self.kind))
        try:
            lines, after = _logs.read(self._store.folder(id), cursor, row["state"] in ENDED)
        except (ValueError, TypeError):
            raise invalid(
                "cursor", cursor, "is no cursor of this log", "Use a LogPage's cursor."
            ) from None
        return LogPage(lines=tuple(LogLine(*line) for line in lines), cursor=after)

    def cancel(self, id: str, call: Call) -> None:
        self._stop(id, GRACE)

    def delete(self, id: str, call: Call) -> None:
        try:
            row = self._store.row(id, self.kind)
        except NotFound:
            return
        self._stop(id, DELETE_GRACE)
        deadline = time.monotonic() + min(call.remaining(), GRACE + STOP_SECONDS)
        while self._settled(self._store.row(id, self.kind))["state"] not in ENDED or self._alive(
            id
        ):
            if time.monotonic() > deadline:
                raise CloudAIError(
                    f"the job {id!r} does not stop",
                    provider=PROVIDER,
                    hint="Look for its processes; then delete it again.",
                )
            time.sleep(0.02)
        self._removed(row)
        gone = self._aside(self._store.folder(id))
        self._store.remove(id)
        if gone is not None:
            shutil.rmtree(gone, ignore_errors=True)

    # -- submitting ----------------------------------------------------------------------

    def _record(self, spec: SpecT, id: str, key: str) -> str:
        """Makes the folder and the row, both or neither. Gives the id of the job that has the
        key: another one's, where that was quicker."""
        jobs = ensure(ensure(self.home) / "jobs")
        self._sweep(jobs)
        folder = self._store.folder(id)
        # The process id tells a sweep whether whoever made it still lives.
        fresh = jobs / f".new-{os.getpid()}-{secrets.token_hex(4)}"
        old: Path | None = None
        placed = False

        def place() -> None:
            nonlocal old, placed
            old = self._aside(folder)
            os.rename(fresh, folder)
            placed = True

        try:
            with disk_errors(self.home, MEND):
                fresh.mkdir(mode=0o700)
                (fresh / _logs.MAIN).touch(mode=0o600)
                self._fill(spec, fresh, folder)
            return self._store.insert(
                id=id,
                kind=self.kind,
                key=key,
                spec=msgspec.json.encode(spec).decode(),
                sheet=self._sheet(spec, folder),
                place=place,
                again=lambda row: self._again(spec, row),
            )
        except BaseException:
            if placed:  # the transaction failed after the move
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)

    @staticmethod
    def _aside(folder: Path) -> Path | None:
        """Moves a folder out of the way, so that it is gone at once however large it is."""
        gone = folder.with_name(f".gone-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            os.rename(folder, gone)
        except FileNotFoundError:
            return None
        return gone

    @staticmethod
    def _sweep(jobs: Path) -> None:
        """Removes what clients that were killed left half-made or half-removed."""
        for path in jobs.glob(".*-*-*"):
            owner = path.name.split("-")[1]
            if path.name.startswith((".new-", ".gone-")) and owner.isdigit():
                try:
                    os.kill(int(owner), 0)
                except ProcessLookupError:
                    shutil.rmtree(path, ignore_errors=True)
                except PermissionError:
                    continue

    def _start(self, id: str) -> None:
        """Starts the job's supervisor, apart from this process."""
        command = [sys.executable, *module_command(_SUPERVISOR), str(self.home), id]
        detach.start(command, self._store.folder(id) / "supervisor.log", cwd="/")
        row = self._store.row(id)
        self._store.change(
            id, only_from=["QUEUED"], spawned_at=time.time(), spawns=row["spawns"] + 1
        )

    # -- where a job stands --------------------------------------------------------------

    def _alive(self, id: str) -> bool:
        """Whether the job's supervisor lives."""
        return lock.held(self._store.folder(id) / "lock")

    def _settled(self, row: sqlite3.Row) -> sqlite3.Row:
        """The row, made true: a job whose supervisor is gone is started or ended."""
        if row["state"] in ENDED or self._alive(row["id"]):
            return row
        id = row["id"]
        if row["state"] == "QUEUED":
            if row["spawned_at"] and time.time() - row["spawned_at"] < SPAWN_SECONDS:
                return row
            if row["spawns"] >= SPAWNS:
                self._store.change(
                    id,
                    only_from=["QUEUED"],
                    state="FAILED",
                    ended_at=time.time(),
                    reason="its supervisor does not start; see supervisor.log in "
                    f"{self._store.folder(id)}",
                )
            else:
                self._start(id)
        else:
            self._bury(id)
        return self._store.row(id)

    def _bury(self, id: str) -> None:
        """Ends a job whose supervisor died: its processes first, then its state."""
        with lock.taken(self._store.folder(id) / "lock") as own:
            row = self._store.row(id)
            if not own or row["state"] in ENDED:
                return
            deadline = time.monotonic() + STOP_SECONDS
            while (left := processes.marked(row["token"])) and time.monotonic() < deadline:
                processes.send(left, signal.SIGKILL)
                time.sleep(0.02)
            folder = self._store.folder(id)
            scanner = _logs.MetricScanner(folder, json.loads(row["sheet"])["metrics"])
            points = scanner.scan(ended=True)
            if points:
                self._store.add_metrics(id, points)
            cancelled = (folder / "cancel").exists()
            self._store.change(
                id,
                only_from=["STARTING", "RUNNING", "STOPPING"],
                state="CANCELLED" if cancelled else "FAILED",
                native_state="lost",
                reason="cancelled" if cancelled else LOST,
                ended_at=time.time(),
                log_tail=json.dumps(_logs.tail(folder)),
            )

    def _stop(self, id: str, grace: float) -> None:
        """Asks the supervisor to end the job; a job that nobody supervises ends here."""
        row = self._settled(self._store.row(id, self.kind))
        if row["state"] in ENDED:
            return
        with lock.taken(self._store.folder(id) / "lock") as own:
            if own and self._store.change(
                id,
                only_from=["QUEUED"],
                state="CANCELLED",
                reason="cancelled before it started",
                ended_at=time.time(),
            ):
                return
        with disk_errors(self.home, MEND), suppress(FileNotFoundError):
            folder = self._store.folder(id)
            write_whole(folder / "cancel", numeral(grace).encode())
        self._store.change(id, only_from=["STARTING", "RUNNING"], state="STOPPING")

    def _status(self, row: sqlite3.Row) -> JobStatus:
        asked = json.loads(row["sheet"])["metrics"]
        metrics = self._store.metrics(row["id"]) if asked else {}
        return JobStatus(
            id=row["id"],
            state=State(row["state"]),
            name=row["id"],
            idempotency_key=row["key"],
            reason=row["reason"],
            native_state=row["native_state"],
            created_at=row["created_at"],
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            exit_code=row["exit_code"],
            restarts=row["restarts"],
            outputs=self._outputs(row),
            metrics={
                name: tuple(MetricPoint(*point) for point in points)
                for name, points in metrics.items()
            },
            progress=None if row["done"] is None else (row["done"], row["total"]),
            errors=row["errors"],
            log_tail=tuple(json.loads(row["log_tail"])),
            cost=0.0,
        )
