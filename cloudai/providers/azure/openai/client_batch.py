"""Batches that the service does not run: a worker process of ours, which outlives the client.

A folder a batch, ``<home>/azure/batch/<id>``: ``spec.json``, ``state.json`` (replaced whole),
``log``, ``lock`` (held by the worker while it lives) and ``cancel`` (asks it to stop). The
worker keeps its progress beside the output: a batch that was killed goes on where it was when
it is submitted again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.registry import NETWORK_KEYS
from cloudai._core.profiles.secrets import Secret
from cloudai._core.state import detach, lock
from cloudai._core.state.disk import write_whole
from cloudai._core.state.home import ensure
from cloudai.errors import NotFound
from cloudai.protocols import Call
from cloudai.providers.azure.assemble import absolute
from cloudai.types import BatchTransform, JobStatus, LogLine, LogPage, SecretRef, State

_PREFIX: Final = "client-"
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

    @property
    def _root(self) -> Path:
        return self._profile.home / "azure" / "batch"

    def owns(self, id: str) -> bool:
        return id.startswith(_PREFIX)

    def _id(self, key: str) -> str:
        return f"{_PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def find(self, key: str) -> str | None:
        id = self._id(key)
        return id if (self._root / id / "state.json").exists() else None

    def submit(self, spec: BatchTransform) -> str:
        """Starts the worker; harmless while one is at it."""
        id = self._id(spec.idempotency_key or "")
        folder = ensure(self._root / id)
        if (folder / "state.json").exists() and alive(folder):
            return id
        (folder / "spec.json").write_bytes(msgspec.json.encode(absolute(spec)))
        (folder / "cancel").unlink(missing_ok=True)
        write(folder, Progress(created=time.time()))
        plain, secret = split(self._profile)
        worker = [
            sys.executable,
            "-P",
            "-m",
            "cloudai.providers.azure.openai.batch_worker",
            str(folder),
        ]
        detach.start(worker, folder / "log", given=msgspec.json.encode([plain, secret]))
        return id

    def resume(self, id: str, spec: BatchTransform) -> None:
        """Starts a worker anew that died without a word; one that said how it ended is left."""
        if self.status(id).state is State.FAILED and not read(self._root / id).state.done:
            self.submit(spec)

    def _folder(self, id: str) -> Path:
        folder = self._root / id
        if not (folder / "state.json").exists():
            raise NotFound(f"there is no batch {id!r} in {self._root}", provider="azure")
        return folder

    def status(self, id: str, call: Call | None = None) -> JobStatus:
        """A snapshot; a worker that died without a word has failed."""
        folder = self._folder(id)
        here = alive(folder)
        found = read(folder)
        spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=BatchTransform)
        young = time.time() - found.created < _GRACE and found.pid is None
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

    def owner(self, id: str, call: Call) -> str | None:
        return self.status(id).idempotency_key

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The worker's log. The cursor counts lines."""
        text = (self._folder(id) / "log").read_text("utf-8", "replace")
        lines = [LogLine(text=line) for line in text.splitlines()]
        start = int(cursor or 0)
        return LogPage(lines=tuple(lines[start:]), cursor=str(max(start, len(lines))))

    def cancel(self, id: str, call: Call) -> None:
        (self._folder(id) / "cancel").touch()

    def delete(self, id: str, call: Call) -> None:
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
        found = sorted(p.parent.name for p in self._root.glob("*/state.json"))
        return [self.status(id) for id in found]


def alive(folder: Path) -> bool:
    """Whether a worker holds the folder's lock."""
    return lock.held(folder / "lock")


def read(folder: Path) -> Progress:
    return msgspec.json.decode((folder / "state.json").read_bytes(), type=Progress)


def write(folder: Path, progress: Progress) -> None:
    """Replaces ``state.json`` in one step."""
    write_whole(folder / "state.json", msgspec.json.encode(progress))


def split(profile: Profile) -> tuple[dict[str, Any], dict[str, str]]:
    """What the worker needs to have the profile again: plain values, and secret ones."""
    plain: dict[str, Any] = {"home": str(profile.home), "name": profile.name}
    for key in (*profile.spec.keys, *NETWORK_KEYS):
        if key.kind != "secret" and profile.get(key.name) is not None:
            plain[key.name] = profile.get(key.name)
    secret: dict[str, str] = {}
    reference: Any = profile.get("api_key")
    if isinstance(reference, SecretRef):
        plain["api_key"] = msgspec.to_builtins(reference)
    elif isinstance(reference, Secret):
        secret["api_key"] = str(reference.reveal())  # over a pipe to the worker alone
    return plain, secret
