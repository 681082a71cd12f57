"""The batch runner: resumable, keeping the order, the same for every provider.

Records are grouped into chunks, a few of which are under way at once; each that comes back is
kept at once (``spool.py``), and when all are there the output is put together in the input's
order and appears in one step. A run that was killed at any point and is started again does not
call again for what it kept: no line is lost, none is doubled.
"""

from __future__ import annotations

import hashlib
import queue
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from cloudai._core.batches.chunk import PER_RECORD, WRONG_LENGTH, ChunkWork, Item, Transform
from cloudai._core.batches.formats import Source, format_of, write_csv, write_jsonl
from cloudai._core.batches.spool import Chunk, Spool, exclusive
from cloudai._core.files.paths import local_path
from cloudai._core.state.disk import disk_errors, whole
from cloudai.errors import (
    Conflict,
    JobCancelled,
)
from cloudai.types import JSON, BatchTransform, State
from cloudai.types._base import invalid

__all__ = [
    "PER_RECORD",
    "WRONG_LENGTH",
    "BatchResult",
    "Transform",
    "check_paths",
    "run_batch",
]


class Cancelled(Protocol):
    """What ``threading.Event`` has."""

    def is_set(self) -> bool: ...


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to.

    Parameters
    ----------
    lines: records transformed, the failed ones counted in. errors: how many failed.
    output: the file. errors_file: the failed records, where there are any and they were asked
        for.
    """

    lines: int
    errors: int
    output: Path
    errors_file: Path | None = None

    @property
    def state(self) -> State:
        return State.PARTIAL if self.errors else State.SUCCEEDED


def run_batch(
    spec: BatchTransform,
    transform: Transform,
    *,
    identity: JSON = None,
    concurrency: int | None = None,
    progress: Callable[[int, int | None, int], None] | None = None,
    cancelled: Cancelled | None = None,
    published: Callable[[BatchResult], None] | None = None,
) -> BatchResult:
    """Runs a batch over local files, or goes on with it.

    Parameters
    ----------
    spec: ``input`` and ``output`` are paths of this machine.
    transform: called from ``concurrency`` threads at once, with ``batch_size`` records at most;
        from the calling thread alone when that is 1.
    identity: what transforms, beside ``spec.params``: JSON; progress made under another one is
        not gone on with.
    concurrency: None takes the spec's.
    progress: gets records done, records in all (None while not known) and failed ones, after
        each step.
    cancelled: looked at between two chunks.
    published: called once the output is in place, before the progress is removed.

    Raises
    ------
    Conflict: the output exists, or the progress of another batch does, and ``overwrite`` is
        False; or another run is at it now.
    InvalidRequest, HandlerError: the first bad record, with its line, for ``on_error="fail"``.
    HandlerError: the transform gave another number of outputs than records.
    JobCancelled: when cancelled. StateError: the disk is full.
    """
    return _Run(
        spec,
        transform,
        identity,
        concurrency or spec.concurrency,
        progress or _quiet,
        cancelled,
        published,
    ).run()


def _quiet(done: int, total: int | None, errors: int) -> None:
    return


def check_paths(spec: BatchTransform) -> tuple[Path, Path]:
    """The input's and the output's path. Raises InvalidRequest for a missing input or an output
    that cannot be, and Conflict for one that exists and may not be replaced."""
    source, output = local_path(spec.input, "input"), local_path(spec.output, "output")
    format_of(source, spec.format)
    if not source.is_file():
        raise invalid("input", spec.input, "is not a file", f"Looked at {source}.")
    if output.is_dir():
        raise invalid("output", spec.output, "is a directory", "Give the name of a file.")
    if source == output:
        raise invalid("output", spec.output, "is the input itself", "Give another name.")
    for parent in output.parents:
        if parent.exists():
            if not parent.is_dir():
                raise invalid("output", spec.output, f"lies below the file {parent}")
            break
    return source, output


class _Run:
    def __init__(
        self,
        spec: BatchTransform,
        transform: Transform,
        identity: JSON,
        concurrency: int,
        progress: Callable[[int, int | None, int], None],
        cancelled: Cancelled | None,
        published: Callable[[BatchResult], None] | None,
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.concurrency = concurrency
        self.progress = progress
        self.cancelled = cancelled
        self.published = published
        source, self.output = check_paths(spec)
        self.source = Source(source, format_of(source, spec.format), spec.max_payload)
        self.work = ChunkWork(spec, self.source, transform)
        self.done = self.errors = 0
        self.total: int | None = None

    def run(self) -> BatchResult:
        with disk_errors(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self.output):
            digest, self.total = self.source.digest()
            spool = Spool(
                self.output,
                self._fingerprint(digest),
                owner=self.spec.name,
                replace=self.spec.overwrite,
            )
            try:
                return self._with(spool)
            finally:
                spool.close_or_discard()

    def _fingerprint(self, digest: str) -> str:
        what = [
            digest,
            self.source.format,
            self.spec.params,
            self.spec.join,
            self.spec.key,
            self.identity,
        ]
        return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()

    def _with(self, spool: Spool) -> BatchResult:
        if not spool.published(self.output):
            if self.output.exists() and not self.spec.overwrite:
                raise Conflict(
                    f"the output {self.output} exists",
                    hint="Use overwrite=True to replace it, or name another output.",
                )
            if self.spec.on_error == "fail":
                spool.drop_failed()
            self.done, self.errors = spool.totals()
            self.progress(self.done, self.total, self.errors)
            self._transform_all(spool)
            self._publish(spool)
        lines, errors = spool.totals()
        result = BatchResult(
            lines=lines,
            errors=errors,
            output=self.output,
            errors_file=self._errors_file if errors and self._dead_letter else None,
        )
        self.progress(lines, lines, errors)
        if self.published:
            self.published(result)
        spool.discard()
        return result

    # -- transforming --------------------------------------------------------------------

    def _transform_all(self, spool: Spool) -> None:
        chunks = self._chunks(spool.covered())
        if self.concurrency == 1:
            for first, items in chunks:
                self._check_cancelled()
                self._keep(spool, [self.work.run(first, items)])
            return
        ended: queue.SimpleQueue[Future[Chunk]] = queue.SimpleQueue()
        under_way = 0
        failure: BaseException | None = None

        def collect(block: bool) -> None:
            nonlocal under_way, failure
            made: list[Chunk] = []
            while under_way:
                try:
                    future = ended.get(block=block and not made)
                except queue.Empty:
                    break
                under_way -= 1
                if future.cancelled():
                    continue
                error = future.exception()
                if error is None:
                    made.append(future.result())
                else:
                    failure = failure or error
            if made:
                self._keep(spool, made)

        with ThreadPoolExecutor(self.concurrency, "cloudai-batch") as pool:
            try:
                for first, items in chunks:
                    self._check_cancelled()
                    pool.submit(self.work.run, first, items).add_done_callback(ended.put)
                    under_way += 1
                    # Twice as many as can run, so that no thread waits for the next chunk.
                    collect(block=under_way >= 2 * self.concurrency)
                    if failure is not None:
                        break
            finally:
                # After a failure nothing more is begun; what is under way was paid for, and is
                # kept.
                if failure is not None or sys.exc_info()[0] is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                while under_way:
                    collect(block=True)
        if failure is not None:
            raise failure

    def _chunks(self, covered: list[tuple[int, int]]) -> Iterator[tuple[int, list[Item]]]:
        """Neighbouring records that are not covered yet, ``batch_size`` at most."""
        spans = iter(covered)
        start, count = next(spans, (-1, 0))
        items: list[Item] = []
        first = index = 0
        size = self.spec.batch_size
        for item in self.source.records():
            if index == start + count and count:
                start, count = next(spans, (-1, 0))
            if start <= index < start + count:
                if items:
                    yield first, items
                    items = []
            else:
                if not items:
                    first = index
                items.append(item)
                if len(items) == size:
                    yield first, items
                    items = []
            index += 1
        if items:
            yield first, items
        self.total = index

    def _keep(self, spool: Spool, made: list[Chunk]) -> None:
        spool.commit(made)
        for chunk in made:
            self.done += chunk.records
            self.errors += chunk.errors
        self.progress(self.done, self.total, self.errors)

    def _check_cancelled(self) -> None:
        if self.cancelled is not None and self.cancelled.is_set():
            raise JobCancelled(
                f"the batch was cancelled after {self.done} lines",
                state=State.CANCELLED,
                hint="Submit it again to go on from there.",
            )

    # -- the output ----------------------------------------------------------------------

    @property
    def _dead_letter(self) -> bool:
        return self.spec.on_error == "dead_letter"

    @property
    def _errors_file(self) -> Path:
        return self.output.with_name(f"{self.output.name}.errors.jsonl")

    def _publish(self, spool: Spool) -> None:
        """Puts the output together and into its place, in one step; the errors first, so that
        they are there when the output is."""
        with suppress(FileNotFoundError):
            self._errors_file.unlink()  # of the output that is being replaced
        if self._dead_letter and self.errors:
            with disk_errors(self._errors_file), whole(self._errors_file, alone=True) as file:
                write_jsonl(file, spool.bad_lines())
        with disk_errors(self.output), whole(self.output, alone=True) as file:
            if self.output.suffix.lower() == ".csv":
                write_csv(file, spool.lines)
            else:
                write_jsonl(file, spool.lines())
            spool.publishing(file)
