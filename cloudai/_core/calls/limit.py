"""Until when an answer is waited for: the whole call for a whole answer, silence for a stream."""

from __future__ import annotations

import time
from typing import Final

LARGEST: Final = 96 << 20
"""Bytes of an answer that is read whole, unpacked. The largest that is due is of some 30 MiB:
2048 vectors of 3072 numbers in base64."""
FAULT: Final = 1 << 20
"""Bytes of an error's body that are read."""
END: Final = 3600.0
"""Seconds: no streamed answer is followed for longer."""


class Limit:
    """A deadline that a stream moves on.

    Parameters
    ----------
    seconds: until the answer is there; of a stream, the longest silence.
    """

    __slots__ = ("_end", "_seconds", "_until")

    def __init__(self, seconds: float) -> None:
        now = time.monotonic()
        self._seconds = seconds
        self._until = now + seconds
        self._end = now + max(END, seconds)

    def left(self) -> float:
        """Seconds left. Raises TimeoutError when there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left

    def heard(self) -> None:
        """A stream has said something whole: from here its silence counts anew. Single bytes
        that come one by one are none."""
        self._until = min(time.monotonic() + self._seconds, self._end)
