"""Chaos: mixed operations on all emulated clouds, the fake and this machine, under random faults.

::

    python -m cloudai.testing.chaos --seed 1 --operations 1000

Every operation has to end in success or in an error of ``cloudai.errors``, within its deadline.
At the end all that is in the emulated worlds has to be in the ledger, and once the ledger's
entries are destroyed nothing may be left in either. The same seed gives the same operations,
faults and outcomes, and so the same digest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import inspect
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai.errors import CloudAIError
from cloudai.testing import _chaos_worlds as worlds
from cloudai.testing._chaos_places import Fault, Place, hastened

PLACES: Final = ("aws", "azure", "vertex", "fake", "local")
TIMEOUT: Final = 20.0
"""Seconds that an operation may take, unless it is given less."""
SLACK: Final = 5.0
"""Seconds past its deadline in which an operation's last request may still end: a request that
creates something is never abandoned half-way, and the machine may be busy."""
FRESH: Final = 25
"""After so many operations at a place its clients are made anew, as other processes'."""

_PACE: Final = 0.02
"""The part of the usual waits between attempts that is waited here."""


class Event(msgspec.Struct, frozen=True):
    """One operation: its number, place, client (sync or async), name, fault and outcome;
    ``message`` is the error's, which may differ from run to run."""

    number: int
    place: str
    mode: str
    operation: str
    fault: str
    outcome: str
    message: str = ""

    def __str__(self) -> str:
        return (
            f"{self.number:5d}  {self.place:<7} {self.mode:<5} {self.operation:<16} "
            f"{self.fault:<34} {self.outcome}"
        )


class Report(msgspec.Struct, kw_only=True):
    """What a run came to.

    Parameters
    ----------
    seed: of all that was random. events: the operations, in order.
    problems: what must not be: an error that is no CloudAIError, a deadline that was passed, a
        resource that is in a world and not in the ledger, or that was left.
    made: resources that the worlds held before they were destroyed, by place.
    slowest: seconds of the slowest operation. seconds: of the whole run.
    """

    seed: int
    events: list[Event] = []
    problems: list[str] = []
    made: dict[str, int] = {}
    slowest: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def digest(self) -> str:
        """The same for runs with the same operations, faults and outcomes."""
        text = "\n".join(str(event) for event in self.events)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Run:
    """One run."""

    def __init__(self, seed: int, folder: Path, names: tuple[str, ...], timeout: float) -> None:
        self.seed = seed
        self.folder = folder
        self.timeout = timeout
        self.rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.report = Report(seed=seed)
        self.places: list[Place] = worlds.make(names, folder, seed, timeout)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Run:
        for place in self.places:
            place.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for place in self.places:
            place.close(self._runner)
            place.stop()
        self._runner.close()

    def operate(self, number: int) -> Event:
        """One random operation at a random place under a random fault."""
        rng = self.rng
        place = rng.choices(self.places, [place.weight for place in self.places])[0]
        mode = rng.choice(("sync", "async"))
        name = rng.choices(list(place.operations), list(place.operations.values()))[0]
        work = place.prepare(name, rng, number)
        fault = place.fault(work, rng)
        if place.count % FRESH == 0:
            place.close(self._runner)
        place.count += 1
        client = place.client(mode)
        deadline = fault.timeout or self.timeout
        place.inject(fault)
        started = time.monotonic()
        message = ""
        try:
            outcome = self._do(client, work.call, deadline)
        except CloudAIError as error:
            outcome, message = type(error).__name__, str(error)
        except Exception as error:  # noqa: BLE001 - to be told as what must not be
            outcome = f"UNTYPED {type(error).__name__}"
            self._problem(number, place, name, fault, f"{type(error).__name__}: {error}")
        took = time.monotonic() - started
        place.lift()
        if took > deadline * work.calls + SLACK:
            self._problem(number, place, name, fault, f"took {took:.1f} s of {deadline:g} s")
        self.report.slowest = max(self.report.slowest, took)
        event = Event(number, place.name, mode, name, str(fault), outcome, message)
        self.report.events.append(event)
        return event

    def _do(self, client: Any, call: Callable[..., Any], deadline: float) -> str:
        made: Any = call(client, deadline)
        try:
            step = next(made)
            while True:
                try:
                    waits = inspect.isawaitable(step)
                    result = self._runner.run(_awaited(step)) if waits else step
                except CloudAIError as error:
                    step = made.throw(error)
                else:
                    step = made.send(result)
        except StopIteration:
            return "ok"

    def _problem(self, number: int, place: Place, name: str, fault: Fault, text: str) -> None:
        self.report.problems.append(f"{number} {place.name} {name} under {fault}: {text}")

    def settle(self) -> None:
        """Compares the worlds with the ledger, destroys all, and looks for what is left."""
        for place in self.places:
            place.close(self._runner)
            place.settle()
            world = place.world()
            self.report.made[place.name] = len(world)
            self.report.problems += [
                f"{place.name}: {what} is in the world and not in the ledger"
                for what in sorted(world - place.known())
            ]
            self.report.problems += place.destroy()
            self.report.problems += [f"{place.name}: {what} is left" for what in place.left()]


