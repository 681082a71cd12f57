"""Puts the output of a batch that ran elsewhere together: once, in the input's order, whole."""

from __future__ import annotations

import abc
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from cloudai._core.batches.formats import Source, format_of
from cloudai._core.batches.runner import PER_RECORD, Transform, run_batch
from cloudai._core.batches.spool import exclusive
from cloudai._core.files.paths import here, local_path
from cloudai._core.state.disk import sync_folder, write_whole
from cloudai.errors import CloudAIError, InvalidRequest, ProviderError
from cloudai.types import BatchTransform, State
from cloudai.types._base import met

T = TypeVar("T")

_CHUNK = 1000
"""Records that are looked up, and written down, at a time."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch came to, once its output was put together.

    Parameters
    ----------
    state, reason: how it ended. lines, errors: how many in all, and how many failed.
    outputs: URIs or paths by name.
    """

    state: State
    lines: int = 0
    errors: int = 0
    outputs: dict[str, str] = {}
    reason: str | None = None


def publish(
    spec: BatchTransform,
    id: str,
    answers: Callable[[Path], Transform],
    *,
    source: Path | None = None,
    deliver: Callable[[Path, str], None] | None = None,
) -> Result:
    """Puts the output in its place; whoever comes later gets the same.

    Parameters
    ----------
    id: of the batch; a mark beside an output on this machine carries it.
    answers: makes the transform that looks answers up, most often a ``Lookup``; gets a folder
        for its own files.
    source: the input, where it is not ``spec.input`` itself.
    deliver: takes a file to a URI elsewhere.

    Raises Conflict while another process is at it.
    """
    if here(spec.output) is None:
        assert deliver is not None  # noqa: S101 - who takes URIs has a way to them
        with tempfile.TemporaryDirectory(prefix="cloudai-batch-") as name:
            return _made(spec, Path(name), answers, source, deliver)
    output, marker = local_path(spec.output, "output"), mark(spec, id)
    output.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(marker):
        if marker.exists() and output.exists():
            return msgspec.json.decode(marker.read_bytes(), type=met(Result))
        if output.exists() and not spec.overwrite:
            return Result(state=State.FAILED, reason=f"the output {output} exists")
        # Beside the output, so that it is moved there in one step.
        with _folder(output) as folder:
            made: list[tuple[Path, str]] = []
            result = _made(spec, folder, answers, source, lambda *one: made.append(one))
            if not made:
                return result
            # The mark goes first: with no output beside it, it counts for nothing.
            output.unlink(missing_ok=True)
            write_whole(marker, msgspec.json.encode(result))
            for path, target in reversed(made):
                os.replace(path, local_path(target))
            sync_folder(output.parent)
            return result


@contextmanager
def _folder(output: Path) -> Generator[Path]:
    made = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _made(
    spec: BatchTransform,
    folder: Path,
    answers: Callable[[Path], Transform],
    source: Path | None,
    deliver: Callable[[Path, str], None],
) -> Result:
    """Makes the output in ``folder`` and hands it on, the errors last."""
    work = replace(
        spec,
        input=spec.input if source is None else str(source),
        format=format_of(Path(spec.input), spec.format),
        output=str(folder / f"output{Path(spec.output).suffix}"),
        concurrency=1,
        batch_size=_CHUNK,
        overwrite=True,
    )
    try:
        made = run_batch(work, answers(folder / "parts"))
    except (*PER_RECORD, ProviderError) as error:
        return Result(state=State.FAILED, reason=str(error))
    outputs = {"output": spec.output}
    deliver(made.output, spec.output)
    if made.errors_file is not None:
        outputs["errors"] = spec.errors_uri
        deliver(made.errors_file, spec.errors_uri)
    return Result(
        state=made.state,
        lines=made.lines,
        errors=made.errors,
        outputs=outputs,
        reason=f"{made.errors} of {made.lines} lines failed" if made.errors else None,
    )


def mark(spec: BatchTransform, id: str) -> Path:
    """The file that tells that a batch's output on this machine is in place."""
    output = local_path(spec.output, "output")
    return output.with_name(f".{output.name}.{hashlib.sha256(id.encode()).hexdigest()[:16]}")


def unmark(spec: BatchTransform, id: str) -> None:
    """Removes the mark, where the result is kept elsewhere, or the batch is gone."""
    if here(spec.output) is not None:
        mark(spec, id).unlink(missing_ok=True)


def absolute(spec: BatchTransform) -> BatchTransform:
    """The spec with paths that mean the same in every process."""
    given = {"input": here(spec.input), "output": here(spec.output)}
    return replace(spec, **{name: str(path) for name, path in given.items() if path is not None})


def source_of(spec: BatchTransform, path: Path | None = None) -> Source:
    """The input; ``path``: where it was brought to."""
    own = local_path(spec.input, "input") if path is None else path
    return Source(own, format_of(Path(spec.input), spec.format), spec.max_payload)


def records(source: Source) -> Iterator[tuple[int, Any]]:
    """Each record with its line; in place of one that cannot be read, its error."""
    for line, raw in source.records():
        try:
            yield line, source.decode(raw)
        except InvalidRequest as error:
            yield line, error


def sendable(
    spec: BatchTransform, source: Source, made: Callable[[int, Any], T]
) -> Iterator[T | None]:
    """For each record what it becomes on its way, made of its number and its value; None for one
    that cannot go, and whose error is told when the output is put together.

    Raises InvalidRequest with its line for the first of these, where ``on_error`` is ``fail``.
    """
    for index, (line, record) in enumerate(records(source)):
        try:
            if isinstance(record, InvalidRequest):
                raise record
            yield made(index, record)
        except PER_RECORD as error:
            if spec.on_error == "fail":
                raise InvalidRequest(
                    f"line {line} of {Path(spec.input).name}: {error.message}",
                    field="input",
                    hint=error.hint or 'Mend it, or pass on_error="skip"',
                ) from error
            yield None


class Lookup(abc.ABC):
    """A transform that looks answers up: each once, in the records' order.

    The runner calls it from one thread, and halves what it refuses, so that a chunk comes again
    in parts; what was looked up for it is kept until it has gone. Records that cannot be read
    never come here, and have numbers all the same.
    """

    def __init__(self, source: Source) -> None:
        self._numbers = (
            index
            for index, (_, record) in enumerate(records(source))
            if not isinstance(record, InvalidRequest)
        )
        self._known: list[Any] = []

    @abc.abstractmethod
    def answer(self, index: int, record: Any) -> Any:
        """The record's output. Raises InvalidRequest or HandlerError for one that failed."""

    def __call__(self, asked: list[Any]) -> list[Any]:
        for record in asked[len(self._known) :]:
            try:
                self._known.append(self.answer(next(self._numbers), record))
            except PER_RECORD as error:
                self._known.append(error)
        found = self._known[: len(asked)]
        failed = next((one for one in found if isinstance(one, CloudAIError)), None)
        if failed is None or len(asked) == 1:
            del self._known[: len(asked)]
        if failed is not None:
            raise failed
        return found
