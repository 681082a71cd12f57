"""A requirements file that travels alone: what it includes is put into it.

Jobs take theirs along in the source, where pip reads it. A served model's handler has no source:
its requirements go into a container as a list of lines.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloudai.types._base import invalid

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and what they say, as pip reads them (pip's "Requirements File Format": UTF-8,
or what a mark says; read 2026-11). That of UTF-32 begins with that of UTF-16."""
_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_FILE: Final = re.compile(r"^(-r|-c|--requirement|--constraint)(?:\s*=\s*|\s*)(\S.*)$")
_LOCAL: Final = re.compile(r"^(?:(?:-e|--editable)[\s=]+)?(?:[\w.,\[\]-]+\s*@\s*)?(?P<path>\S+)")
_ARCHIVES: Final = (".whl", ".tar.gz", ".zip", ".tar.bz2")


def lines(given: str, field: str = "requirements") -> list[str]:
    """What pip would read: a requirement or an option each, those of included files among them.

    Parameters
    ----------
    given: the file's path. field: of the spec, for errors.

    Raises InvalidRequest for a file that is not there or no text, and for what lies on this
    machine alone: a package's folder, a wheel, a file of constraints.
    """
    path = Path(given).expanduser()
    if not path.is_file():
        raise invalid(field, given, "is not a file", f"Looked at {path.absolute()}.")
    return list(_read(path.resolve(), field, ()))


def _read(path: Path, field: str, within: tuple[Path, ...]) -> Iterator[str]:
    if path in within:
        return  # files that include one another: pip refuses them, and once is enough
    for line in _logical(_text(path, field)):
        included = _FILE.match(line)
        if included is None:
            _check(line, path, field)
            yield line
        elif "://" in included[2]:
            yield line
        elif included[1] in {"-c", "--constraint"}:
            raise invalid(
                field, line, "does not travel: a file of constraints lies on this machine alone",
                f"Write the versions into {path.name}.",
            )  # fmt: skip
        else:
            inner = (path.parent / included[2].strip("'\"")).resolve()
            if not inner.is_file():
                raise invalid(field, line, f"of {path.name} is not a file", f"Looked at {inner}.")
            yield from _read(inner, field, (*within, path))


def _text(path: Path, field: str) -> str:
    data = path.read_bytes()
    mark, encoding = next((row for row in _MARKS if data.startswith(row[0])), (b"", "utf-8"))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise invalid(
            field, str(path), f"is no {encoding} ({error})", "Save it as UTF-8."
        ) from None


def _logical(text: str) -> Iterator[str]:
    """Lines without comments; one that ends in a backslash goes on in the next."""
    begun = ""
    for raw in text.splitlines():
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            begun += f"{raw[:-1].strip()} "
            continue
        line = _COMMENT.sub("", begun + raw).strip()
        begun = ""
        if line:
            yield line
    if begun.strip():
        yield begun.strip()


def _check(line: str, path: Path, field: str) -> None:
    """Refuses what lies on this machine alone, as pip tells it from a name: by a separator, a
    leading dot or an archive's ending."""
    found = _LOCAL.match(line)
    named = found["path"] if found is not None else ""
    if line.startswith("-") and not line.startswith(("-e", "--editable")):
        return
    local = named.startswith(("file:", ".", "/", "~")) or (
        "://" not in named and ("/" in named or named.lower().endswith(_ARCHIVES))
    )
    if local:
        raise invalid(
            field, line, f"of {path.name} lies on this machine alone",
            "Put the package beside the handler, whose neighbours travel, or name it by a URL.",
        )  # fmt: skip
