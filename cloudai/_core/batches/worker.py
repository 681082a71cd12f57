"""The worker of a batch on the client's side: ``python -m cloudai._core.batches.worker FOLDER``,
with the profile on its standard input."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.batches.client_side import Progress, read, spec_of, staged, write
from cloudai._core.batches.runner import BatchResult, Transform, run_batch
from cloudai._core.calls.call import Caller
from cloudai._core.calls.retry import RetryPolicy
from cloudai._core.calls.texts import Texts
from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.travel import unpack
from cloudai._core.state import lock
from cloudai.errors import CloudAIError, JobCancelled
from cloudai.protocols import Call
from cloudai.types import JSON, BatchTransform, State

Files: TypeAlias = Callable[[Profile, BatchTransform, Path], AbstractContextManager[BatchTransform]]
"""Brings what lies elsewhere: gives the spec with paths of this machine, and carries the output
away once it is there. Gets a folder for its own files."""

_EMBED: Final = 96
"""Records in one call of an embedding model."""
_PAUSE: Final = 0.1
"""Seconds between two reports of progress."""


class _Stop:
    """Whether the batch is to stop: it was cancelled, or its time is over."""

    def __init__(self, folder: Path, timeout: float | None) -> None:
        self._file = folder / "cancel"
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def late(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def is_set(self) -> bool:
        return self.late or self._file.exists()


class _Patient:
    """An adapter with the core's retries around each of its methods."""

    def __init__(self, profile: Profile, capability: str) -> None:
        self._caller = Caller(profile.provider, profile.timeout, RetryPolicy(profile.retries))
        self._adapter = registry.adapter_factory(profile.spec, capability)(profile)

    def create(self, request: Any, call: Call) -> Any:
        return self._run("chat", request.model, lambda call: self._adapter.create(request, call))

    def embed(self, request: Any, call: Call) -> Any:
        def ask(part: Any) -> Any:
            embed = self._adapter.embed
            return self._run("embeddings", part.model, lambda call: embed(part, call))

        return Texts(request).run(self._adapter, ask)

    def predict(self, id: str, request: Any, call: Call) -> Any:
        predict = self._adapter.predict
        return self._run("endpoints.predict", id, lambda call: predict(id, request, call))

    def _run(self, operation: str, model: str, attempt: Callable[[Call], Any]) -> Any:
        return self._caller.run(operation, attempt, self._caller.call(), model)


def _transform(spec: BatchTransform, profile: Profile) -> tuple[Transform, JSON]:
    if spec.model is not None:
        # Its input has no lines: there is nothing to start a machine for.
        return lambda records: list(records), ["model", spec.model_uri]
    return transforms.of(spec, lambda capability: _Patient(profile, capability))


def _size(spec: BatchTransform, inputs: int | None) -> int:
    """Records in one call."""
    if spec.chat is not None:
        return 1  # a line that fails would have its neighbours asked, and paid for, again
    most = _EMBED if spec.embeddings is not None else inputs
    return min(spec.batch_size, most or spec.batch_size)


def run(folder: Path, given: bytes, pid: int | None) -> None:
    """Runs the batch, or goes on with it, and records its end. ``pid``: of the worker; None for
    a thread, which nobody may kill."""
    spec = spec_of(folder)
    state = read(folder)
    state.state, state.started, state.pid = State.RUNNING, time.time(), pid
    write(folder, state)
    stop = _Stop(folder, spec.timeout)
    try:
        _run(folder, spec, msgspec.json.decode(given), state, stop)
    except JobCancelled as error:
        state.state = State.TIMED_OUT if stop.late else State.CANCELLED
        state.reason = f"it ran longer than {spec.timeout} s" if stop.late else error.message
    except Exception as error:
        state.state, state.reason = State.FAILED, f"{type(error).__name__}: {error}"
        if not isinstance(error, CloudAIError):
            raise  # its traceback is for the log
    finally:
        state.ended = time.time()
        write(folder, state)
        with (folder / "log").open("a") as log:
            log.write(f"{state.state}: {state.done} lines, {state.errors} failed\n")


def _run(
    folder: Path, spec: BatchTransform, about: dict[str, Any], state: Progress, stop: _Stop
) -> None:
    profile = unpack(about["profile"])
    files: Files | None = registry.load(about["files"]) if about["files"] else None
    reported = 0.0

    def progress(done: int, total: int | None, errors: int) -> None:
        nonlocal reported
        state.done, state.total, state.errors = done, total, errors
        if time.monotonic() - reported > _PAUSE:
            reported = time.monotonic()
            write(folder, state)

    transform, identity = _transform(spec, profile)
    with files(profile, spec, staged(folder)) if files is not None else nullcontext(spec) as here:
        work = msgspec.structs.replace(here, batch_size=_size(spec, about["inputs"]))
        result = run_batch(work, transform, identity=identity, progress=progress, cancelled=stop)
    _ended(spec, result, state)


def _ended(spec: BatchTransform, result: BatchResult, state: Progress) -> None:
    state.state = result.state
    state.done, state.total, state.errors = result.lines, result.lines, result.errors
    state.outputs = {"output": spec.output}
    if result.errors_file is not None:
        state.outputs["errors"] = spec.errors_uri
    if result.errors:
        state.reason = f"{result.errors} of {result.lines} lines failed"


def work(folder: Path, given: bytes, pid: int | None) -> None:
    """Runs the batch with its lock held; leaves it to whoever holds it."""
    # Whoever looks whether a worker is there holds the lock for an instant.
    with lock.taken(folder / "lock", seconds=1.0) as mine:
        if mine:
            run(folder, given, pid)


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.stdin.buffer.read(), os.getpid())
