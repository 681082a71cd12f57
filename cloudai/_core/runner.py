"""The batch runner: resumable, keeping the order, the same for every provider.

Records are grouped into chunks, a few of which are under way at once; each that comes back is
kept at once (``spool.py``), and when all are there the output is put together in the input's
order and appears in one step. A run that was killed at any point and is started again does not
call again for what it kept: no line is lost, none is doubled.
"""

from __future__ import annotations

import copy
import hashlib
import os
import queue
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol, TypeAlias

import msgspec

from cloudai._core.batch_io import Raw, Source, format_of, write_csv, write_jsonl
from cloudai._core.disk import disk_errors, sync_folder
from cloudai._core.handler import jsonable
from cloudai._core.spool import Chunk, Spool, exclusive
from cloudai.errors import (
    CloudAIError,
    Conflict,
    ContentFiltered,
    HandlerError,
    InvalidRequest,
    JobCancelled,
)
from cloudai.types import JSON, BatchTransform, State
from cloudai.types._base import invalid

Transform: TypeAlias = Callable[[list[Any]], list[Any]]
"""Takes decoded records, gives one JSON value for each, in their order."""

PER_RECORD: Final = (InvalidRequest, HandlerError, ContentFiltered)
"""Errors that one record can cause. Any other ends the run, whatever ``on_error`` says, and the
run can be gone on with."""

WRONG_LENGTH: Final = "WrongLength"
"""The code of the HandlerError for a handler that breaks its contract. No record is to blame,
so it ends the run too."""


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


class _Failed:
    """In place of a record's output: why there is none."""

    __slots__ = ("error",)

    def __init__(self, error: CloudAIError) -> None:
        self.error = error


Item: TypeAlias = tuple[int, Raw]


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
    source, output = _path(spec.input), _path(spec.output)
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


def _path(text: str) -> Path:
    return Path(text.removeprefix("file://")).expanduser().absolute()


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
        self.transform = transform
        self.identity = identity
        self.concurrency = concurrency
        self.progress = progress
        self.cancelled = cancelled
        self.published = published
        source, self.output = check_paths(spec)
        self.source = Source(source, format_of(source, spec.format), spec.max_payload)
        self.encoder = msgspec.json.Encoder(enc_hook=jsonable)
        self.plain = spec.join == "none" and spec.key is None
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
                self._keep(spool, [self._work(first, items)])
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
                    pool.submit(self._work, first, items).add_done_callback(ended.put)
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

    def _work(self, first: int, items: list[Item]) -> Chunk:
        """Transforms a chunk. In a worker thread."""
        decode = self.source.decode
        outcomes: list[Any] = [None] * len(items)
        values: list[Any] = []
        places: list[int] = []
        for place, (_, raw) in enumerate(items):
            try:
                values.append(decode(raw))
                places.append(place)
            except InvalidRequest as error:
                outcomes[place] = self._failed(items[place], error)
        numbered = [items[place] for place in places]
        if len(values) == len(items):
            outcomes = self._call(numbered, values)
            if self.plain:
                with suppress(TypeError, InvalidRequest):  # told per record below
                    if not any(isinstance(outcome, _Failed) for outcome in outcomes):
                        lines = self.encoder.encode_lines(outcomes)
                        return Chunk(first, len(items), lines, 0, b"")
        elif values:
            for place, outcome in zip(places, self._call(numbered, values), strict=True):
                outcomes[place] = outcome
        return self._encode(first, items, outcomes)

    def _call(self, items: list[Item], values: list[Any]) -> list[Any]:
        """The outputs. When the transform refuses the records, they are halved until the one
        that is to blame stands alone, so that it does not fail its neighbours."""
        try:
            outputs = self.transform(values)
        except PER_RECORD as error:
            if error.code == WRONG_LENGTH:
                raise
            if len(items) == 1:
                return [self._failed(items[0], error)]
            half = len(items) // 2
            return [
                *self._call(items[:half], values[:half]),
                *self._call(items[half:], values[half:]),
            ]
        if len(outputs) != len(values):
            raise HandlerError(
                f"the transform gave {len(outputs)} outputs for {len(values)} inputs",
                code=WRONG_LENGTH,
                hint="Return one output for each input, in their order.",
            )
        return outputs

    def _failed(self, item: Item, error: CloudAIError) -> _Failed:
        if self.spec.on_error != "fail":
            return _Failed(error)
        told = copy.copy(error)
        told.message = f"line {item[0]} of {self.source.path.name}: {error.message}"
        told.args = (told.message,)
        raise told from error

    def _encode(self, first: int, items: list[Item], outcomes: list[Any]) -> Chunk:
        lines: list[bytes] = []
        bad: list[bytes] = []
        for item, outcome in zip(items, outcomes, strict=True):
            if not isinstance(outcome, _Failed):
                try:
                    lines.append(self._line(item, outcome))
                    continue
                except (TypeError, InvalidRequest) as error:
                    problem = error if isinstance(error, InvalidRequest) else _not_json(error)
                    outcome = self._failed(item, problem)
            failed = outcome.error
            lines.append(self._line(item, None, lenient=True))
            bad.append(
                self.encoder.encode(
                    {
                        "line": item[0],
                        "input": self.source.as_read(item[1]),
                        "error": {"type": type(failed).__name__, "message": str(failed)},
                    }
                )
            )
        return Chunk(
            first, len(items), b"\n".join(lines) + b"\n", len(bad), b"".join(b + b"\n" for b in bad)
        )

    def _line(self, item: Item, output: Any, lenient: bool = False) -> bytes:
        """One line of the output.

        Parameters
        ----------
        lenient: True for a failed record, whose key may be what it lacks.
        """
        if self.plain:
            return self.encoder.encode(output)
        made: dict[str, Any] = {}
        value = self.source.as_read(item[1])
        key = self.spec.key
        if key is not None:
            if isinstance(value, dict) and key in value:
                made["key"] = value[key]
            elif lenient:
                made["key"] = None
            else:
                raise invalid("key", key, "is not a field of this record", "Add it, or drop key.")
        if self.spec.join == "input":
            made["input"] = value
        made["output"] = output
        return self.encoder.encode(made)

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
            part = self._write(self._errors_file, lambda file: write_jsonl(file, spool.bad_lines()))
            os.replace(part, self._errors_file)
        as_csv = self.output.suffix.lower() == ".csv"
        part = self._write(
            self.output,
            lambda file: (
                write_csv(file, spool.lines) if as_csv else write_jsonl(file, spool.lines())
            ),
        )
        spool.publishing(part)
        with disk_errors(self.output):
            os.replace(part, self.output)
            sync_folder(self.output.parent)

    @staticmethod
    def _write(target: Path, write: Callable[[IO[bytes]], None]) -> Path:
        part = target.with_name(f".{target.name}.cloudai-part")
        try:
            with disk_errors(target), part.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        return part


def _not_json(error: TypeError) -> HandlerError:
    return HandlerError(f"the output cannot be held by JSON: {error}", code="BadOutput")
