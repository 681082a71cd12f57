"""Keeps the calls of one client from running into a rate limit that it already knows.

When a 429 says when to come back, no call to the same model is sent before: not even one that
had its place already. The rate at which calls are let through afterwards is learned from what
the service carried between two limits, and from then on raised slowly while none is met
(additive increase, multiplicative decrease; Chiu and Jain, 1989). Until the first 429 nothing
is counted and nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

CUT: Final = 0.95
"""The new rate is this part of what the service carried when the limit was met."""
GROWTH: Final = 0.02
"""The rate grows by this part of itself each second without a 429."""
FLOOR: Final = 0.1
"""Calls a second: no rate is lower, whatever was measured."""
EPISODE: Final = 1.0
"""Seconds within which 429s without a Retry-After are one event, and cut the rate once."""


class _Cycle:
    """From one opening of the gate to the next closing: when it began, calls sent, those of
    them that met the limit, and the rate before it was learned from."""

    __slots__ = ("opened", "rate", "refused", "sent")

    def __init__(self, opened: float, sent: int, refused: int, rate: float | None) -> None:
        self.opened = opened
        self.sent = sent
        self.refused = refused
        self.rate = rate


class Pace:
    """The gate of one model. Thread-safe; one lock, held for microseconds.

    Parameters
    ----------
    clock: for tests: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rate: float | None = None
        self._next = 0.0
        self._closed_until = 0.0
        self._opened = self._changed = clock()
        self._sent = 0  # since then
        self._last = _Cycle(self._opened, 0, 0, None)

    def reserve(self) -> float:
        """Takes the next place and gives the seconds to wait for it; 0.0 where nothing stands
        in the way. After the wait, ask ``again``."""
        with self._lock:
            return self._place(self._clock())

    def again(self) -> float:
        """After a wait: 0.0 when the call may go, or the seconds to wait for another place,
        since the gate was closed meanwhile."""
        with self._lock:
            now = self._clock()
            if now < self._closed_until:
                return self._place(now)
            self._sent += 1
            return 0.0

    def _place(self, now: float) -> float:
        start = max(now, self._closed_until)
        if self._rate is not None:
            self._rate *= 1 + GROWTH * max(0.0, now - self._changed)
            self._changed = max(self._changed, now)
            start = max(start, self._next)
            self._next = start + 1 / self._rate
        if start <= now:
            self._sent += 1  # it goes at once; one that waits counts when it goes
            return 0.0
        return start - now

    def limited(self, retry_after: float | None) -> None:
        """A call met the limit."""
        with self._lock:
            now = self._clock()
            until = now + (retry_after or 0.0)
            if now < self._closed_until:
                # One more of the calls that were under way when the limit was met.
                self._last.refused += 1
                self._close(until)
                return
            if retry_after is None and now - self._opened < EPISODE:
                self._last.refused += 1
                return
            self._last = _Cycle(self._opened, self._sent, 1, self._rate)
            self._sent = 0
            self._close(until)

    def _close(self, until: float) -> None:
        """Closes the gate and sets the rate from the cycle that has ended, the closed part of
        it counted in: that is what the service carries in the long run."""
        self._opened = self._closed_until = max(self._closed_until, until)
        # Places that were given out stay: whoever wakes too early takes one behind them.
        self._next = max(self._next, self._opened)
        self._changed = max(self._changed, self._opened)
        last = self._last
        carried = last.sent - last.refused
        if carried < 1:
            self._rate = last.rate  # none has come through: there is nothing to learn from
            return
        measured = carried / max(self._opened - last.opened, 1e-3)
        if last.rate is not None:
            # A late 429 of the time before may be all there is: never cut to less than half.
            measured = min(last.rate, max(measured, last.rate / 2))
        self._rate = max(CUT * measured, FLOOR)

    def admitted(self) -> None:
        """A call was answered. What was sent and not refused counts already."""
