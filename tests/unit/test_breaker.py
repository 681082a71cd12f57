"""The breaker: open after failures in a row, one probe at a time, closed by an answer."""

from __future__ import annotations

from cloudai._core.calls.breaker import COOL, FAILURES, CircuitBreaker
from cloudai.errors import ConnectionFailed, InvalidRequest, RateLimited, ServiceUnavailable


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_c4_one_probe_after_a_while() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES):
        assert breaker.allows()
        breaker.failed(ServiceUnavailable("down"))
    assert not breaker.allows()
    clock.now += COOL
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.failed(ConnectionFailed("still down"))
    clock.now += COOL - 1
    assert not breaker.allows()
    clock.now += 1
    assert breaker.allows()
    breaker.answered()
    assert breaker.allows()
    assert breaker.allows()


def test_c4_an_answer_of_any_kind_keeps_it_closed() -> None:
    breaker = CircuitBreaker(Clock())
    for answer in (RateLimited("slow"), InvalidRequest("bad")):
        for _ in range(FAILURES - 1):
            breaker.failed(ServiceUnavailable("down"))
        breaker.failed(answer)
    assert breaker.allows()
