"""Remembers that a profile fails, so that calls with somewhere else to go do not ask it each.

The circuit breaker of Nygard's "Release It!" (2007): closed while the service answers; open for
a while after failures in a row; then one call is let through as a probe, and its end decides.
Only fallbacks ask it: a call that has nowhere else to go is always sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from cloudai.errors import CallTimeout, CloudAIError, ConnectionFailed, ServiceUnavailable

FAILURES: Final = 3
"""Attempts in a row that fail before it opens."""
COOL: Final = 30.0
"""Seconds that it stays open before a probe."""

_DOWN: Final = (ServiceUnavailable, ConnectionFailed, CallTimeout)
"""Failures of the service as a whole. A 429 or a full quota is an answer."""


class CircuitBreaker:
    """One profile's. Thread-safe.

    Parameters
    ----------
    clock: for tests: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opens = 0.0  # when the next probe may go

    def allows(self) -> bool:
        """Whether a call may go. While it is open, True is the one probe: the next has to wait
        until that one's end, or as long again."""
        if self._failures < FAILURES:
            return True
        with self._lock:
            now = self._clock()
            if now < self._opens:
                return False
            self._opens = now + COOL
            return True

    def failed(self, error: CloudAIError) -> None:
        """An attempt has failed."""
        if not isinstance(error, _DOWN):
            self.answered()
            return
        with self._lock:
            self._failures += 1
            if self._failures >= FAILURES:
                self._opens = self._clock() + COOL

    def answered(self) -> None:
        """The service has answered."""
        if self._failures:  # the common case is without the lock
            with self._lock:
                self._failures = 0