async def _awaited(step: Any) -> Any:
    return await step


def run(
    seed: int = 1,
    operations: int = 1000,
    *,
    names: tuple[str, ...] = PLACES,
    timeout: float = TIMEOUT,
    say: Callable[[Event], object] = lambda event: None,
) -> Report:
    """Runs so many operations and gives the report.

    Parameters
    ----------
    seed: of the operations and faults. names: of ``PLACES``, where to operate.
    timeout: seconds for each operation, all its retries included. say: told each operation.
    """
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="cloudai-chaos-", ignore_cleanup_errors=True) as folder,
        _environment(Path(folder) / "home"),
        Run(seed, Path(folder), names, timeout) as made,
    ):
        for number in range(1, operations + 1):
            say(made.operate(number))
        made.settle()
    made.report.seconds = time.monotonic() - started
    return made.report


@contextlib.contextmanager
def _environment(home: Path) -> Generator[None]:
    """A home of the run's own, no settings of the user's, and the old environment at the end."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("CLOUDAI_")]:
        del os.environ[name]
    os.environ["CLOUDAI_HOME"] = str(home)
    with hastened(_PACE):
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def table(report: Report) -> str:
    """Outcomes by place, for a terminal."""
    kinds = Counter((event.place, event.outcome) for event in report.events)
    lines = ["place    outcome                    operations"]
    lines += [
        f"{place:<8} {outcome:<26} {count}" for (place, outcome), count in sorted(kinds.items())
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Gives 0 where nothing was wrong, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m cloudai.testing.chaos", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument(
        "--places", default=",".join(PLACES), help=f"of {', '.join(PLACES)}, with commas"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds an operation")
    parser.add_argument("--verbose", action="store_true", help="a line for each operation")
    given = parser.parse_args(arguments)
    names = tuple(given.places.split(","))
    if unknown := sorted(set(names) - set(PLACES)):
        parser.error(f"there is no place {', '.join(unknown)}; there are {', '.join(PLACES)}")
    out = sys.stdout.write
    report = run(
        given.seed,
        given.operations,
        names=names,
        timeout=given.timeout,
        say=lambda event: out(f"{event}  {event.message[:200]}\n") if given.verbose else None,
    )
    out(f"{table(report)}\n{len(report.events)} operations in {report.seconds:.0f} s; ")
    out(f"the slowest took {report.slowest:.1f} s\n")
    out(f"resources accounted for: {', '.join(f'{n} {c}' for n, c in report.made.items())}\n")
    out(f"seed {report.seed}: digest {report.digest}\n")
    for problem in report.problems:
        out(f"PROBLEM {problem}\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
