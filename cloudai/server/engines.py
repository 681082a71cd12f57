"""What a worker runs: the user's handler, or a text model that needs none."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cloudai._core.handlers.handler import PLACES, Handler, load_handler
from cloudai._core.handlers.jsonable import jsonable
from cloudai.errors import CloudAIError, HandlerError, InvalidRequest
from cloudai.server.wire import Item, Result
from cloudai.types._base import invalid

# What predict raises over an input that it cannot use; anything else is the handler's own fault.
_INPUT_ERRORS = frozenset(
    {
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "IndexError",
        "KeyError",
        "LookupError",
        # An input may well lead a sound model to infinity: 1e308 doubled. The log has a warning.
        "NotFinite",
        "OverflowError",
        "TypeError",
        "UnicodeDecodeError",
        "UnicodeEncodeError",
        "UnicodeError",
        "ValidationError",
        "ValueError",
        "ZeroDivisionError",
    }
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker gets told. ``device`` and ``dtype`` are for models without a handler; a
    handler finds the device in CLOUDAI_DEVICE."""

    path: str
    handler: str | None = None
    engine: str = "auto"
    device: str | None = None
    dtype: str = "auto"
    max_batch: int = 64
    long_input: int = 1000


class Engine(Protocol):
    """A loaded model. ``run`` answers each item, in order, and raises for none of them."""

    def info(self) -> dict[str, Any]: ...
    def warm(self) -> None: ...
    def run(self, items: Sequence[Item]) -> list[Result]: ...
    def stream(self, item: Item, emit: Callable[[bytes], bool]) -> Result: ...


def make_engine(options: Options) -> Engine:
    """Loads the model. Raises InvalidRequest where nothing tells how to run it, and HandlerError
    where the handler fails."""
    folder = Path(options.path)
    if options.engine in {"auto", "handler"}:
        own = any((folder / place).is_file() for place in PLACES)
        if options.handler is not None or own or options.engine == "handler":
            handler = Path(options.handler) if options.handler else None
            return HandlerEngine(load_handler(folder, handler), options)
    from cloudai.server.text_engines import make_text_engine

    return make_text_engine(folder, options)


