"""Keeps the calls of one client from running into a rate limit that it already knows.

When a 429 says when to come back, no call to the same model is sent before. After that, calls
are let through at a rate that is learned: cut at each 429, raised slowly while none comes
(additive increase, multiplicative decrease; Chiu and Jain, 1989). Until the first 429 nothing
is counted and nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

WINDOW: Final = 10.0
"""Seconds over which the rate before a 429 is measured."""
CUT: Final = 0.85
"""The new rate is this part of the rate that met the limit."""
GROWTH: Final = 0.05
"""The rate grows by this part of itself each second without a 429."""


class Pace:
    """The gate of one model. Thread-safe; one lock, held for microseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate: float | None = None
        self._next = 0.0
        self._closed_until = 0.0
        self._good: deque[float] = deque(maxlen=4096)
        self._changed = 0.0

    def reserve(self) -> float:
        """Takes the next place and gives the seconds to wait for it; 0.0 where no limit has
        been met."""
        if self._rate is None and self._closed_until == 0.0:
            return 0.0
        with self._lock:
            now = time.monotonic()
            start = max(now, self._closed_until, self._next)
            if self._rate is not None:
                self._rate *= 1 + GROWTH * max(0.0, now - self._changed)
                self._changed = max(self._changed, now)
                self._next = start + 1 / self._rate
            return start - now

    def admitted(self) -> None:
        """A call was answered: it counts towards the rate that the service does carry."""
        self._good.append(time.monotonic())

    def limited(self, retry_after: float | None) -> None:
        """A call met the limit."""
        with self._lock:
            now = time.monotonic()
            if retry_after is not None:
                self._closed_until = max(self._closed_until, now + retry_after)
            # One limit is met by many calls at once; it cuts the rate once.
            if now - self._changed < 1.0 and self._rate is not None:
                return
            carried = sum(1 for at in self._good if now - at < WINDOW)
            since = self._good[0] if self._good else now
            span = min(WINDOW, max(now - since, 1.0))
            measured = max(carried / span, 0.5)
            self._rate = CUT * (measured if self._rate is None else min(self._rate, measured))
            self._rate = max(self._rate, 0.1)
            self._changed = max(now, self._closed_until)
            self._next = max(self._next, self._closed_until)
