"""The learned pace: never early, soon at the service's rate, few calls in vain."""

from __future__ import annotations

import heapq

import pytest

from cloudai._core.calls.pace import FLOOR, Pace


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
    pace: Pace | None = None
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
            pace = pace or Pace(clock)
            pace.limited(about)
            told = max(told, clock.now + about)
            what = "new"
        if what in {"new", "wake"}:
            wait = 0.0
            if pace is not None:
                wait = pace.reserve() if what == "new" else pace.again()
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
    pace = Pace(clock)
    for _ in range(10):
        pace.reserve()
    clock.now += 1
    pace.limited(1.0)
    clock.now += 1
    assert pace.reserve() == 0.0
    wait = pace.reserve()
    assert wait > 0
    pace.limited(5.0)
    clock.now += wait
    late = pace.again()
    assert wait + late >= 5.0
    clock.now += late
    assert pace.again() == 0.0


def test_one_limit_met_by_many_cuts_once() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(100):
        pace.reserve()
    for _ in range(50):
        clock.now += 0.001
        pace.limited(1.0)
    # All fifty are one event: fifty calls came through in the second and what it closed for.
    assert pace._rate == pytest.approx(0.95 * 50 / 1.05, rel=0.01)


def test_without_a_retry_after_there_is_still_a_rate() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(50):
        pace.reserve()
        clock.now += 0.1
    pace.limited(None)
    assert pace._rate == pytest.approx(0.95 * 49 / 5.0)
    pace.limited(None)
    assert pace._rate == pytest.approx(0.95 * 49 / 5.0)


def test_the_rate_never_falls_to_nothing_and_grows_again() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(20):
        pace.reserve()
        pace.reserve()
        clock.now += 30
        pace.limited(20.0)
        clock.now += 20
    assert pace._rate is not None
    assert pace._rate >= FLOOR
    low = pace._rate
    clock.now += 60
    pace.reserve()
    assert pace._rate > 2 * low
