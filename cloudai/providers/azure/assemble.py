"""Puts the output of a batch that ran elsewhere together: once, in the input's order, whole."""

from __future__ import annotations

import abc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from cloudai._core.batches.formats import Source, format_of
from cloudai._core.batches.runner import BatchResult, Transform, run_batch
from cloudai._core.batches.spool import exclusive
from cloudai.errors import CloudAIError, HandlerError, InvalidRequest, ProviderError
from cloudai.types import BatchTransform
from cloudai.types._base import met


def publish(
    spec: BatchTransform, id: str, transform: Callable[[Path], Transform]
) -> BatchResult | CloudAIError:
    """The result, or why there is none; whoever comes later gets the same.

    Parameters
    ----------
    id: of the batch; a mark beside the output carries it.
    transform: makes the transform that looks answers up; gets a folder for its own files.

    Raises Conflict while another process is at it.
    """
    output, marker = Path(spec.output), mark(spec, id)
    with exclusive(marker):
        if marker.exists() and output.exists():
            return msgspec.json.decode(marker.read_bytes(), type=met(BatchResult), dec_hook=_path)
        if output.exists() and not spec.overwrite:
            return InvalidRequest(f"the output {output} exists", field="output")
        # Beside the output, so that it is moved there in one step.
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        try:
            here = replace(
                spec,
                output=str(folder / output.name),
                concurrency=1,
                batch_size=1000,
                overwrite=True,
            )
            made = run_batch(here, transform(folder / "parts"))
            errors_file = Path(spec.errors_uri) if made.errors_file is not None else None
            result = replace(made, output=output, errors_file=errors_file)
            # The mark goes first: with no output beside it, it counts for nothing.
            output.unlink(missing_ok=True)
            marker.write_bytes(msgspec.json.encode(result, enc_hook=str))
            if made.errors_file is not None and errors_file is not None:
                os.replace(made.errors_file, errors_file)
            os.replace(made.output, output)
            return result
        except (InvalidRequest, HandlerError, ProviderError) as error:
            return error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def mark(spec: BatchTransform, id: str) -> Path:
    """The file that tells that a batch's output is in place."""
    output = Path(spec.output)
    return output.with_name(f".{output.name}.{id}")


def absolute(spec: BatchTransform) -> BatchTransform:
    """The spec with paths that mean the same in every process; URIs are so already."""

    def whole(path: str) -> str:
        plain = path.removeprefix("file://")
        return plain if "://" in plain else str(Path(plain).expanduser().absolute())

    return replace(spec, input=whole(spec.input), output=whole(spec.output))


def records(spec: BatchTransform) -> Iterator[tuple[int, Any]]:
    """Each record with its line; in place of one that cannot be read, its error."""
    path = Path(spec.input)
    source = Source(path, format_of(path, spec.format), spec.max_payload)
    for line, raw in source.records():
        try:
            yield line, source.decode(raw)
        except InvalidRequest as error:
            yield line, error


class Lookup(abc.ABC):
    """A transform that looks each record's answer up by its number.

    The runner calls it from one thread, in the records' order, and halves what it refuses; so
    one place in the records is enough to know which is asked for. Records that cannot be read
    never come here, and have numbers all the same.
    """

    def __init__(self, spec: BatchTransform) -> None:
        self._numbers = [
            index
            for index, (_, record) in enumerate(records(spec))
            if not isinstance(record, InvalidRequest)
        ]
        self._place = 0

    @abc.abstractmethod
    def answer(self, index: int, record: Any) -> Any:
        """The record's output. Raises InvalidRequest or HandlerError for one that failed."""

    def __call__(self, asked: list[Any]) -> list[Any]:
        numbers = self._numbers[self._place : self._place + len(asked)]
        try:
            made = [self.answer(n, record) for n, record in zip(numbers, asked, strict=True)]
        except (InvalidRequest, HandlerError):
            if len(asked) == 1:
                self._place += 1
            raise
        self._place += len(asked)
        return made


def _path(kind: type, value: Any) -> Any:
    return kind(value)
