"""Bodies into items and outputs into bodies, as far as the front does it: it counts and cuts,
and leaves the decoding of inputs to the workers."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import re
import struct
from collections.abc import Sequence
from itertools import accumulate, compress
from typing import Any, Final

import msgspec

from cloudai._core.handlers.portable import MARK
from cloudai.server.config import DEFAULT_BATCH, Limits
from cloudai.server.http.errors import HTTPError
from cloudai.server.workers.wire import Item, ItemKind
from cloudai.types._base import wrong_field

UNSET = msgspec.UNSET
Raw = msgspec.Raw

KINDS: Final[dict[str, ItemKind]] = {
    "application/json": "json",
    "application/jsonlines": "lines",
    "application/jsonl": "lines",
    "application/x-jsonlines": "lines",
    "application/x-ndjson": "lines",
    "text/csv": "csv",
    "application/x-npy": "npy",
    "image/png": "image",
    "image/jpeg": "image",
    "image/gif": "image",
    "image/webp": "image",
    "image/bmp": "image",
}
"""What is read, by media type; anything else is answered with 415."""

CONTAINERS: Final = 1 << 20
"""Lists and objects of one body. Each takes some 60 bytes once it is decoded, of the two or three
that it is written with."""

FEW: Final = 1 << 18
"""Values whose number need not be known before they are cut apart."""

_CHUNK: Final = 16 << 10
_MARKS: Final = bytes(set(range(256)) - set(b'[]{}",'))
_STEPS: Final = tuple((byte in b"[{") - (byte in b"]}") for byte in range(256))


class Body(msgspec.Struct):
    """The JSON objects that the routes take: cloudai's and Hugging Face's ``inputs``, Vertex's
    and KServe's ``instances``, Azure ML's ``data`` and MLflow's ``input_data``, a model
    service's ``text`` and ``texts``."""

    inputs: Raw | msgspec.UnsetType = UNSET
    instances: Raw | msgspec.UnsetType = UNSET
    data: Raw | msgspec.UnsetType = UNSET
    input_data: Raw | msgspec.UnsetType = UNSET
    text: Raw | msgspec.UnsetType = UNSET
    texts: Raw | msgspec.UnsetType = UNSET
    params: Raw | msgspec.UnsetType = UNSET
    parameters: Raw | msgspec.UnsetType = UNSET
    stream: Raw | msgspec.UnsetType = UNSET


class Lists(Body):
    """The same where ``inputs`` or ``instances`` is a list, as nearly always: its items are found
    in the one pass over the body."""

    inputs: list[Raw] | msgspec.UnsetType = UNSET  # pyright: ignore[reportIncompatibleVariableOverride]
    instances: list[Raw] | msgspec.UnsetType = UNSET  # pyright: ignore[reportIncompatibleVariableOverride]


class Table(msgspec.Struct):
    """MLflow's and Azure ML's table: rows under named columns."""

    columns: Raw
    data: Raw
    index: Raw | msgspec.UnsetType = UNSET


class Parsed(msgspec.Struct):
    """A request's inputs.

    Parameters
    ----------
    values: each input's JSON. params: a JSON object.
    key: under which the outputs are answered; None: they are the answer by themselves.
    single: True answers the one output, not a list of one.
    stream: the answer is wanted in pieces. ours: our own client asks, for a stream too where the
        model has none.
    """

    values: list[Any]
    params: bytes = b"{}"
    key: str | None = "outputs"
    single: bool = False
    stream: bool = False
    ours: bool = False


_body = msgspec.json.Decoder(Body)
_lists = msgspec.json.Decoder(Lists)
_list = msgspec.json.Decoder(list[Raw])
_table = msgspec.json.Decoder(Table)
_text = msgspec.json.Decoder(str)

_ANSWERS: Final = {"inputs": "outputs", "instances": "predictions", "texts": "predictions"}


