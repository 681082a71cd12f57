"""Keeps the calls of one client from running into a rate limit that it already knows.

When a 429 says when to come back, no call to the same model is sent before: not even one that
had its place already. The rate at which calls are let through afterwards is learned from what
the service carried between two limits, and from then on raised while none is met (additive
increase, multiplicative decrease; Chiu and Jain, 1989). Until the first 429 nothing is counted
and nothing waits.

What was learned is a guess, and only delays: a call that would get its place after its own
deadline takes none, and asks the service in time. So the wait that is told to a caller is never
longer than the service asked for, and a service that has recovered locks nobody out.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import Final

CUT: Final = 0.95
"""The new rate is this part of what the service carried when the limit was met."""
GROWTH: Final = 0.05
"""The rate grows by this part of itself each second without a 429."""
FLOOR: Final = 0.5
"""Calls a second: no rate is lower, whatever was measured (the AWS SDKs' adaptive mode has the
same floor: botocore's, ``retries.bucket``, read 2026-11)."""
EPISODE: Final = 1.0
"""Seconds within which 429s without a Retry-After are one event, and cut the rate once. A longer
pause between two calls that nothing held back is the caller's own, and no measure of the
service."""
LONGEST: Final = 60.0
"""Seconds: for no longer is every call held back because one was told to wait. Then another one
asks whether it still holds (a number of ours; the openai SDK 3.54 heeds none above 120 s)."""


class _Cycle:
    """From one opening of the gate to the next closing: when it began, calls sent, those of
    them that met the limit, and the rate before it was learned from."""

    __slots__ = ("opened", "rate", "refused", "sent")

    def __init__(self, opened: float, sent: int, refused: int, rate: float | None) -> None:
        self.opened = opened
        self.sent = sent
        self.refused = refused
        self.rate = rate


class AdaptiveRateLimiter:
    """The gate of one model. Thread-safe; one lock, held for microseconds.

    Parameters
    ----------
    clock: for tests: seconds that never go back. rng: for tests: from 0 to 1.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._rate: float | None = None
        self._next = 0.0
        self._closed_until = 0.0
        self._opened = self._changed = self._latest = clock()
        self._sent = 0  # since it was opened
        self._last = _Cycle(self._opened, 0, 0, None)

    def reserve(self, patience: float = math.inf) -> float:
        """Takes the next place and gives the seconds to wait for it; 0.0 where nothing stands
        in the way. After the wait, ask ``again``.

        Parameters
        ----------
        patience: seconds that the caller can wait. A longer wait is told only where the service
            itself asked for it; no place is taken then.
        """
        with self._lock:
            return self._place(self._clock(), patience)

    def again(self, patience: float = math.inf) -> float:
        """After a wait: 0.0 when the call may go, or the seconds to wait for another place,
        since the gate was closed meanwhile."""
        with self._lock:
            now = self._clock()
            if now < self._closed_until:
                return self._place(now, patience)
            self._go(now)
            return 0.0

    def _place(self, now: float, patience: float) -> float:
        start = max(now, self._closed_until)
        if self._rate is not None:
            self._rate *= 1 + GROWTH * max(0.0, now - self._changed)
            self._changed = max(self._changed, now)
            place = max(start, self._next)
            if place - now < patience:
                start = place
                self._next = place + 1 / self._rate
            elif start - now < patience:
                # Somewhere in the first half of its time, so that a crowd does not come at once.
                start += self._rng() * (patience - (start - now)) / 2
        if start > now:
            return start - now
        if now - self._latest > EPISODE:
            self._opened, self._sent = now, 0
        self._go(now)
        return 0.0

    def _go(self, now: float) -> None:
        self._latest = now
        self._sent += 1

    def limited(self, retry_after: float | None) -> None:
        """A call met the limit. ``retry_after``: seconds that the service asked to wait."""
        with self._lock:
            now = self._clock()
            until = now + min(retry_after or 0.0, LONGEST)
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
