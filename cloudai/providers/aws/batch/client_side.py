"""Batches that neither SageMaker nor Bedrock runs: a worker process, which outlives the client.

A folder a batch, ``<home>/aws/batch/<id>``: ``spec.json``, ``profile.json``, ``state.json``
(replaced whole), ``log``, ``lock`` (held by the worker while it lives) and ``cancel`` (asks it to
stop). The runner keeps its progress beside the output: a batch that was killed goes on where it
was when it is submitted again.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.registry import NETWORK_KEYS
from cloudai._core.state import detach, lock
from cloudai._core.state.disk import write_whole
from cloudai._core.state.home import ensure
from cloudai.errors import NotFound
from cloudai.providers.aws import s3
from cloudai.types import BatchTransform, JobStatus, LogLine, LogPage, State

PREFIX: Final = "client-"
_YOUNG: Final = 20.0
"""Seconds that a new worker may take to hold its lock."""
_GRACE: Final = 10.0


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
    """The worker processes of one home."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._root = profile.home / "aws" / "batch"

    def _id(self, key: str) -> str:
        return f"{PREFIX}{s3.digest(key)}"

    def find(self, key: str) -> str | None:
        id = self._id(key)
        return id if (self._root / id / "state.json").exists() else None

    def submit(self, spec: BatchTransform) -> str:
        """Starts the worker; harmless while one is at it."""
        again = self._unfinished(spec)
        id = again or self._id(spec.idempotency_key or "")
        folder = ensure(self._root / id)
        if (folder / "state.json").exists() and (alive(folder) or read(folder).state.succeeded):
            return id
        (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
        settings = {
            key.name: self._profile.get(key.name)
            for key in (*self._profile.spec.keys, *NETWORK_KEYS)
            if self._profile.get(key.name) is not None
        }
        about = [self._profile.name, settings, self._profile.retries, self._profile.timeout]
        (folder / "profile.json").write_bytes(msgspec.json.encode(about))
        (folder / "cancel").unlink(missing_ok=True)
        write(folder, Progress(created=time.time()))
        start(folder)
        return id

    def _unfinished(self, spec: BatchTransform) -> str | None:
        """A batch of the same input and output that ended early: it is gone on with."""
        for folder in sorted(self._root.glob("*")) if self._root.is_dir() else ():
            try:
                before = _spec(folder)
                state = read(folder).state
            except (FileNotFoundError, msgspec.DecodeError):
                continue
            same = (before.input, before.output, before.name) == (
                spec.input,
                spec.output,
                spec.name,
            )
            if same and state.done and not state.succeeded and state is not State.PARTIAL:
                return folder.name
        return None

    def resume(self, id: str, spec: BatchTransform) -> None:
        """Starts a worker anew that died without a word; one that said how it ended is left."""
        if self.status(id).state is State.FAILED and not read(self._root / id).state.done:
            self.submit(spec)

    def _folder(self, id: str) -> Path:
        folder = self._root / id
        if not (folder / "state.json").exists():
            raise NotFound(f"there is no batch {id!r} in {self._root}", provider="aws")
        return folder

    def status(self, id: str) -> JobStatus:
        """A snapshot; a worker that died without a word has failed."""
        folder = self._folder(id)
        here = alive(folder)
        found = read(folder)
        spec = _spec(folder)
        young = found.pid is None and time.time() - found.created < _YOUNG
        if not found.state.done and not here and not young:
            found = read(folder)  # it may have ended between the two looks
            if not found.state.done:
                found.state = State.FAILED
                found.reason = "its worker was lost; submit the batch again, and it goes on"
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

    def logs(self, id: str, cursor: str | None) -> LogPage:
        text = (self._folder(id) / "log").read_text("utf-8", "replace").splitlines()
        start = int(cursor or 0)
        lines = tuple(LogLine(line) for line in text[start:])
        return LogPage(lines=lines, cursor=str(start + len(lines)))

    def cancel(self, id: str) -> None:
        (self._folder(id) / "cancel").touch()

    def delete(self, id: str) -> None:
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
        shutil.rmtree(folder, ignore_errors=True)

    def list(self) -> Sequence[JobStatus]:
        if not self._root.is_dir():
            return []
        found = sorted(path.parent.name for path in self._root.glob("*/state.json"))
        return [self.status(id) for id in found]


def detached(folder: Path) -> None:
    """Starts the worker of a batch as a process that outlives this one."""
    worker = [sys.executable, "-P", "-m", "cloudai.providers.aws.batch.worker", str(folder)]
    detach.start(worker, folder / "log")


start: Callable[[Path], None] = detached
"""How workers are started. The in-process mock puts threads in its place: its account is not
there for another process."""


def _spec(folder: Path) -> BatchTransform:
    return msgspec.json.decode((folder / "spec.json").read_bytes(), type=BatchTransform)


def alive(folder: Path) -> bool:
    """Whether a worker holds the folder's lock."""
    return lock.held(folder / "lock")


def read(folder: Path) -> Progress:
    return msgspec.json.decode((folder / "state.json").read_bytes(), type=Progress)


def write(folder: Path, progress: Progress) -> None:
    """Replaces ``state.json`` in one step."""
    write_whole(folder / "state.json", msgspec.json.encode(progress))


def settings_of(folder: Path) -> tuple[str, dict[str, Any], int, float]:
    """The client's profile: its name, keys, retries and timeout. The aws keys hold no secret."""
    name, keys, retries, timeout = msgspec.json.decode((folder / "profile.json").read_bytes())
    return name, keys, retries, timeout
