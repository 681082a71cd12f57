"""From tokens to text, piece by piece: whole characters only, and nothing past a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_BROKEN: Final = "\ufffd"
_HOLD: Final = 16
"""Tokens held back at most for an incomplete character; one has at most four bytes, so more
than this are bytes that never become one."""


class TextDecoder:
    """Decodes a growing list of tokens. A character whose bytes are spread over several tokens
    comes out once it is whole.

    Parameters
    ----------
    decode: gives the text of a list of tokens.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0
        self._read = 0

    def push(self, ids: Sequence[int]) -> str:
        """Takes further tokens; gives the text that is certain now."""
        self._ids.extend(ids)
        # The tokens before the new ones are decoded along: many tokenizers write the space
        # before a word only where something stands before it.
        before, now = self._both()
        if now.endswith(_BROKEN) and len(self._ids) - self._read < _HOLD:
            return ""
        if len(now) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """The text that was held back, with U+FFFD for a character that stayed incomplete."""
        before, now = self._both()
        self._start = self._read = len(self._ids)
        return now[len(before) :]

    def _both(self) -> tuple[str, str]:
        return (
            self._decode(self._ids[self._start : self._read]),
            self._decode(self._ids[self._start :]),
        )


class StopFilter:
    """Passes text on until a stop sequence; holds back what may be the beginning of one.

    Parameters
    ----------
    stops: the sequences; none of them ever comes out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Takes further text; gives what is certain not to belong to a stop sequence. After a
        stop, ``stopped`` is True and nothing more comes out."""
        if self.stopped or not text:
            return ""
        if not self._stops:
            return text
        held = self._held + text
        found = [at for at in (held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return held[: min(found)]
        keep = max(overlap(held, stop) for stop in self._stops)
        cut = len(held) - keep
        self._held = held[cut:]
        return held[:cut]

    def finish(self) -> str:
        """What was held back and turned out to be no stop sequence."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` begin ``stop``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
