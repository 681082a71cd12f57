"""One chunk of a batch: decoded, transformed, encoded; a bad record stands alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec

from cloudai._core.batches.formats import Raw, Source
from cloudai._core.batches.spool import Chunk
from cloudai._core.handlers.jsonable import jsonable
from cloudai.errors import CloudAIError, ContentFiltered, HandlerError, InvalidRequest
from cloudai.types import BatchTransform
from cloudai.types._base import invalid

Transform: TypeAlias = Callable[[list[Any]], list[Any]]
"""Takes decoded records, gives one JSON value for each, in their order."""

PER_RECORD: Final = (InvalidRequest, HandlerError, ContentFiltered)
"""Errors that one record can cause. Any other ends the run, whatever ``on_error`` says, and the
run can be gone on with."""

WRONG_LENGTH: Final = "WrongLength"
"""The code of the HandlerError for a handler that breaks its contract. No record is to blame,
so it ends the run too."""


class _Failed:
    """In place of a record's output: why there is none."""

    __slots__ = ("error",)

    def __init__(self, error: CloudAIError) -> None:
        self.error = error


Item: TypeAlias = tuple[int, Raw]


class ChunkWork:
    """What is done to each chunk of a batch. Its ``run`` may be called from many threads."""

    def __init__(self, spec: BatchTransform, source: Source, transform: Transform) -> None:
        self.spec = spec
        self.source = source
        self.transform = transform
        self.encoder = msgspec.json.Encoder(enc_hook=jsonable)
        self.plain = spec.join == "none" and spec.key is None

    def run(self, first: int, items: list[Item]) -> Chunk:
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


def _not_json(error: TypeError) -> HandlerError:
    return HandlerError(f"the output cannot be held by JSON: {error}", code="BadOutput")
