"""The learned rate: never early, soon at the service's rate, few calls in vain, nobody locked
out."""

from __future__ import annotations

import heapq

import pytest

from cloudai._core.calls.limiter import FLOOR, LONGEST, AdaptiveRateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Window:
    """A service that takes ``limit`` calls a ``period``, and says when the next one begins."""

    def __init__(self, limit: int, period: float) -> None:
        self.limit, self.period = limit, period
        self.begun, self.used = 0.0, 0

    def ask(self, now: float) -> float | None:
        if now >= self.begun + self.period:
            self.begun, self.used = now, 0
        if self.used < self.limit:
            self.used += 1
            return None
        return self.begun + self.period - now


def simulate(service: Window, calls: int, crowd: int, latency: float) -> tuple[int, float, int]:
    """Attempts, seconds, and attempts sent although a 429 had said to wait."""
    clock = Clock()
    limiter: AdaptiveRateLimiter | None = None
    begun, attempts, early, told, left = clock.now, 0, 0, 0.0, calls
    # (time, order, what): "go" sends an attempt, "wake" follows a wait, "told" hears a 429.
    events: list[tuple[float, int, str, float]] = []
    order = 0

    def push(at: float, what: str, about: float = 0.0) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (at, order, what, about))

    for _ in range(min(crowd, calls)):
        push(clock.now, "new")
    started = min(crowd, calls)
    while events:
        clock.now, _, what, about = heapq.heappop(events)
        if what == "told":
            limiter = limiter or AdaptiveRateLimiter(clock)
            limiter.limited(about)
            told = max(told, clock.now + about)
            what = "new"
        if what in {"new", "wake"}:
            wait = 0.0
            if limiter is not None:
                wait = limiter.reserve() if what == "new" else limiter.again()
            if wait:
                push(clock.now + wait, "wake")
                continue
            attempts += 1
            early += clock.now < told - 1e-9
            retry = service.ask(clock.now)
            if retry is None:
                push(clock.now + latency, "done")
            else:
                push(clock.now + 0.01, "told", max(0.0, retry - 0.01))
        elif what == "done":
            left -= 1
            if started < calls:
                started += 1
                push(clock.now, "new")
    assert left == 0
    return attempts, clock.now - begun, early


@pytest.mark.parametrize(
    ("limit", "period", "latency"),
    [(100, 1.0, 0.05), (200, 5.0, 0.05), (60, 10.0, 0.5), (10, 0.5, 0.02), (100, 1.0, 2.0)],
)
def test_a_thousand_calls_under_a_quota(limit: int, period: float, latency: float) -> None:
    attempts, seconds, early = simulate(Window(limit, period), 1000, 64, latency)
    assert early == 0
    assert attempts <= 1400
    # The crowd alone takes 1000 / 64 latencies, the quota alone 1000 / limit periods.
    assert seconds <= 1.35 * max(1000 / limit * period, 1000 / 64 * latency) + 2 * period


def test_a_place_is_given_up_when_the_gate_closes() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock)
    for _ in range(10):
        limiter.reserve()
    clock.now += 1
    limiter.limited(1.0)
    clock.now += 1
    assert limiter.reserve() == 0.0
    wait = limiter.reserve()
    assert wait > 0
    limiter.limited(5.0)
    clock.now += wait
    late = limiter.again()
    assert wait + late >= 5.0
    clock.now += late
    assert limiter.again() == 0.0


def test_one_limit_met_by_many_cuts_once() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock)
    for _ in range(100):
        limiter.reserve()
    for _ in range(50):
        clock.now += 0.001
        limiter.limited(1.0)
    # All fifty are one event: fifty calls came through in the second and what it closed for.
    assert limiter._rate == pytest.approx(0.95 * 50 / 1.05, rel=0.01)


def test_without_a_retry_after_there_is_still_a_rate() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock)
    for _ in range(50):
        limiter.reserve()
        clock.now += 0.1
    limiter.limited(None)
    assert limiter._rate == pytest.approx(0.95 * 49 / 5.0)
    limiter.limited(None)
    assert limiter._rate == pytest.approx(0.95 * 49 / 5.0)


def test_the_rate_never_falls_to_nothing_and_grows_again() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock)
    for _ in range(20):
        limiter.reserve()
        limiter.reserve()
        clock.now += 30
        limiter.limited(20.0)
        clock.now += 20
    assert limiter._rate is not None
    assert limiter._rate >= FLOOR
    low = limiter._rate
    clock.now += 60
    limiter.reserve()
    assert limiter._rate > 2 * low


def test_c1_calls_that_came_seldom_are_no_measure_of_the_service() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock)
    for _ in range(4):  # a call every six seconds, each met by one 429 with Retry-After: 1
        assert limiter.reserve(5.0) == 0.0
        limiter.limited(1.0)
        wait = limiter.reserve(5.0)
        assert wait == pytest.approx(1.0)
        clock.now += wait
        assert limiter.again(4.0) == 0.0
        clock.now += 5
    for _ in range(25):  # then the service is well, and a call comes each second
        assert limiter.reserve(5.0) == 0.0
        clock.now += 1


def test_c1_a_guess_never_outlasts_the_callers_time() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock, rng=lambda: 1.0)
    limiter.reserve()
    limiter.reserve()
    clock.now += 0.5
    limiter.limited(1.0)  # one of two came through: the rate is low
    waits = [limiter.reserve(5.0) for _ in range(25)]
    assert all(1.0 <= wait < 5.0 for wait in waits)
    assert waits[-1] == 1.0 + (5.0 - 1.0) / 2  # no place left: in time all the same
    # Who cannot wait as long as the service asked is told so, and takes no place.
    before = limiter.reserve(100.0)
    assert limiter.reserve(0.5) >= 0.5
    assert limiter.reserve(100.0) - before == pytest.approx(1 / limiter._rate, rel=0.1)


def test_c1_one_long_retry_after_does_not_close_the_gate_for_good() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock)
    limiter.reserve()
    limiter.limited(86_400.0)
    assert limiter.reserve(5.0) == LONGEST