def decode(decoder: msgspec.json.Decoder[Any], data: bytes | msgspec.Raw) -> Any:
    """Decodes, or raises HTTPError 400 saying what is wrong."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        field = wrong_field(error)
        raise HTTPError(400, f"the body cannot be read: {error}", field=field) from None


def check_depth(body: bytes, limit: int) -> None:
    """Refuses JSON that is nested deeper than ``limit``, or has too many lists and objects."""
    if _more_than(limit, body, b"[", b"{"):
        _scan(body, limit)


def elements(data: bytes | msgspec.Raw, most: int, what: str) -> list[Any]:
    """The elements of a JSON list, each as it is written. Raises HTTPError 400 for no list, and for
    more than ``most`` elements, which are counted before there is an object for each."""
    text = bytes(data)
    count = _scan(text, len(text)) + 1 if _more_than(FEW, text, b",") else 0
    if count <= most:
        found = decode(_list, data)
        count = len(found)
        if count <= most:
            return found
    raise HTTPError(400, f"{count} {what} are more than {most}")


def _more_than(most: int, body: bytes, *marks: bytes) -> bool:
    """Whether so many of the marks stand in a body. Chunk by chunk: no step keeps other threads
    waiting."""
    count = 0
    for start in range(0, len(body), _CHUNK):
        chunk = body[start : start + _CHUNK]
        count += sum(map(chunk.count, marks))
        if count > most:
            return True
    return False


def _scan(body: bytes, limit: int, level: int = 1) -> int:
    """One pass over JSON, chunk by chunk at the speed of C: the commas at this level are counted,
    1 for those of its outermost list or object. Raises HTTPError 400 as ``check_depth`` says.
    Wrong JSON is whoever decodes it to refuse: no bracket counts that stands behind what makes it
    wrong."""
    depth = start = containers = commas = 0
    within = False  # a text
    while start < len(body):
        chunk = body[start : start + _CHUNK]
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:  # its last letter belongs to the next
            chunk += body[start + _CHUNK : start + _CHUNK + 1]
        start += len(chunk)
        chunk = chunk.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _MARKS)
        texts = chunk.split(b'"')
        left = b"".join(texts[within::2])
        within ^= len(texts) % 2 == 0
        containers += left.count(b"[") + left.count(b"{")
        if containers > CONTAINERS:
            raise HTTPError(400, f"the body has more than {CONTAINERS} lists and objects")
        depths = list(accumulate(map(_STEPS.__getitem__, left), initial=depth))
        depth = depths[-1]
        if max(depths) > limit:
            raise HTTPError(400, f"the body is nested deeper than {limit} levels")
        commas += bytes(compress(left, map(level.__eq__, depths))).count(b",")
    return commas


def parse_object(body: bytes, limits: Limits, keys: Sequence[str], single: bool = False) -> Parsed:
    """The inputs of a JSON object that has one of ``keys``.

    Parameters
    ----------
    single: takes one input that is no list too, as Hugging Face's containers do.
    """
    check_depth(body, limits.depth)
    found: Any = None
    if _more_than(FEW, body, b","):
        # Before a decoder goes over all of it: the most that any list of inputs can have.
        count = _scan(body, len(body), 2)
        if count > 2 * limits.items:
            raise _too_many(count + 1, limits)
    else:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = _lists.decode(body)
    if found is None:
        found = decode(_body, body)
    for key in keys:
        raw = getattr(found, key)
        if raw is UNSET:
            continue
        params = found.params if found.params is not UNSET else found.parameters
        checked = b"{}" if params is UNSET else _params(bytes(params))
        streams = found.stream is not UNSET and bytes(found.stream) == b"true"
        if key == "text":
            if bytes(raw)[:1] != b'"':
                raise HTTPError(400, "text is not a text")
            return Parsed([raw], checked, "prediction", single=True, stream=streams)
        if type(raw) is list:
            values = raw
        else:
            rows = _table_rows if key == "input_data" else _values
            values = rows(raw, limits.items, key, single)
        if len(values) > limits.items:
            raise _too_many(len(values), limits)
        return Parsed(values, checked, _ANSWERS.get(key), stream=streams)
    raise HTTPError(400, f"the body has none of {', '.join(keys)}")


def parse_any(body: bytes, limits: Limits) -> Parsed:
    """The inputs of any JSON: an object with a known key, a list of inputs, or one input."""
    start = body.lstrip()[:1]
    if start == b"{":
        try:
            return parse_object(
                body,
                limits,
                ("instances", "inputs", "input_data", "data", "texts", "text"),
                single=True,
            )
        except HTTPError as error:
            if not error.message.startswith("the body has none of"):
                raise
        return Parsed([body], key=None, single=True)
    check_depth(body, limits.depth)
    if start == b"[":
        return Parsed(elements(body, limits.items, "inputs"), key=None)
    if not start:
        raise HTTPError(400, "the body is empty")
    return Parsed([body], key=None, single=True)


def read(
    body: bytes, limits: Limits, keys: Sequence[str] | None, accept: str
) -> tuple[Parsed, list[Item]]:
    """A JSON body as items; ``keys`` None takes any JSON, else an object with one of them. Their
    values are in the items alone."""
    parsed = parse_any(body, limits) if keys is None else parse_object(body, limits, keys)
    items = items_of(parsed, accept, limits)
    parsed.values, parsed.ours = [], body.startswith(MARK)
    return parsed, items


def items_of(parsed: Parsed, accept: str, limits: Limits) -> list[Item]:
    """The request in parts of one batch at most, so that several workers share a large one."""
    values, size = parsed.values, limits.batch or DEFAULT_BATCH
    return [
        Item(
            "json",
            b"[" + b",".join(values[start : start + size]) + b"]",
            parsed.params,
            len(values[start : start + size]),
            accept=accept,
        )
        for start in range(0, len(values), size)
    ]


def binary_item(
    body: bytes, kind: ItemKind, content_type: str, accept: str, limits: Limits
) -> Item:
    """An item of CSV, JSON Lines, NumPy's format or an image, counted."""
    if not body:
        raise HTTPError(400, "the body is empty")
    if kind == "npy":
        count = npy_rows(body)
    elif kind == "image":
        count = 1
    else:
        count = body.count(b"\n")
        if count <= 16 * limits.items:  # empty lines are none
            count = sum(1 for line in body.split(b"\n") if line.strip())
        if kind == "lines":
            check_depth(body, limits.depth)
    if count > limits.items:
        raise _too_many(count, limits)
    return Item(kind, body, count=max(1, count), content_type=content_type, accept=accept)


