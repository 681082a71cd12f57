"""The course of a job: which state it is in at which time, from its fate alone.

Nothing runs. The state at any moment follows from when the job was submitted, its fate, its
spec's timeout and retries, and when it was cancelled; so every process sees the same.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cloudai.providers.fake._script import Fate
from cloudai.types import Retry, State

_REASONS: Final = {
    State.PARTIAL: "a part of the work failed, as scripted",
    State.FAILED: "it failed, as scripted",
    State.CANCELLED: "it was cancelled",
    State.TIMED_OUT: "it outlasted its timeout",
    State.PREEMPTED: "its machine was taken back",
    State.EXPIRED: "its window closed",
}


class Phase(msgspec.Struct, frozen=True):
    """From ``start`` on it is in ``state``; ``restarts`` so far."""

    start: float
    state: State
    restarts: int


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """A job's whole course.

    Parameters
    ----------
    phases: in order; the last one is the end.
    running: spans of time at work, each (start, end).
    whole: seconds of work in all, if nothing had cut it short.
    reason, exit_code: of the end.
    """

    phases: tuple[Phase, ...]
    running: tuple[tuple[float, float], ...]
    whole: float
    reason: str | None
    exit_code: int | None

    def at(self, now: float) -> Phase:
        """The phase at a time."""
        return next(
            (phase for phase in reversed(self.phases) if phase.start <= now), self.phases[0]
        )

    @property
    def end(self) -> Phase:
        return self.phases[-1]

    @property
    def started(self) -> float | None:
        """When the work first began; None where it never did."""
        return self.running[0][0] if self.running else None

    def moment(self, part: float) -> float | None:
        """When ``part`` (0 to 1) of the work is done; None where it was cut short before."""
        left = part * self.whole
        for start, end in self.running:
            # Unix seconds as floats are good to some 2e-7.
            if left <= end - start + 1e-6:
                return min(start + left, end)
            left -= end - start
        return None


def course(
    fate: Fate, created: float, cancelled: float | None, timeout: float | None, retry: Retry
) -> Course:
    """The course of a job with this fate that was submitted at ``created``."""
    made = _Maker(created, cancelled, timeout)
    made.pass_through(State.QUEUED, fate.queued)
    end = _work(made, fate, retry)
    if made.cut is not None:
        made.pass_through(State.STOPPING, fate.stopping, final=True)
        end = made.cut
    made.phases.append(Phase(made.now, end, made.restarts))
    return Course(
        phases=tuple(made.phases),
        running=tuple(made.running),
        whole=fate.running,
        reason=(fate.reason if end is fate.state else None) or _REASONS.get(end),
        exit_code=_exit_code(fate, end),
    )


def _work(made: _Maker, fate: Fate, retry: Retry) -> State:
    """Attempts, one after the other; gives the end that they come to."""
    interrupted = fate.preemptions
    allowed = retry.max if "preempted" in retry.on else 0
    for _ in range(min(interrupted, allowed + 1)):
        made.attempt(fate.starting, fate.running / (interrupted + 1))
        if made.restarts == allowed:
            return State.PREEMPTED
        made.restarts += 1
    again = retry.max - made.restarts if "failed" in retry.on else 0
    for attempt in range(1 + (max(again, 0) if fate.state is State.FAILED else 0)):
        made.restarts += 1 if attempt else 0
        made.attempt(fate.starting, fate.running / (interrupted + 1))
    return fate.state


def _exit_code(fate: Fate, end: State) -> int | None:
    if end is fate.state and fate.exit_code is not None:
        return fate.exit_code
    return {State.SUCCEEDED: 0, State.FAILED: 1}.get(end)


class _Maker:
    """Lays phase after phase until one is cut short by a cancel or the timeout."""

    def __init__(self, created: float, cancelled: float | None, timeout: float | None) -> None:
        self.now = created
        self.cancelled = cancelled
        self.left = timeout
        self.restarts = 0
        self.cut: State | None = None
        self.phases: list[Phase] = []
        self.running: list[tuple[float, float]] = []

    def attempt(self, starting: float, running: float) -> None:
        self.pass_through(State.STARTING, starting)
        self.pass_through(State.RUNNING, running)

    def pass_through(self, state: State, seconds: float, final: bool = False) -> None:
        if self.cut is not None and not final:
            return
        start, end = self.now, self.now + seconds
        self.phases.append(Phase(start, state, self.restarts))
        if not final:
            if state is State.RUNNING and self.left is not None:
                if seconds > self.left:
                    self.cut, end = State.TIMED_OUT, start + self.left
                self.left -= end - start
            if self.cancelled is not None and self.cancelled < end:
                self.cut, end = State.CANCELLED, max(start, self.cancelled)
        if state is State.RUNNING:
            self.running.append((start, end))
        self.now = end
