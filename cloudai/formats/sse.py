"""Server-sent events as the services write them: each ``data:`` line is one event's whole data.

(WHATWG HTML, section 9.2, has events of several lines too; no model service writes them.)
"""

from __future__ import annotations

from typing import Final

from cloudai.errors import ProviderError

LONGEST: Final = 32 << 20
"""Bytes of one line: a picture in base64 fits."""


class Lines:
    """Cuts bytes into the payloads of ``data:`` lines, however the network cut them."""

    __slots__ = ("_rest", "_size")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads that ``piece`` completes."""
        if b"\n" not in piece:
            self._rest.append(piece)
            self._size += len(piece)
            if self._size > LONGEST:
                raise ProviderError(f"the stream has a line of more than {LONGEST >> 20} MiB")
            return []
        if self._rest:
            piece = b"".join((*self._rest, piece))
        *lines, rest = piece.split(b"\n")
        self._rest, self._size = ([rest], len(rest)) if rest else ([], 0)
        # Comments, event names and the blank lines between events say nothing here.
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    def end(self) -> list[bytes]:
        """What the last line holds, where the stream has ended without a line end."""
        return self.feed(b"\n")
