"""The formats of a batch: JSON Lines, CSV and plain text in; JSON Lines and CSV out.

Reading streams, in memory bounded by the longest line. A byte order mark at the beginning is
passed over and none is ever written; lines end in LF or CRLF; the last one may lack its end.
Empty lines are no records in JSON Lines and CSV; in text each is the record ``""``, so that the
lines of the input and the output stay abreast.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from cloudai.errors import InvalidRequest, StateError
from cloudai.types import BatchFormat
from cloudai.types._base import invalid, shorten

_BOM: Final = b"\xef\xbb\xbf"
_BLOCK: Final = 1 << 20
_ENDINGS: Final[dict[str, BatchFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "text",
}

Raw = Any
"""A record as it was read: bytes, a list of texts (CSV), or a count of bytes (too long)."""


def format_of(path: Path, given: BatchFormat | None) -> BatchFormat:
    """The input's format. Raises InvalidRequest where neither the spec nor the name tells."""
    if given is not None:
        return given
    found = _ENDINGS.get(path.suffix.lower())
    if found is None:
        raise invalid(
            "format",
            None,
            f"is not given, and the name {path.name!r} does not tell it",
            'Say format="jsonl", "csv" or "text".',
        )
    return found


class Source:
    """An input file: its records by number, and how each is decoded.

    Parameters
    ----------
    path: the file. format: of it. max_payload: bytes of one line at most.
    """

    def __init__(self, path: Path, format: BatchFormat, max_payload: int) -> None:
        self.path = path
        self.format = format
        self.max_payload = max_payload
        self._header: list[str] = []
        self._json = msgspec.json.Decoder[Any](Any).decode

    def digest(self) -> tuple[str, int | None]:
        """A digest of the content, and the number of records where counting is cheap: an upper
        bound for JSON Lines with empty lines in it; None for CSV with quoted cells."""
        whole = hashlib.blake2b(digest_size=32)
        lines, last, quoted = 0, b"", False
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK):
                whole.update(block)
                lines += block.count(b"\n")
                quoted = quoted or b'"' in block
                last = block[-1:]
        lines += last not in (b"", b"\n")
        if self.format == "csv":
            return whole.hexdigest(), None if quoted else max(0, lines - 1)
        return whole.hexdigest(), lines

    def records(self) -> Iterator[tuple[int, Raw]]:
        """Each record with the number of its line, from 1. Raises InvalidRequest where the file
        as a whole cannot be read in its format."""
        if self.format == "csv":
            return self._rows()
        return self._lines(keep_empty=self.format == "text")

    def _lines(self, keep_empty: bool) -> Iterator[tuple[int, Raw]]:
        limit = self.max_payload + 2  # the line's end does not count
        with self.path.open("rb") as file:
            if file.read(3) != _BOM:
                file.seek(0)
            number = 0
            while raw := file.readline(limit):
                number += 1
                if len(raw) >= limit and not raw.endswith(b"\n"):
                    yield number, len(raw) + _skip(file)
                    continue
                line = raw.rstrip(b"\r\n")
                if len(line) > self.max_payload:
                    yield number, len(line)
                elif keep_empty or not (not line or line.isspace()):
                    yield number, line

    def _rows(self) -> Iterator[tuple[int, Raw]]:
        csv.field_size_limit(max(csv.field_size_limit(), self.max_payload))
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                self._header = next(reader, [])
                repeated = {name for name in self._header if self._header.count(name) > 1}
                if repeated:
                    raise invalid(
                        "input",
                        sorted(repeated),
                        f"are columns that {self.path.name} names twice",
                        "Rename them in the header line.",
                    )
                for row in reader:
                    if row:
                        yield reader.line_num, row
            except (csv.Error, UnicodeDecodeError) as error:
                raise InvalidRequest(
                    f"{self.path.name}, about line {reader.line_num + 1}: not CSV in UTF-8 "
                    f"({error})",
                    field="input",
                    hint="Save it as CSV with commas, double quotes and UTF-8.",
                ) from None

    def decode(self, raw: Raw) -> Any:
        """The record's value. Raises InvalidRequest for one that is not what the format says."""
        if isinstance(raw, int):
            raise InvalidRequest(
                f"the line has {raw} bytes, and max_payload is {self.max_payload}",
                field="max_payload",
                value=self.max_payload,
                hint="Raise max_payload, or shorten the line.",
            )
        if isinstance(raw, list):
            return self._row(raw)
        if self.format == "jsonl":
            try:
                return self._json(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidRequest(
                    f"not JSON: {error} in {shorten(raw.decode('utf-8', 'replace'))}",
                    field="input",
                    hint="Each line is one JSON value of its own.",
                ) from None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"not UTF-8: {error.reason}", field="input") from None

    def _row(self, row: list[str]) -> dict[str, str]:
        if len(row) != len(self._header):
            raise InvalidRequest(
                f"the row has {len(row)} cells, and the header has {len(self._header)}",
                field="input",
                hint="Quote cells that hold commas.",
            )
        length = sum(map(len, row))
        if length > self.max_payload:
            return self.decode(length)
        return dict(zip(self._header, row, strict=True))

    def as_read(self, raw: Raw) -> Any:
        """The record as far as it can be shown: for the file of errors."""
        if isinstance(raw, int):
            return None
        try:
            return self.decode(raw)
        except InvalidRequest:
            return raw if isinstance(raw, list) else raw.decode("utf-8", "replace")


def _skip(file: IO[bytes]) -> int:
    """Reads to the end of the line; gives the bytes passed over, without that end."""
    passed = 0
    while block := file.readline(_BLOCK):
        passed += len(block.rstrip(b"\r\n"))
        if block.endswith(b"\n"):
            break
    return passed


def write_jsonl(file: IO[bytes], blocks: Iterable[bytes]) -> None:
    """Writes blocks of whole JSON lines."""
    for block in blocks:
        file.write(block)


def write_csv(file: IO[bytes], blocks: Callable[[], Iterable[bytes]]) -> None:
    """Writes JSON lines as CSV: an object's fields are columns (all that occur, in the order
    they first do), any other value the one column ``output``; a null is a row of empty cells,
    inner objects and lists are JSON texts. Reads the blocks twice."""
    decode = msgspec.json.Decoder[Any](Any).decode_lines
    columns: dict[str, None] = {}
    plain = False
    for block in blocks():
        for value in decode(block):
            if isinstance(value, dict):
                columns.update(dict.fromkeys(value))
            elif value is not None:
                plain = True
    if plain or not columns:
        columns["output"] = None
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for block in blocks():
            for value in decode(block):
                row = value if isinstance(value, dict) else {"output": value}
                # A lone empty cell is quoted by the writer, so that it is not an empty line.
                writer.writerow([_cell(row.get(name)) for name in columns])
    except csv.Error as error:
        raise StateError(f"the output cannot be written as CSV ({error})") from error
    finally:
        text.detach()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
