"""Handles of jobs: found again from any process by their URI.

``Job`` (training) and ``BatchJob`` hold no state but the last snapshot; all of it is at the
provider. The async twins run the same flows in worker threads.

Longer than other modules: each flow stands once, and the sync and async handles beside each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from cloudai._core.calls import threads, wait
from cloudai._core.files.tree import copy, tree
from cloudai._core.state.ledger import Entry
from cloudai.client import _ownership as ownership
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.errors import (
    ConfigError,
    InvalidRequest,
    JobCancelled,
    JobCapacityError,
    JobError,
    JobExpired,
    JobFailed,
    JobPartial,
    JobPreempted,
    JobTimedOut,
    NotFound,
    TransientError,
    WaitTimeout,
)
from cloudai.types import JobStatus, LogLine, MetricPoint, Model, State

T = TypeVar("T")

ERRORS: Final[dict[State, type[JobError]]] = {
    State.FAILED: JobFailed,
    State.CANCELLED: JobCancelled,
    State.TIMED_OUT: JobTimedOut,
    State.PREEMPTED: JobPreempted,
    State.EXPIRED: JobExpired,
    State.PARTIAL: JobPartial,
}

_TAIL: Final = 20


class _Handle:
    """What every handle of a job knows. Its methods with an underscore do the work, in sync."""

    def __init__(
        self, runtime: Runtime, binding: CapabilityBinding, kind: str, native_id: str
    ) -> None:
        self._runtime = runtime
        self._bound = binding
        self._kind = kind
        self.native_id = native_id
        self._last: JobStatus | None = None
        self._looked_up: tuple[Entry | None] | None = None

    @property
    def id(self) -> str:
        """The handle's URI; ``client.attach(id)`` finds it again from any process."""
        return self._bound.uri(self._kind, self.native_id)

    @property
    def provider(self) -> str:
        """Where the job runs."""
        return self._bound.profile.provider

    def to_json(self) -> str:
        """The handle as JSON: its URI, which is all there is to it."""
        return msgspec.json.encode({"id": self.id}).decode()

    def __repr__(self) -> str:
        state = f" {self._last.state}" if self._last else ""
        return f"<{type(self).__name__} {self.id}{state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a handle does not pickle: pass its .id, and attach to it there")

    def _call(self, operation: str, function: Callable[..., T]) -> T:
        caller = self._bound.caller
        return caller.run(f"{self._bound.capability}.{operation}", function, caller.call())

    def _entry(self) -> Entry | None:
        """The ledger's row; looked up once. Raises Conflict for a job that was made elsewhere."""
        if self._looked_up is None:
            self._looked_up = (ownership.entry_of(self._runtime, self._bound, self.id),)
        return self._looked_up[0]

    def _status(self) -> JobStatus:
        if self._last is not None and self._last.state.done:
            return self._last  # an ended job does not change
        entry = self._entry()
        last = self._last = self._call(
            "status", lambda call: self._bound.adapter.status(self.native_id, call)
        )
        if entry is not None:
            self._runtime.ledger(self._bound).saw(entry, last.state)
        return last

    def _output(self, name: str) -> str:
        status = self._status()
        found = status.outputs.get(name)
        if found is None:
            raise NotFound(
                f"{self.id} has no output {name!r}",
                provider=self.provider,
                hint=f"It is {status.state} and has: {', '.join(status.outputs) or 'none'}",
            )
        return found

    def _model(self) -> Model:
        return Model(uri=self._output("model"), name=self._status().name, job=self.id)

    def _download(self, to: str | Path, output: str) -> Path:
        source = self._output(output)
        target = Path(to)
        fetch = getattr(self._bound.adapter, "download", None)
        if fetch is not None:
            return Path(
                self._call(
                    "download", lambda call: fetch(self.native_id, output, str(target), call)
                )
            )
        if target.exists() and any(target.iterdir()):
            raise InvalidRequest(
                f"{target} is not empty", field="to", value=str(to), hint="Name a new folder"
            )
        copy(tree(Path(source), field="output", rules=False), target)
        return target

    def _cancel(self) -> None:
        if not self._status().state.done:
            self._call("cancel", lambda call: self._bound.adapter.cancel(self.native_id, call))

    def _delete(self, force: bool = False) -> None:
        ownership.remove(self._runtime, self._bound, self.id, self.native_id, force=force)

    def _page(self, cursor: str | None) -> Any:
        return self._call(
            "logs", lambda call: self._bound.adapter.logs(self.native_id, cursor, call)
        )

    def _lines(self, since: float | None) -> list[LogLine]:
        lines: list[LogLine] = []
        cursor: str | None = None
        while True:
            page = self._page(cursor)
            if not page.lines:
                return lines
            lines.extend(line for line in page.lines if _new(line, since))
            cursor = page.cursor

    def _failure(self, status: JobStatus) -> JobError:
        kind = JobCapacityError if status.capacity else ERRORS.get(status.state, JobFailed)
        tail = status.log_tail
        if not tail and status.state is State.FAILED:
            tail = tuple(line.text for line in deque(self._lines(None), maxlen=_TAIL))
        why = status.reason or "no reason was given"
        # What the reason says already is not said again.
        tail = tuple(line for line in tail if line.strip() not in why)
        code = f", exit code {status.exit_code}" if status.exit_code else ""
        errors = status.outputs.get("errors")
        return kind(
            f"{self.id} ended {status.state}{code}: {why}",
            state=status.state,
            id=self.id,
            reason=status.reason,
            exit_code=status.exit_code,
            log_tail=tail,
            provider=self.provider,
            hint=None if errors is None else f"The failed lines: {errors}",
        )

    def _late(self, timeout: float | None, last: JobStatus | None) -> WaitTimeout:
        state = last.state if last else State.UNKNOWN
        return WaitTimeout(
            f"{self.id} is still {state} after {timeout:g} s",
            provider=self.provider,
            hint="It goes on: wait again, or cancel it",
        )


