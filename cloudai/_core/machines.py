"""Choosing a machine by what it has: the cheapest that fits, out of a provider's dated table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from cloudai.types import Accelerator, Resources
from cloudai.types._base import invalid


class Machine(msgspec.Struct, frozen=True):
    """A row of a table.

    Parameters
    ----------
    name: in the provider's words. cpus, memory: vCPUs and GiB; 0 where the table does not tell.
    chip, chip_memory, chips: accelerator, GiB on each (None: one kind alone), and how many.
    hour: US dollars on demand; None where it is not known.
    """

    name: str
    cpus: int = 0
    memory: float = 0.0
    chip: str | None = None
    chip_memory: int | None = None
    chips: int = 0
    hour: float | None = None

    @property
    def accelerator(self) -> str:
        """As ``resources.accelerator`` writes it."""
        memory = f"-{self.chip_memory}GB" if self.chip_memory else ""
        return f"{self.chip}{memory}:{self.chips}"


def choose(
    resources: Resources, table: Sequence[Machine], *, field: str = "resources", who: str
) -> list[Machine]:
    """The machine for CPUs and memory; or, of ``accelerator`` and each of ``any_of`` that there
    is, one with exactly these. Nothing larger is taken in silence: raises InvalidRequest, naming
    what there is, where no machine fits. ``who``: the provider, in words."""
    cpus, memory = resources.cpus or 0, resources.memory or 0.0
    asked = [text for text in (resources.accelerator, *resources.any_of) if text is not None]
    if not asked:
        found = _cheapest(one for one in table if one.chip is None and _holds(one, cpus, memory))
        if found is None:
            raise invalid(
                f"{field}.cpus",
                resources.cpus,
                f"with memory={resources.memory} is more than a machine of {who}'s table has",
                "Ask for less on more nodes, or name an instance_type.",
            )
        return [found]
    made: list[Machine] = []
    for text in asked:
        wanted = Accelerator.parse(text)
        found = _cheapest(one for one in table if _has(one, wanted) and _holds(one, cpus, memory))
        if found is not None:
            made.append(found)
    if not made:
        wanted = Accelerator.parse(asked[0])
        near = [f"{one.accelerator} ({one.name})" for one in table if one.chip == wanted.name]
        kinds = sorted({one.chip for one in table if one.chip is not None})
        raise invalid(
            f"{field}.accelerator",
            asked[0],
            f"is nothing that one machine of {who} has",
            f"There are: {', '.join(near or kinds)}; or name a machine: {field}.instance_type.",
        )
    return made


def _holds(one: Machine, cpus: int, memory: float) -> bool:
    return not one.cpus or (one.cpus >= cpus and one.memory >= memory)


def _has(one: Machine, wanted: Accelerator) -> bool:
    same = one.chip_memory is None or wanted.memory in {None, one.chip_memory}
    return (one.chip, one.chips) == (wanted.name, wanted.count) and same


def _cheapest(found: Iterable[Machine]) -> Machine | None:
    """Of like ones that with a known price. Not all prices are known, and within a table fewer
    CPUs and less memory are cheaper."""
    return min(
        found,
        key=lambda one: (one.cpus, one.memory, one.hour is None, one.hour or 0.0),
        default=None,
    )


def hourly(
    machines: Iterable[tuple[str, int]], price: Callable[[str], float | None]
) -> float | None:
    """US dollars an hour of so many machines of each name; None where a price is not known."""
    total = 0.0
    for name, count in machines:
        hour = price(name)
        if hour is None:
            return None
        total += hour * count
    return round(total, 4)
