"""Batches that no service runs: a worker process (``worker.py``), which outlives the client.

A folder a batch, ``<home>/<provider>/batch/<id>``: ``spec.json``, ``state.json`` (replaced whole),
``log``, ``lock`` (held by the worker while it lives) and ``cancel`` (asks it to stop). The runner
keeps its progress beside the output: a batch that was killed goes on where it was when it is
submitted again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.travel import pack
from cloudai._core.state import detach, lock
from cloudai._core.state.disk import write_whole
from cloudai._core.state.home import ensure
from cloudai.errors import NotFound
from cloudai.protocols import Call
from cloudai.types import BatchTransform, JobStatus, LogLine, LogPage, State
from cloudai.types._base import met

_PREFIX: Final = "client-"
_YOUNG: Final = 20.0
"""Seconds that a new worker may take to hold its lock."""
_GRACE: Final = 10.0
"""Seconds that a worker has to stop by itself."""


class Progress(msgspec.Struct, kw_only=True):
    """What ``state.json`` holds."""

    state: State = State.QUEUED
    reason: str | None = None
    done: int = 0
    total: int | None = None
    errors: int = 0
    outputs: dict[str, str] = {}
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    pid: int | None = None


class ClientBatches:
    """The worker processes of one profile's home.

    Parameters
    ----------
    files: ``"module:attribute"`` of what brings an input and an output that lie elsewhere here,
        see ``worker.Files``; empty where they are paths of this machine.
    inputs: the most inputs in one request to an endpoint, where a failed one has its neighbours
        asked, and paid for, again; None: as many as the spec has.
    """

    def __init__(self, profile: Profile, *, files: str = "", inputs: int | None = None) -> None:
        self._profile = profile
        self._files = files
        self._inputs = inputs
        self._root = profile.home / profile.provider / "batch"

    def owns(self, id: str) -> bool:
        """Whether an id is one of these."""
        return id.startswith(_PREFIX)

    def _id(self, key: str) -> str:
        return f"{_PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def find(self, key: str) -> str | None:
        """The batch that was submitted with a key."""
        id = self._id(key)
        return id if (self._root / id / "state.json").exists() else None

    def submit(self, spec: BatchTransform) -> str:
        """Starts the worker; harmless while one is at it, and once it has succeeded. ``spec``
        has paths that mean the same in every process."""
        id = self._id(spec.idempotency_key or "")
        folder = ensure(self._root / id)
        if (folder / "state.json").exists() and (alive(folder) or read(folder).state.succeeded):
            return id
        write_whole(folder / "spec.json", msgspec.json.encode(spec))
        (folder / "cancel").unlink(missing_ok=True)
        write(folder, Progress(created=time.time()))
        about = {"profile": pack(self._profile), "files": self._files, "inputs": self._inputs}
        start(folder, msgspec.json.encode(about))
        return id

    def resume(self, id: str, spec: BatchTransform) -> None:
        """Starts a worker anew that died without a word; one that said how it ended is left."""
        if self.status(id).state is State.FAILED and not read(self._root / id).state.done:
            self.submit(spec)

    def _folder(self, id: str) -> Path:
        folder = self._root / id
        if not (folder / "state.json").exists():
            raise NotFound(
                f"there is no batch {id!r} in {self._root}", provider=self._profile.provider
            )
        return folder

    def status(self, id: str, call: Call | None = None) -> JobStatus:
        """A snapshot; a worker that died without a word has failed."""
        folder = self._folder(id)
        here = alive(folder)
        found = read(folder)
        spec = spec_of(folder)
        young = found.pid is None and time.time() - found.created < _YOUNG
        if not found.state.done and not here and not young:
            found = read(folder)  # it may have ended between the two looks
            if not found.state.done:
                found.state = State.FAILED
                found.reason = "the worker was lost; submit the batch again, and it goes on"
        return JobStatus(
            id=id,
            state=found.state,
            name=spec.name,
            idempotency_key=spec.idempotency_key,
            reason=found.reason,
            native_state="client-side",
            created_at=found.created,
            started_at=found.started,
            ended_at=found.ended,
            outputs=found.outputs,
            progress=(found.done, found.total),
            errors=found.errors,
        )

    def owner(self, id: str, call: Call | None = None) -> str | None:
        """The idempotency key that it carries. Raises NotFound."""
        return self.status(id).idempotency_key

    def logs(self, id: str, cursor: str | None, call: Call | None = None) -> LogPage:
        """The worker's log. The cursor counts lines."""
        text = (self._folder(id) / "log").read_text("utf-8", "replace").splitlines()
        first = int(cursor or 0)
        lines = tuple(LogLine(line) for line in text[first:])
        return LogPage(lines=lines, cursor=str(first + len(lines)))

    def cancel(self, id: str, call: Call | None = None) -> None:
        """Asks the worker to stop."""
        (self._folder(id) / "cancel").touch()

    def delete(self, id: str, call: Call | None = None) -> None:
        """Stops the worker and removes its folder; the output stays."""
        folder = self._root / id
        if not folder.exists():
            return
        (folder / "cancel").touch()
        end = time.monotonic() + _GRACE
        while alive(folder) and time.monotonic() < end:
            time.sleep(0.05)
        if alive(folder):
            pid = read(folder).pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)  # the lock says that it is our worker still
        own = staged(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if own not in {staged(path.parent) for path in self._root.glob("*/spec.json")}:
            shutil.rmtree(own, ignore_errors=True)

    def list(self) -> Sequence[JobStatus]:
        """Snapshots of all."""
        return [self.status(path.parent.name) for path in sorted(self._root.glob("*/state.json"))]


def detached(folder: Path, given: bytes) -> None:
    """Starts the worker of a batch as a process that outlives this one."""
    worker = [sys.executable, "-P", "-m", "cloudai._core.batches.worker", str(folder)]
    detach.start(worker, folder / "log", given=given)


start: Callable[[Path, bytes], None] = detached
"""How workers are started. The in-process mock of AWS puts threads in its place: its account is
not there for another process."""


def spec_of(folder: Path) -> BatchTransform:
    """What is to be done."""
    return msgspec.json.decode((folder / "spec.json").read_bytes(), type=met(BatchTransform))


def staged(folder: Path) -> Path:
    """Where files that come from elsewhere, and go there, are put: a batch that is submitted
    again finds what the one before it had done."""
    spec = spec_of(folder)
    what = msgspec.json.encode([spec.input, spec.output, spec.name])
    return folder.parent / "files" / hashlib.sha256(what).hexdigest()[:32]


def alive(folder: Path) -> bool:
    """Whether a worker holds the folder's lock."""
    return lock.held(folder / "lock")


def read(folder: Path) -> Progress:
    """How far the batch is."""
    return msgspec.json.decode((folder / "state.json").read_bytes(), type=met(Progress))


def write(folder: Path, progress: Progress) -> None:
    """Replaces ``state.json`` in one step."""
    write_whole(folder / "state.json", msgspec.json.encode(progress))