class Job(_Handle):
    """A training job. ``id`` finds it again; all else asks the provider."""

    @property
    def status(self) -> JobStatus:
        """A fresh snapshot; the last one, once the job has ended."""
        return self._status()

    @property
    def state(self) -> State:
        """The state of a fresh snapshot."""
        return self._status().state

    @property
    def outputs(self) -> dict[str, str]:
        """URIs or paths by name: ``model``, ``checkpoints``, ``output``."""
        return self._status().outputs

    @property
    def metrics(self) -> dict[str, tuple[MetricPoint, ...]]:
        """What the metric patterns caught, by name, in order."""
        return self._status().metrics

    @property
    def cost(self) -> float | None:
        """US dollars so far; None where not known; 0.0 locally."""
        return self._status().cost

    @property
    def model(self) -> Model:
        """The trained model. Raises NotFound while there is none."""
        return self._model()

    def wait(
        self,
        timeout: float | None = None,
        *,
        check: bool = True,
        on_update: Callable[[JobStatus], object] | None = None,
    ) -> JobStatus:
        """Waits for the end and gives the last snapshot.

        Parameters
        ----------
        timeout: seconds; None waits as long as it takes. Past it WaitTimeout is raised, and the
            job goes on.
        check: True raises JobFailed (JobCapacityError where the provider had no machine),
            JobCancelled, JobTimedOut, JobPreempted, JobExpired or JobPartial when the end is not
            full success; False gives the snapshot.
        on_update: called with each snapshot.
        """
        last: JobStatus | None = None
        for pause in wait.intervals(remote=self._bound.remote, timeout=timeout):
            try:
                last = self._status()
            except TransientError:
                pass  # a look that failed says nothing of the job; the next one may tell
            else:
                if on_update is not None:
                    on_update(last)
                if last.state.done:
                    break
            time.sleep(pause)
        if last is None or not last.state.done:
            raise self._late(timeout, last)
        if check and not last.state.succeeded:
            raise self._failure(last)
        return last

    def logs(self, *, follow: bool = False, since: float | None = None) -> Iterator[LogLine]:
        """The log's lines.

        Parameters
        ----------
        follow: True goes on until the job has ended.
        since: Unix seconds; earlier lines are left out.
        """
        cursor: str | None = None
        pauses = wait.intervals(remote=self._bound.remote, timeout=None)
        while True:
            done = not follow or self._status().state.done
            page = self._page(cursor)
            cursor = page.cursor
            yield from (line for line in page.lines if _new(line, since))
            if page.lines:
                pauses = wait.intervals(remote=self._bound.remote, timeout=None)
            elif done:
                return
            else:
                time.sleep(next(pauses))

    def cancel(self) -> None:
        """Asks for its end; harmless when it has ended. ``wait`` tells when it has."""
        self._cancel()

    def download(self, to: str | Path, output: str = "model") -> Path:
        """Copies an output into the folder ``to``, which is made."""
        return self._download(to, output)

    def delete(self, *, force: bool = False) -> None:
        """Cancels it if it runs, and removes it with all that it left at the provider.

        Raises Conflict for one that cloudai did not make, or made elsewhere; ``force`` removes
        what has its name all the same.
        """
        self._delete(force)