class HandlerEngine:
    """Runs a handler. Requests of one batch with equal params become one ``predict`` call; when
    a merged call fails, each request is tried alone, so that none fails for its neighbours."""

    def __init__(self, handler: Handler, options: Options) -> None:
        self._handler = handler
        self._max_batch = options.max_batch
        self._long = options.long_input
        self._encode = msgspec.json.Encoder().encode

    def info(self) -> dict[str, Any]:
        module = self._handler.module
        return {
            "engine": "handler",
            "quick_batch": self._max_batch,
            "raw": self._handler.raw,
            "streams": self._handler.streams,
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
        groups: dict[bytes, list[tuple[int, list[Any]]]] = {}
        for index, item in enumerate(items):
            try:
                if item.kind == "raw":
                    results[index] = self._raw(item)
                else:
                    groups.setdefault(item.params, []).append((index, decode_inputs(item)))
            except CloudAIError as error:
                results[index] = failure(error)
        for params, members in groups.items():
            try:
                decoded = decode_params(params)
            except InvalidRequest as error:
                for index, _ in members:
                    results[index] = failure(error)
                continue
            for part in self._parts(members):
                self._predict(part, decoded, items, results)
        return [
            result or Result(500, error="no result", error_type="ServerError") for result in results
        ]

    def stream(self, item: Item, emit: Callable[[bytes], bool]) -> Result:
        """Sends the handler's pieces: a body's as they are, an input's as JSON; ends early when
        ``emit`` says that nobody reads any more."""
        result = Result()
        try:
            for piece in self._pieces(item, result):
                if not emit(piece):
                    break
        except CloudAIError as error:
            return failure(error)
        return result

    def _pieces(self, item: Item, result: Result) -> Iterator[bytes]:
        handler = self._handler
        if item.kind == "raw":
            yield from handler.stream_body(item.inputs, item.content_type, item.accept)
            return
        (value,) = decode_inputs(item)
        result.long = int(is_long(value, self._long))
        with contextlib.closing(handler.stream(value, decode_params(item.params))) as pieces:
            for piece in pieces:
                yield self._encode(piece)

    def _parts(self, members: list[tuple[int, list[Any]]]) -> list[list[tuple[int, list[Any]]]]:
        """The requests in calls of ``max_batch`` inputs at most."""
        parts: list[list[tuple[int, list[Any]]]] = []
        room = 0
        for member in members:
            if not parts or len(member[1]) > room:
                parts.append([])
                room = self._max_batch
            parts[-1].append(member)
            room -= len(member[1])
        return parts

    def _predict(
        self,
        part: list[tuple[int, list[Any]]],
        params: dict[str, Any],
        items: Sequence[Item],
        results: list[Result | None],
    ) -> None:
        inputs = [value for _, values in part for value in values]
        try:
            outputs = self._handler.predict(inputs, params)
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


def failure(error: CloudAIError) -> Result:
    """The answer for an error: 400 for a request that is wrong, 422 for inputs that ``predict``
    cannot use, 500 for the handler's own fault."""
    if isinstance(error, InvalidRequest):
        status = 400
    elif isinstance(error, HandlerError):
        status = 422 if error.code in _INPUT_ERRORS else 500
    else:
        status = 500
    kind = "NotFinite" if error.code == "NotFinite" else type(error).__name__
    return Result(status, error=str(error), error_type=kind)


def decode_inputs(item: Item) -> list[Any]:
    """The inputs as the handler gets them: JSON values; for CSV one list of numbers and texts a
    row, or one object where the content type says ``header=present``; for NumPy's format one
    array a row; for an image one uint8 array of height × width × channels.

    Raises InvalidRequest for what cannot be read.
    """
    try:
        if item.kind == "json":
            return msgspec.json.decode(item.inputs, type=list[Any])
        if item.kind == "lines":
            return [msgspec.json.decode(line) for line in item.inputs.split(b"\n") if line.strip()]
        if item.kind == "csv":
            return _csv(item.inputs.decode(), "header=present" in item.content_type)
        if item.kind == "npy":
            import numpy as np

            return list(np.load(io.BytesIO(item.inputs), allow_pickle=False))
        if item.kind == "image":
            return [_image(item.inputs)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("inputs", None, f"cannot be read: {error}") from None
    except Exception as error:  # noqa: BLE001 (csv, numpy and Pillow raise many kinds)
        raise invalid("inputs", None, f"cannot be read as {item.kind}: {error}") from None
    raise invalid("inputs", item.kind, "is not a kind of input that a handler takes")


def decode_params(params: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(params, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("params", None, f"cannot be read: {error}") from None


def confidence(output: Any) -> float | None:
    """The confidence that an output states: its ``confidence``, ``score`` or ``probability``."""
    if isinstance(output, dict):
        for name in ("confidence", "score", "probability"):
            value = output.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
                return float(value)
    return None


def is_long(value: Any, limit: int) -> bool:
    """Whether an input's text has more characters than ``limit``."""
    text = value.get("text") if isinstance(value, dict) else value
    return isinstance(text, str) and len(text) > limit


def to_npy(outputs: Any) -> bytes:
    """Outputs as one array in NumPy's format. Raises InvalidRequest where they are none."""
    import numpy as np

    try:
        array = outputs if isinstance(outputs, np.ndarray) else np.asarray(jsonable(outputs))
        if array.dtype.kind not in "fiub":
            raise ValueError(f"they are {array.dtype}")
    except ValueError as error:
        raise invalid(
            "accept", "application/x-npy", f"does not fit the outputs: {error}", "Ask for JSON."
        ) from None
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _csv(text: str, header: bool) -> list[Any]:
    rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    if not header:
        return [[_cell(cell) for cell in row] for row in rows]
    if not rows:
        return []
    names, *rest = rows
    for number, row in enumerate(rest, start=2):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} cells for {len(names)} names")
    return [dict(zip(names, map(_cell, row), strict=True)) for row in rest]


def _cell(cell: str) -> float | int | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    if not math.isfinite(number):
        return cell
    return int(cell) if cell.lstrip("+-").isdigit() and len(cell) < 19 else number


# A picture of a few kilobytes can claim gigabytes; 50 million pixels are 150 MB as uint8 RGB.
_MAX_PIXELS = 50_000_000


def _image(data: bytes) -> Any:
    import numpy as np
    from PIL import Image as Picture

    with Picture.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "WEBP", "BMP")) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            raise ValueError(
                f"{picture.width} × {picture.height} pixels are more than {_MAX_PIXELS}"
            )
        return np.asarray(picture.convert("L" if picture.mode in {"1", "L"} else "RGB"))