def npy_rows(body: bytes) -> int:
    """How many rows an array in NumPy's format has, from its header alone; refuses what is no
    such array, holds Python objects (they would be unpickled), or is cut short."""
    try:
        if body[:6] != b"\x93NUMPY" or body[6] not in (1, 2, 3):
            raise ValueError("it does not begin as one")
        wide = body[6] > 1
        (size,) = struct.unpack_from("<I" if wide else "<H", body, 8)
        start = 12 if wide else 10
        if size > 10_000:
            raise ValueError("its header is too large")
        header = ast.literal_eval(body[start : start + size].decode("latin-1").strip())
        shape, kind = header["shape"], header["descr"]
        match = re.fullmatch(r"[<>|=]?([fiub])(\d{1,2})", kind) if isinstance(kind, str) else None
        if match is None:
            raise ValueError(f"its type {kind!r} is not of plain numbers")
        if not shape or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 16:
            raise ValueError(f"its shape is {shape!r}")
        needed = int(match[2])
        for number in shape:
            needed *= number
        if needed != len(body) - start - size:
            raise ValueError(f"its shape {shape!r} needs {needed} bytes of data")
        return shape[0]
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error, IndexError,
            RecursionError, MemoryError) as error:  # fmt: skip
        raise HTTPError(400, f"the body is not an array in NumPy's format: {error}") from None


def to_csv(outputs: Sequence[bytes]) -> bytes:
    """One row an output: a list's values, or the output itself; what is nested stays JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for output in outputs:
        value = msgspec.json.decode(output)
        row: list[Any] = value if isinstance(value, list) else [value]
        writer.writerow(
            [
                msgspec.json.encode(cell).decode() if isinstance(cell, (list, dict)) else cell
                for cell in row
            ]
        )
    return text.getvalue().encode()


def _values(raw: Any, most: int, key: str, single: bool) -> list[Any]:
    data = bytes(raw)
    if data[:1] == b"[":
        return elements(data, most, "inputs")
    if not single or data == b"null":
        raise HTTPError(400, f"{key} is not a list")
    return [raw]


def _table_rows(raw: Any, most: int, key: str, single: bool) -> list[Any]:
    data = bytes(raw)
    if data[:1] != b"{":
        return _values(raw, most, key, single=True)
    table: Table = decode(_table, data)
    columns = [decode(_text, name) for name in elements(table.columns, most, "columns")]
    rows: list[Any] = []
    for number, row in enumerate(elements(table.data, most, "inputs")):
        cells = elements(row, len(columns), f"values of input_data.data[{number}]")
        if len(cells) != len(columns):
            raise HTTPError(
                400, f"input_data.data[{number}] has {len(cells)} values for {len(columns)} columns"
            )
        rows.append(msgspec.json.encode(dict(zip(columns, cells, strict=True))))
    return rows


def _params(data: bytes) -> bytes:
    if data[:1] != b"{":
        raise HTTPError(400, "params is not an object")
    return data


def _too_many(count: int, limits: Limits) -> HTTPError:
    return HTTPError(400, f"{count} inputs are more than {limits.items}")
