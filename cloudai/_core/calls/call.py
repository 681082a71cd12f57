"""The one path of every call: span → rate limiter → retry → adapter.

``Caller.run`` and ``Caller.arun`` differ in nothing but how they wait; all that is decided is
decided by ``RetryPolicy``, ``AdaptiveRateLimiter`` and ``CircuitBreaker``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from cloudai._core.calls import telemetry
from cloudai._core.calls.breaker import CircuitBreaker
from cloudai._core.calls.limiter import LONGEST, AdaptiveRateLimiter
from cloudai._core.calls.retry import RetryPolicy
from cloudai.errors import CallTimeout, CloudAIError, RateLimited
from cloudai.protocols import Call

T = TypeVar("T")

_NO_SPAN: AbstractContextManager[Any] = nullcontext()


@contextmanager
def multi_step_create() -> Generator[None]:
    """Around requests of one create of which each leaves something. A passing failure among
    them is ambiguous: some parts may be there, so that the ledger keeps the intent, and whoever
    destroys it has the adapter's ``discard`` remove them."""
    try:
        yield
    except CloudAIError as error:
        error.ambiguous = error.ambiguous or error.retryable
        raise


class Caller:
    """Makes the calls of one profile.

    Parameters
    ----------
    provider: named in spans and errors.
    timeout: seconds for one call, retries included, where the call itself says nothing.
    policy: when to try again.
    """

    def __init__(self, provider: str, timeout: float, policy: RetryPolicy) -> None:
        self.provider = provider
        self.timeout = timeout
        self.policy = policy
        # One a model; an operation without a model (of jobs, endpoints) has its own.
        self._limiters: dict[str, AdaptiveRateLimiter] = {}
        self.breaker = CircuitBreaker()

    def call(self, timeout: float | None = None, key: str | None = None) -> Call:
        """A call that begins now."""
        return Call(time.monotonic() + (self.timeout if timeout is None else timeout), key)

    def run(self, operation: str, function: Callable[[Call], T], call: Call, model: str = "") -> T:
        """``function(call)``, tried again by the policy. Raises CloudAIError."""
        with self.span(operation, model):
            return self.attempt(function, call, model or operation)

    def span(self, operation: str, model: str) -> AbstractContextManager[Any]:
        """Around one call of the user's, however many requests it takes."""
        if not telemetry.hooks:
            return _NO_SPAN
        return telemetry.span(operation, {"provider": self.provider, "model": model})

    def attempt(self, function: Callable[[Call], T], call: Call, quota: str) -> T:
        """``run`` without a span of its own. ``quota``: whose rate limit it falls under."""
        attempt = 0
        limiter = self._limiters.get(quota)
        while True:
            if limiter is not None:
                self._sleep(limiter, call)
            try:
                result = function(call)
            except CloudAIError as error:
                limiter = self._note(error, quota, limiter)
                wait = self._wait(error, attempt, call)
                time.sleep(wait)
                if call.late():  # a busy machine overslept: the failure says more than "too late"
                    raise
                attempt += 1
            else:
                self._done(attempt)
                return result

    async def arun(
        self,
        operation: str,
        function: Callable[[Call], Awaitable[T]],
        call: Call,
        model: str = "",
    ) -> T:
        """The async twin of ``run``."""
        with self.span(operation, model):
            return await self.aattempt(function, call, model or operation)

    async def aattempt(self, function: Callable[[Call], Awaitable[T]], call: Call, quota: str) -> T:
        """The async twin of ``attempt``."""
        attempt = 0
        limiter = self._limiters.get(quota)
        while True:
            if limiter is not None:
                wait = self._allowed(limiter.reserve, call)
                while wait:
                    await asyncio.sleep(wait)
                    wait = self._allowed(limiter.again, call)
            try:
                result = await function(call)
            except CloudAIError as error:
                limiter = self._note(error, quota, limiter)
                await asyncio.sleep(self._wait(error, attempt, call))
                if call.late():
                    raise
                attempt += 1
            else:
                self._done(attempt)
                return result

    def _note(
        self, error: CloudAIError, quota: str, limiter: AdaptiveRateLimiter | None
    ) -> AdaptiveRateLimiter | None:
        if error.provider is None:
            error.provider = self.provider
        self.breaker.failed(error)
        if isinstance(error, RateLimited):
            limiter = self._limiters.setdefault(quota, AdaptiveRateLimiter())
            limiter.limited(error.retry_after)
        return limiter

    def _wait(self, error: CloudAIError, attempt: int, call: Call) -> float:
        """Seconds before the next attempt; raises the error itself when there is none."""
        wait = self.policy.delay(error, attempt, call.deadline)
        if wait is None:
            raise error
        telemetry.logger.info(
            "%s: %s; attempt %d in %.2f s", self.provider, type(error).__name__, attempt + 2, wait
        )
        told = error.retry_after
        # The limiter is closed until the service's time, and does the waiting itself.
        held = isinstance(error, RateLimited) and told is not None and told <= LONGEST
        return 0.0 if held else wait

    def _done(self, attempt: int) -> None:
        self.policy.succeeded(retried=attempt > 0)
        self.breaker.answered()

    def _sleep(self, limiter: AdaptiveRateLimiter, call: Call) -> None:
        wait = self._allowed(limiter.reserve, call)
        while wait:
            time.sleep(wait)
            wait = self._allowed(limiter.again, call)

    def _allowed(self, place: Callable[[float], float], call: Call) -> float:
        if call.deadline is None:
            return place(math.inf)
        patience = call.deadline - time.monotonic()
        wait = place(patience)
        if wait >= patience:
            raise CallTimeout(
                f"the rate limit lets this call through only in {wait:.1f} s, after its deadline",
                provider=self.provider,
                hint="Give it a longer timeout, or send fewer calls",
            )
        return wait

    def __reduce__(self) -> Any:
        raise TypeError("a client's call path does not pickle; make a client in each process")