class BatchJob(Job):
    """A batch transform."""

    @property
    def output(self) -> str:
        """Where the output is. Raises NotFound while there is none."""
        return self._output("output")

    @property
    def progress(self) -> tuple[int, int | None]:
        """Lines done, and lines in all; None while that is not known."""
        return self._status().progress or (0, None)


class AsyncJob(_Handle):
    """A training job, under asyncio: ``await job.status``, ``await job.wait()``."""

    @property
    def status(self) -> Awaitable[JobStatus]:
        """See ``Job.status``."""
        return threads.run(self._status)

    @property
    def state(self) -> Awaitable[State]:
        """See ``Job.state``."""
        return threads.run(lambda: self._status().state)

    @property
    def outputs(self) -> Awaitable[dict[str, str]]:
        """See ``Job.outputs``."""
        return threads.run(lambda: self._status().outputs)

    @property
    def metrics(self) -> Awaitable[dict[str, tuple[MetricPoint, ...]]]:
        """See ``Job.metrics``."""
        return threads.run(lambda: self._status().metrics)

    @property
    def cost(self) -> Awaitable[float | None]:
        """See ``Job.cost``."""
        return threads.run(lambda: self._status().cost)

    @property
    def model(self) -> Awaitable[Model]:
        """See ``Job.model``."""
        return threads.run(self._model)

    async def wait(
        self,
        timeout: float | None = None,
        *,
        check: bool = True,
        on_update: Callable[[JobStatus], object] | None = None,
    ) -> JobStatus:
        """See ``Job.wait``. Cancelling the wait leaves the job alone."""
        last: JobStatus | None = None
        for pause in wait.intervals(remote=self._bound.remote, timeout=timeout):
            try:
                last = await threads.run(self._status)
            except TransientError:
                pass  # as in Job.wait
            else:
                if on_update is not None:
                    on_update(last)
                if last.state.done:
                    break
            await asyncio.sleep(pause)
        if last is None or not last.state.done:
            raise self._late(timeout, last)
        if check and not last.state.succeeded:
            raise await threads.run(self._failure, last)
        return last

    async def logs(
        self, *, follow: bool = False, since: float | None = None
    ) -> AsyncIterator[LogLine]:
        """See ``Job.logs``."""
        cursor: str | None = None
        pauses = wait.intervals(remote=self._bound.remote, timeout=None)
        while True:
            done = not follow or (await threads.run(self._status)).state.done
            page = await threads.run(self._page, cursor)
            cursor = page.cursor
            for line in page.lines:
                if _new(line, since):
                    yield line
            if page.lines:
                pauses = wait.intervals(remote=self._bound.remote, timeout=None)
            elif done:
                return
            else:
                await asyncio.sleep(next(pauses))

    async def cancel(self) -> None:
        """See ``Job.cancel``."""
        await threads.finish(self._cancel)

    async def download(self, to: str | Path, output: str = "model") -> Path:
        """See ``Job.download``."""
        return await threads.run(self._download, to, output)

    async def delete(self, *, force: bool = False) -> None:
        """See ``Job.delete``."""
        await threads.finish(self._delete, force)


class AsyncBatchJob(AsyncJob):
    """A batch transform, under asyncio."""

    @property
    def output(self) -> Awaitable[str]:
        """See ``BatchJob.output``."""
        return threads.run(self._output, "output")

    @property
    def progress(self) -> Awaitable[tuple[int, int | None]]:
        """See ``BatchJob.progress``."""
        return threads.run(lambda: self._status().progress or (0, None))


def _new(line: LogLine, since: float | None) -> bool:
    return since is None or line.time is None or line.time >= since


def check_kind(kind: str, expected: str, uri: str) -> None:
    """Refuses a handle of another kind."""
    if kind != expected:
        raise ConfigError(f"{uri} is a handle of kind {kind!r}, not {expected!r}")
