"""``cloudai rehearse spot``."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudai.cli import specs, train
from cloudai.cli.context import CommandContext, command, typed
from cloudai.cli.exits import FAILED, OK
from cloudai.types import TrainingJob

_Strings = list[str] | None


@command
def rehearse_spot(
    session: CommandContext,
    file: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="A .toml or .json file with the fields of a TrainingJob."
        ),
    ],
    seed: Annotated[int | None, typer.Option(help="Of the random step; else drawn.")] = None,
    at: Annotated[int | None, typer.Option(help="Preempt at this step instead.")] = None,
    preemptions: Annotated[int, typer.Option(help="How often.")] = 1,
    inputs: Annotated[
        _Strings, typer.Option("--input", metavar="NAME=PLACE", help="A named input. Repeatable.")
    ] = None,
    hyperparameters: Annotated[
        _Strings,
        typer.Option("--hp", metavar="NAME=VALUE", help="A hyperparameter, JSON. Repeatable."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each run of the job.")] = 3600.0,
) -> int:
    """Preempt a job here, and see that it resumes.

    The job runs on this machine, in a place of its own. At a random step all its processes are
    killed, as when a cloud takes a spot machine back, and it is started anew with the same
    CLOUDAI_CHECKPOINT_DIR. The exit code is 1 where it starts from scratch, has no checkpoint or
    does not come to its end.
    """
    from cloudai.testing.rehearse import spot

    fields = train._beside(file, specs.table(file))
    options = {
        "inputs": specs.pairs("--input", inputs),
        "hyperparameters": {
            name: typed(value) for name, value in specs.pairs("--hp", hyperparameters).items()
        },
    }
    spec = specs.read(TrainingJob, specs.over(fields, options))
    found = spot(spec, seed=seed, at=at, preemptions=preemptions, timeout=timeout, say=session.note)
    if session.json:
        session.document(found)
        return OK if found.ok else FAILED
    if not found.ok:
        for line in found.log_tail:
            session.note(f"    {line}")
        session.note(f"cloudai: {found.reason} (--seed {found.seed} repeats it)")
        return FAILED
    for count, (before, after) in enumerate(zip(found.preempted, found.resumed, strict=True), 1):
        session.say(f"preemption {count}: at {found.unit} {before:g}, resumed at {after:g}")
    session.say(f"repeated:     {found.repeated:g} {found.unit}s of {found.steps or 0:g}")
    session.say(f"checkpoints:  {', '.join(found.checkpoints)}")
    session.say(f"{found.reason}; {found.seconds:.1f} s, --seed {found.seed} repeats it")
    return OK
