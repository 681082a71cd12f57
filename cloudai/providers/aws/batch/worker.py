"""The worker of a client-side batch: ``python -m cloudai.providers.aws.batch.worker FOLDER``."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.batches.runner import Transform, run_batch
from cloudai._core.calls.call import Caller
from cloudai._core.calls.retry import RetryPolicy
from cloudai._core.calls.texts import Texts
from cloudai._core.profiles.config import Profile
from cloudai.errors import CloudAIError, JobCancelled
from cloudai.protocols import Call
from cloudai.providers.aws import SPEC, s3
from cloudai.providers.aws.batch.client_side import Progress, read, settings_of, write
from cloudai.types import BatchTransform, State

_EMBED: Final = 96
"""Records in one call of an embedding model."""


class _Asked:
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
    """An adapter with the core's retries around one of its methods."""

    def __init__(self, caller: Caller, adapter: Any, model: str) -> None:
        self._caller = caller
        self._adapter = adapter
        self._model = model

    def create(self, request: Any, call: Call) -> Any:
        return self._run("chat", partial(self._adapter.create, request))

    def embed(self, request: Any, call: Call) -> Any:
        return Texts(request).run(
            self._adapter,
            lambda part: self._run("embeddings", partial(self._adapter.embed, part)),
        )

    def predict(self, id: str, request: Any, call: Call) -> Any:
        return self._run("endpoints.predict", partial(self._adapter.predict, id, request))

    def _run(self, operation: str, function: Any) -> Any:
        return self._caller.run(operation, function, self._caller.call(), self._model)


def transform_of(spec: BatchTransform, profile: Profile) -> tuple[Transform, Any]:
    """What transforms the records, and what identifies it."""
    caller = Caller("aws", profile.timeout, RetryPolicy(profile.retries))
    if spec.chat is not None:
        from cloudai.providers.aws.chat.adapter import AwsChat

        chat = _Patient(caller, AwsChat(profile), spec.chat)
        return transforms.chat(chat.create, spec.chat, spec.params), ["chat", spec.chat]
    if spec.embeddings is not None:
        from cloudai.providers.aws.embeddings.adapter import AwsEmbeddings

        vectors = _Patient(caller, AwsEmbeddings(profile), spec.embeddings)
        made = transforms.embeddings(vectors, spec.embeddings, spec.params)
        return made, ["embeddings", spec.embeddings]
    if spec.endpoint is not None:
        from cloudai.providers.aws.endpoints.adapter import AwsEndpoints

        asked = _Patient(caller, AwsEndpoints(profile), spec.endpoint)
        made = transforms.endpoint(asked, spec.endpoint, spec.params)
        return made, ["endpoint", spec.endpoint]
    # A model whose input has no lines: there is nothing to start a machine for.
    return lambda records: list(records), ["model", spec.model_uri]


def run(folder: Path, pid: int | None) -> None:
    """Runs the batch, or goes on with it, and records its end. ``pid``: of the worker; None for
    a thread, which nobody may kill."""
    name, keys, retries, timeout = settings_of(folder)
    profile = Profile(name, SPEC, {**keys, "retries": retries, "timeout": timeout})
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=BatchTransform)
    state = read(folder)
    state.state, state.started, state.pid = State.RUNNING, time.time(), pid
    write(folder, state)
    last = 0.0

    def progress(done: int, total: int | None, errors: int) -> None:
        nonlocal last
        state.done, state.total, state.errors = done, total, errors
        if time.monotonic() - last > 0.1:
            last = time.monotonic()
            write(folder, state)

    asked = _Asked(folder, spec.timeout)
    try:
        _run(folder, spec, profile, state, progress, asked)
    except JobCancelled as error:
        state.state = State.TIMED_OUT if asked.late else State.CANCELLED
        state.reason = f"it ran longer than {spec.timeout} s" if asked.late else error.message
    except CloudAIError as error:
        state.state, state.reason = State.FAILED, f"{type(error).__name__}: {error}"
    except Exception as error:
        state.state, state.reason = State.FAILED, f"{type(error).__name__}: {error}"
        raise
    finally:
        state.ended = time.time()
        write(folder, state)
    with (folder / "log").open("a") as log:
        log.write(f"{state.state}: {state.done} lines, {state.errors} failed\n")


def _run(
    folder: Path, spec: BatchTransform, profile: Profile, state: Progress, progress: Any, asked: Any
) -> None:
    from cloudai.providers.aws.session import session

    store = s3.Store(session(profile))
    call = Call()
    source, output = spec.input, spec.output
    if s3.is_s3(source):
        target = folder / "in" / (source.rpartition("/")[2] or "input")
        if not target.exists():
            store.download(source, target, call)
        source = str(target)
    if s3.is_s3(output):
        output = str(folder / "out" / output.rpartition("/")[2])
    transform, identity = transform_of(spec, profile)
    # A chat line that fails would have its neighbours asked, and paid for, again.
    size = 1 if spec.chat is not None else spec.batch_size
    if spec.embeddings is not None:
        size = min(size, _EMBED)
    work = msgspec.structs.replace(spec, input=source, output=output, batch_size=size)
    result = run_batch(work, transform, identity=identity, progress=progress, cancelled=asked)
    state.outputs = {"output": spec.output}
    if result.errors_file is not None:
        state.outputs["errors"] = spec.errors_uri
    if s3.is_s3(spec.output):
        store.upload(result.output, spec.output, call)
        if result.errors_file is not None:
            store.upload(result.errors_file, spec.errors_uri, call)
    state.state = result.state
    state.done, state.total, state.errors = result.lines, result.lines, result.errors
    if result.errors:
        state.reason = f"{result.errors} of {result.lines} lines failed"


def work(folder: Path, pid: int | None) -> None:
    """Runs the batch with its lock held."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        run(folder, pid)
    finally:
        os.close(handle)


if __name__ == "__main__":
    work(Path(sys.argv[1]), os.getpid())
