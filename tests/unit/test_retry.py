"""The retry policy, the pace and the call path, with real clocks kept out of the decisions."""

from __future__ import annotations

import time

import pytest

from cloudai._core.calls.call import Caller
from cloudai._core.calls.retry import CAP, Budget, RetryPolicy
from cloudai.errors import (
    CallTimeout,
    CloudAIError,
    ConnectionFailed,
    InvalidRequest,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.protocols import Call


def policy(retries: int = 3, budget: Budget | None = None) -> RetryPolicy:
    return RetryPolicy(retries, budget, rng=lambda: 1.0)


def test_only_what_is_retryable_is_tried_again() -> None:
    assert policy().delay(InvalidRequest("no"), 0, None) is None
    assert policy().delay(ServiceUnavailable("down"), 0, None) == 0.5
    assert policy().delay(CallTimeout("late"), 0, None) is None


def test_delays_double_up_to_the_cap_and_end_with_the_attempts() -> None:
    down = ServiceUnavailable("down")
    many = policy(20)
    assert [many.delay(down, n, None) for n in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert many.delay(down, 19, None) == CAP
    assert policy(2).delay(down, 2, None) is None


def test_a_retry_after_is_never_cut_short() -> None:
    wait = policy().delay(RateLimited("slow", retry_after=7.0), 0, None)
    assert wait is not None
    assert 7.0 <= wait <= 8.0


def test_a_rate_limit_is_waited_out_until_the_deadline() -> None:
    limited = RateLimited("slow")
    far = time.monotonic() + 1000
    assert policy(1).delay(limited, 50, far) is not None
    assert policy(1).delay(RateLimited("slow", retry_after=50), 0, time.monotonic() + 10) is None


def test_a_wait_past_the_deadline_gives_up_at_once() -> None:
    assert policy().delay(ServiceUnavailable("down"), 0, time.monotonic() + 0.1) is None


def test_the_budget_bounds_the_retries_of_all_calls_together() -> None:
    budget = Budget(size=3, refund=0.5)
    shared = policy(10, budget)
    down = ConnectionFailed("down")
    assert [shared.delay(down, 0, None) is not None for _ in range(5)] == [True] * 3 + [False] * 2
    shared.succeeded()
    assert shared.delay(down, 0, None) is None
    shared.succeeded()
    assert shared.delay(down, 0, None) is not None


class Flaky:
    """Fails as told, then answers; counts."""

    def __init__(self, *failures: CloudAIError) -> None:
        self.failures = list(failures)
        self.times: list[float] = []

    def __call__(self, call: Call) -> str:
        self.times.append(time.monotonic())
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    async def later(self, call: Call) -> str:
        return self(call)


def caller(retries: int = 3) -> Caller:
    return Caller("test", 30.0, RetryPolicy(retries, rng=lambda: 0.02))


def test_a_call_is_tried_again_and_the_error_names_the_provider() -> None:
    path = caller()
    flaky = Flaky(ServiceUnavailable("down"), ConnectionFailed("broke"))
    assert path.run("chat", flaky, path.call()) == "answer"
    assert len(flaky.times) == 3
    with pytest.raises(InvalidRequest) as caught:
        path.run("chat", Flaky(InvalidRequest("bad")), path.call())
    assert caught.value.provider == "test"


async def test_the_async_path_decides_the_same() -> None:
    path = caller()
    flaky = Flaky(ServiceUnavailable("down"), ConnectionFailed("broke"))
    assert await path.arun("chat", flaky.later, path.call()) == "answer"
    assert len(flaky.times) == 3


def test_no_call_goes_out_before_a_retry_after_that_another_call_was_given() -> None:
    path = caller()
    limited = Flaky(RateLimited("slow", retry_after=0.3))
    began = time.monotonic()
    assert path.run("chat", limited, path.call(), "m") == "answer"
    other = Flaky()
    path.run("chat", other, path.call(), "m")
    free = Flaky()
    path.run("chat", free, path.call(), "another model")
    assert limited.times[1] - began >= 0.3
    assert other.times[0] - began >= 0.3


def test_a_limit_on_one_operation_does_not_slow_another() -> None:
    path = caller()
    began = time.monotonic()
    with pytest.raises(RateLimited):
        limited = Flaky(RateLimited("slow", retry_after=600))
        path.run("training.create", limited, path.call(60.0))
    assert path.run("training.status", Flaky(), path.call(60.0)) == "answer"
    assert time.monotonic() - began < 60.0


def test_a_limit_beyond_the_deadline_is_told_instead_of_waited_for() -> None:
    path = caller()
    with pytest.raises(RateLimited):
        path.run("chat", Flaky(RateLimited("slow", retry_after=60)), path.call(1.0), "m")
    with pytest.raises(CallTimeout, match="rate limit"):
        path.run("chat", Flaky(), path.call(1.0), "m")


def test_spans_hold_no_content() -> None:
    from contextlib import nullcontext

    import cloudai

    seen: list[tuple[str, dict[str, object]]] = []

    def hook(name: str, about: object) -> nullcontext[None]:
        seen.append((name, dict(about)))  # type: ignore[call-overload]
        return nullcontext()

    remove = cloudai.instrument(hook)
    try:
        path = caller()
        path.run("chat", Flaky(), path.call(), "m")
    finally:
        remove()
    path.run("chat", Flaky(), path.call(), "m")
    assert seen == [("chat", {"provider": "test", "model": "m"})]
