"""A line that rewrites itself on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TextIO

_WIDTH = 24

_UNSEEN = {
    **{code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))},
    # These turn the order of what is read around (Trojan Source, CVE-2021-42574).
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    ord("\r"): "\n",  # a progress bar's lines, below each other
}

_UNSEEN_JSON = {code: f"\\u{code:04x}" for code in _UNSEEN if code > 32}


def shown(text: str, stream: TextIO) -> str:
    """A text as it is written to a stream. What a model, a log or a service says may hold
    sequences that a terminal acts on, such as OSC 52, which sets the clipboard: there control
    characters are shown. Elsewhere they are data."""
    return text.translate(_UNSEEN) if stream.isatty() else text


def shown_json(text: str, stream: TextIO) -> str:
    """The same for JSON, which has escapes of its own for what is below the space."""
    return text.translate(_UNSEEN_JSON) if stream.isatty() else text


class Live:
    """The line at the bottom of a terminal, on stderr. In a pipe nothing of it is written.

    Attributes
    ----------
    on: whether there is a terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.on = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = ""

    def show(self, text: str) -> None:
        """Puts the text in the place of what was there."""
        cut = shown(text, self._stream).replace("\n", " ")[
            : max(shutil.get_terminal_size().columns - 1, 1)
        ]
        if self.on and cut != self._shown:
            self._stream.write(f"\r{cut}\x1b[K")
            self._stream.flush()
            self._shown = cut

    def clear(self) -> None:
        """Takes the line away, so that others can be written."""
        if self.on and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = ""

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()


def bar(part: float) -> str:
    """A bar of which ``part`` (0 to 1) is full, with its percentage."""
    full = round(min(max(part, 0.0), 1.0) * _WIDTH)
    return f"{'━' * full}{'╌' * (_WIDTH - full)} {part:4.0%}"


def duration(seconds: float) -> str:
    """Such as ``0:07``, ``12:34`` or ``3:00:00``."""
    whole = max(int(seconds), 0)
    hours, minutes = whole // 3600, whole // 60 % 60
    clock = f"{minutes}:{whole % 60:02}"
    return f"{hours}:{clock:0>5}" if hours else clock


def ago(moment: float | None) -> str:
    """How long ago a Unix time was, in one unit; empty for None."""
    if moment is None:
        return ""
    seconds = max(time.time() - moment, 0.0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows with their columns aligned; the first row is the head."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
