"""What a live run may cost: reckoned before each create, stopped before the budget is passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

CHEAP: Final = 0.5
"""US dollars an hour of the dearest machine that a live run asks for."""
HOLD: Final = 1.0
"""Hours for which what was made is reckoned to run at the worst: jobs have that timeout."""
CLUSTER: Final = 0.3
"""US dollars an hour of Azure ML's cluster: use one of Standard_DS3_v2."""
CALL: Final = 0.02
"""US dollars of a call of chat or embeddings at the worst; what it really cost counts after it."""


class OverBudget(Exception):
    """The next step might pass the budget; nothing was sent."""


class TooDear(Exception):
    """A machine that is not cheap, or whose price is not known; nothing was sent."""


class Meter:
    """US dollars: what is spent, and what runs.

    Parameters
    ----------
    budget: that is never passed. now: the clock, in seconds.
    """

    def __init__(self, budget: float, now: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self._now = now
        self._settled = 0.0
        self._running: list[tuple[float, float]] = []  # dollars an hour, since when

    @property
    def spent(self) -> float:
        """Until now, as far as it can be reckoned."""
        now = self._now()
        return self._settled + sum(rate * (now - since) / 3600 for rate, since in self._running)

    @property
    def worst(self) -> float:
        """What is spent once all that runs has run for its time."""
        now = self._now()
        return self._settled + sum(
            rate * max(HOLD, (now - since) / 3600) for rate, since in self._running
        )

    def begin(self, rate: float) -> None:
        """Something that costs so much an hour is about to be made. Raises OverBudget, TooDear."""
        if rate > CHEAP:
            raise TooDear(f"${rate:.2f} an hour is above ${CHEAP:.2f}: a live run asks for less")
        self._room(rate * HOLD)
        self._running.append((rate, self._now()))

    def ask(self) -> None:
        """A call is about to be made. Raises OverBudget."""
        self._room(CALL)

    def paid(self, dollars: float | None) -> None:
        """What a call has cost; an unknown price counts as the worst."""
        self._settled += CALL if dollars is None else dollars

    def settle(self) -> None:
        """All that ran is gone."""
        self._settled, self._running = self.spent, []

    def _room(self, more: float) -> None:
        if self.worst + more > self.budget:
            raise OverBudget(
                f"${self.spent:.4f} is spent, ${self.worst:.4f} at the worst; ${more:.4f} more "
                f"might pass the budget of ${self.budget:.2f}"
            )


def rate_of(plan: Any) -> float:
    """US dollars an hour of what a plan would make, from its cost; 0.0 for what is paid by the
    token, which counts as a call. Raises TooDear where the price is not known."""
    if plan.cost is None and (plan.provider, plan.capability) == ("azure", "batch"):
        return CLUSTER  # a cluster's machines are the workspace's
    if plan.cost is None:
        raise TooDear(f"{plan.provider} {plan.capability}: its price is not known")
    if "million" in plan.cost.basis:
        return 0.0
    # Of an endpoint the least is an hour, of jobs and batches the most is: their timeout is HOLD.
    return plan.cost.low if plan.capability == "endpoints" else plan.cost.high
