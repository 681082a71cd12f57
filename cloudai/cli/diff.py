"""``cloudai diff``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from cloudai.cli import batch, endpoints, specs, train
from cloudai.cli.context import CommandContext, command
from cloudai.cli.exits import OK, USAGE
from cloudai.client.compare import Comparison, Side, compare
from cloudai.types import BatchTransform, CostRange, Deployment, TrainingJob


@command
def diff(
    session: CommandContext,
    file: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="A .toml or .json file with the fields of a TrainingJob, Deployment or "
            "BatchTransform.",
        ),
    ],
    source: Annotated[str, typer.Option("--from", help="The profile, or provider, that it is on.")],
    target: Annotated[str, typer.Option("--to", help="The profile, or provider, to move it to.")],
) -> int:
    """Say what moving a job, an endpoint or a batch elsewhere would lose.

    Found out from what both providers would be sent: nothing is sent, and no credential is read.
    The exit code is that of bad input where the target refuses the spec.
    """
    found = compare(_read(file), source, target, config=session.config)
    if session.json:
        session.document({**msgspec.to_builtins(found), "ok": found.ok})
    else:
        for line in lines(found):
            session.say(line)
    for side in (found.source, found.target):
        if side.stand_ins:
            told = ", ".join(f"{name}={value}" for name, value in side.stand_ins.items())
            session.note(f"{side.name} was planned with stand-ins for keys it lacks: {told}")
    return OK if found.ok else USAGE


def _read(file: str) -> TrainingJob | Deployment | BatchTransform:
    """The spec in a file, whichever of the three it is."""
    fields = specs.table(file)
    if "variants" in fields:
        return specs.read(Deployment, endpoints._beside(file, fields))
    if "output" in fields:
        return specs.read(BatchTransform, batch._beside(file, fields))
    return specs.read(TrainingJob, train._beside(file, fields))


def lines(found: Comparison) -> list[str]:
    """The comparison for a person."""
    source, target = found.source, found.target
    made = [f"{source.name} → {target.name}: {target.plan.capability}", ""]
    made += _section("refused: to be changed first", [str(one) for one in found.refused])
    made += _section("lost", found.lost)
    made += _section(
        "to be copied", [f"{one.field}: {one.source} → {one.target}" for one in found.copies]
    )
    made += _section("gained", found.gained)
    made += _section(
        f"refused by {source.name} already", [str(one) for one in source.plan.violations]
    )
    if not (found.refused or found.lost or found.copies):
        made += ["Nothing is lost.", ""]
    rows: list[tuple[str, Any]] = [
        ("machine", lambda side: side.machine or "–"),
        ("cost", lambda side: _cost(side.cost)),
        ("sent", _operations),
    ]
    for title, told in rows:
        made.append(f"{title:<8} {source.name}: {told(source)}")
        made.append(f"{'':<8} {target.name}: {told(target)}")
    return made


def _section(title: str, items: Any) -> list[str]:
    listed = [f"  {item}" for item in items]
    return [title, *listed, ""] if listed else []


def _cost(cost: CostRange | None) -> str:
    if cost is None:
        return "not known"
    return f"${cost.low:.2f} to ${cost.high:.2f}, {cost.basis} ({cost.as_of})"


def _operations(side: Side) -> str:
    return ", ".join(dict.fromkeys(one.operation for one in side.plan.requests)) or "nothing"
