"""When a failed call is tried again: the one policy, for sync and async alike.

Full jitter after AWS's "Exponential Backoff and Jitter" (Brooker, 2015); a retry budget after
the token bucket of the AWS SDKs' standard retry mode. SDK retries are off everywhere, so that
attempts never multiply across layers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from cloudai.errors import CallTimeout, CloudAIError, RateLimited

BASE: Final = 0.5
"""Seconds: the first delay is drawn from 0 to this; each further range doubles."""
CAP: Final = 20.0
"""Seconds: no delay that cloudai chose itself is longer."""
BUDGET: Final = 30
"""Retries that may be under way beyond what successes have paid back: of a hundred calls that
meet an outage, at most 130 requests come."""


class Budget:
    """A bucket of retries: each takes a token, so that a service that is down is not asked
    ``retries`` times as often by a whole fleet. A retry that succeeded gives its token back; a
    call that needed none gives ``refund`` of one."""

    def __init__(self, size: float = BUDGET, refund: float = 0.2) -> None:
        self._size = size
        self._refund = refund
        self._tokens = float(size)
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def give_back(self, retried: bool) -> None:
        if self._tokens >= self._size:  # the common case, without the lock
            return
        with self._lock:
            self._tokens = min(self._size, self._tokens + (1.0 if retried else self._refund))


class RetryPolicy:
    """Decides how long to wait before the next attempt.

    Parameters
    ----------
    retries: further attempts after the first. A 429 counts only while the vendor gives no
        Retry-After: being told when to come back is no failure, and the deadline bounds it.
    budget: shared by all calls of one client.
    rng: for tests: a seeded source of randomness.
    """

    def __init__(
        self,
        retries: int,
        budget: Budget | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.retries = retries
        self.budget = budget or Budget()
        self._rng = rng

    def delay(self, error: CloudAIError, attempt: int, deadline: float | None) -> float | None:
        """Seconds before attempt ``attempt + 1`` (0 is the first); None to give up.

        A delay that would end after the deadline gives up at once: nobody gains by waiting for
        an answer that can no longer come in time.
        """
        if not error.retryable:
            return None
        told = error.retry_after
        if isinstance(error, RateLimited):
            # The vendor's limit is a matter of time, not of luck: go on until the deadline.
            if told is None and deadline is None and attempt >= self.retries:
                return None
        elif isinstance(error, CallTimeout) and told is None:
            return None  # the time that is over was the caller's own
        elif attempt >= self.retries or not self.budget.take():
            return None
        wait = self._rng() * min(CAP, BASE * 2.0 ** min(attempt, 10))
        if told is not None:
            # Never early; the jitter on top keeps a crowd from coming back in one instant.
            wait = told + min(wait, 0.1 * told + 0.05)
        if deadline is not None and time.monotonic() + wait >= deadline:
            return None
        return wait

    def succeeded(self, retried: bool = False) -> None:
        """A call was answered; ``retried``: not at its first attempt."""
        self.budget.give_back(retried)
