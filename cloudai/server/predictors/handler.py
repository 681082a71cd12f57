"""Runs the user's handler, with no more decoded inputs in memory than one call takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from cloudai._core.handlers.handler import Handler
from cloudai._core.handlers.jsonable import jsonable
from cloudai.errors import CloudAIError, HandlerError, InvalidRequest
from cloudai.server.predictors.base import failure, is_long, to_npy
from cloudai.server.predictors.inputs import decode_inputs, decode_params, weight
from cloudai.server.workers.wire import Item, Options, Result

UNPACKED: Final = 64 << 20
"""Bytes of decoded inputs in one call of ``predict``, about; an image is much larger than its
file."""


class _Part:
    """Requests with equal params, decoded, that become one call of ``predict``."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.members: list[tuple[int, list[Any]]] = []
        self.count = 0


class HandlerPredictor:
    """Runs a handler. Requests of one batch with equal params become one ``predict`` call; when
    a merged call fails, each request is tried alone, so that none fails for its neighbours."""

    def __init__(self, handler: Handler, options: Options) -> None:
        self._handler = handler
        self._max_batch = options.max_batch
        self._long = options.long_input
        self._pixels = options.pixels
        self._encode = msgspec.json.Encoder().encode

    def info(self) -> dict[str, Any]:
        module = self._handler.module
        return {
            "predictor": "handler",
            "quick_batch": self._max_batch,
            "raw": self._handler.raw,
            "streams": self._handler.streams,
            "whole": getattr(module, "WHOLE_BODIES", False),
            "name": str(getattr(module, "NAME", "")),
            # Optional in a handler: JSON Schemas of one input and one output, for OpenAPI.
            "input_schema": self._schema("INPUT_SCHEMA"),
            "output_schema": self._schema("OUTPUT_SCHEMA"),
            "example": self._example(),
        }

    def _schema(self, name: str) -> Any:
        try:
            return jsonable(getattr(self._handler.module, name, None), name)
        except InvalidRequest as error:
            raise HandlerError(f"{self._handler.file}: {error}", code="BadSchema") from None

    def _example(self) -> Any:
        """The first of the WARMUP inputs, where JSON can hold it: the page offers it."""
        warmup = getattr(self._handler.module, "WARMUP", None)
        try:
            return jsonable(next(iter(warmup))) if warmup is not None else None
        except (CloudAIError, StopIteration, TypeError):
            return None

    def warm(self) -> None:
        """Predicts the handler's own WARMUP inputs, where it has them; a failure is the model's."""
        inputs = getattr(self._handler.module, "WARMUP", None)
        if inputs:
            self._handler.predict(list(inputs))

    def run(self, items: Sequence[Item]) -> list[Result]:
        results: list[Result | None] = [None] * len(items)
        parts: dict[bytes, _Part] = {}
        held = 0
        for index, item in enumerate(items):
            try:
                if item.kind == "raw":
                    results[index] = self._raw(item)
                    continue
                size = weight(item)
                if held + size > UNPACKED:
                    self._flush(parts, items, results)
                    held = 0
                part = parts.get(item.params) or _Part(decode_params(item.params))
                inputs = decode_inputs(item, self._pixels)
            except CloudAIError as error:
                results[index] = failure(error)
                continue
            if part.members and part.count + len(inputs) > self._max_batch:
                self._predict(part.members, part.params, items, results)
                part = _Part(part.params)
            parts[item.params] = part
            part.members.append((index, inputs))
            part.count += len(inputs)
            held += size
        self._flush(parts, items, results)
        return [
            result or Result(500, error="no result", error_type="ServerError") for result in results
        ]

    def _flush(
        self, parts: dict[bytes, _Part], items: Sequence[Item], results: list[Result | None]
    ) -> None:
        for part in parts.values():
            self._predict(part.members, part.params, items, results)
        parts.clear()

    def stream(self, item: Item, emit: Callable[[bytes], bool]) -> Result:
        """Sends the handler's pieces: a body's as they are, an input's as JSON; ends early when
        ``emit`` says that nobody reads any more."""
        result = Result()
        try:
            for piece in self._chunks(item, result):
                if not emit(piece):
                    break
        except CloudAIError as error:
            return failure(error)
        return result

    def _chunks(self, item: Item, result: Result) -> Iterator[bytes]:
        handler = self._handler
        if item.kind == "raw":
            yield from handler.stream_body(item.inputs, item.content_type, item.accept)
            return
        (value,) = decode_inputs(item, self._pixels)
        result.long = int(is_long(value, self._long))
        with contextlib.closing(handler.stream(value, decode_params(item.params))) as pieces:
            for piece in pieces:
                yield self._encode(piece)

    def _predict(
        self,
        part: list[tuple[int, list[Any]]],
        params: dict[str, Any],
        items: Sequence[Item],
        results: list[Result | None],
    ) -> None:
        inputs = [value for _, values in part for value in values]
        try:
            outputs: list[Any] = []  # one request may have more inputs than a call takes
            for start in range(0, len(inputs), self._max_batch):
                some = inputs[start : start + self._max_batch]
                outputs += self._handler.predict(some, params)
        except CloudAIError as error:
            if len(part) == 1:
                results[part[0][0]] = failure(error)
                return
            for member in part:
                self._predict([member], params, items, results)
            return
        start = 0
        for index, values in part:
            end = start + len(values)
            results[index] = self._result(items[index], values, outputs[start:end])
            start = end

    def _result(self, item: Item, inputs: list[Any], outputs: list[Any]) -> Result:
        result = Result(
            confidences=[value for value in map(confidence, outputs) if value is not None],
            long=sum(is_long(value, self._long) for value in inputs),
        )
        if item.accept == "application/x-npy":
            result.body, result.content_type = to_npy(outputs), item.accept
        else:
            result.outputs = [self._encode(output) for output in outputs]
        return result

    def _raw(self, item: Item) -> Result:
        body, kind = self._handler.transform(item.inputs, item.content_type, item.accept)
        return Result(body=body, content_type=kind)


def confidence(output: Any) -> float | None:
    """The confidence that an output states: its ``confidence``, ``score`` or ``probability``."""
    if isinstance(output, dict):
        for name in ("confidence", "score", "probability"):
            value = output.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
                return float(value)
    return None
