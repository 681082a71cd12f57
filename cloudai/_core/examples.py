"""Files of examples for fine-tuning, as every provider takes them: JSON Lines, one object a line.
What an example has to hold is the provider's own affair."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from cloudai._core.files.paths import here
from cloudai.errors import InvalidRequest
from cloudai.types._base import invalid, shorten

BOM: Final = b"\xef\xbb\xbf"
_HINT: Final = (
    'Such as {"messages": [{"role": "user", "content": "…"}, '
    '{"role": "assistant", "content": "…"}]}'
)


class Line(NamedTuple):
    """One example. ``where``: its place, for errors. ``plain``: no byte order mark is before it."""

    where: str
    example: dict[str, Any]
    plain: bool


def find(uri: str, field: str, mend: str) -> Path:
    """The local file that an input names; of a directory its one ``.jsonl``. Raises
    InvalidRequest; ``mend``: what to give in place of another URI."""
    path = here(uri)
    if path is None:
        raise invalid(field, uri, "is not a file of this machine", mend)
    if path.is_dir():
        found = sorted(path.glob("*.jsonl"))
        if len(found) != 1:
            raise invalid(
                field, uri, f"is a directory with {len(found)} .jsonl files", "Name the file."
            )
        path = found[0]
    if not path.is_file():
        raise invalid(field, uri, "is not a file", f"Looked at {path.absolute()}.")
    return path


def read(source: Path, field: str) -> Iterator[Line]:
    """The examples of a file; blank lines are passed over. Raises InvalidRequest with the line's
    number and the reason; ``field`` names the file in it."""
    with source.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(BOM) if number == 1 else raw
            where = f"{field}: line {number} of {source.name}"
            if number == 1 and line[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                raise InvalidRequest(
                    f"{where} is UTF-16", field=field, hint="Save the file as UTF-8"
                )
            if line.strip():
                yield Line(where, _decoded(line, where, field), line is raw)


def _decoded(line: bytes, where: str, field: str) -> dict[str, Any]:
    try:
        example = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"{where} is not UTF-8", field=field, hint="Save the file as UTF-8"
        ) from None
    except ValueError as error:
        raise InvalidRequest(
            f"{where} is not JSON: {error}",
            field=field,
            value=line[:80],
            hint="Each line is one JSON object of its own",
        ) from None
    if not isinstance(example, dict):
        raise bad(where, field, f"is {shorten(example, 40)}, not a JSON object")
    return example  # pyright: ignore[reportUnknownVariableType]


def bad(where: str, field: str, problem: str) -> InvalidRequest:
    """The error for an example that cannot be learned from."""
    return InvalidRequest(f"{where} {problem}", field=field, hint=_HINT)
