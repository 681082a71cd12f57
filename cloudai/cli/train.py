"""``cloudai train``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloudai.cli import plans, specs, watch
from cloudai.cli.context import CommandContext, command, pair, typed
from cloudai.errors import InvalidRequest
from cloudai.types import TrainingJob

_Strings = list[str] | None


@command
def train(
    session: CommandContext,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB", help="A .toml or .json file with the fields of a TrainingJob."
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="The directory of the script.")] = None,
    entry: Annotated[str | None, typer.Option(help="The script in it.")] = None,
    name: Annotated[str | None, typer.Option(help="The job's name.")] = None,
    inputs: Annotated[
        _Strings, typer.Option("--input", metavar="NAME=PLACE", help="A named input. Repeatable.")
    ] = None,
    hyperparameters: Annotated[
        _Strings,
        typer.Option("--hp", metavar="NAME=VALUE", help="A hyperparameter, JSON. Repeatable."),
    ] = None,
    args: Annotated[
        _Strings, typer.Option("--arg", help="An argument of the script. Repeatable.")
    ] = None,
    env: Annotated[
        _Strings, typer.Option(metavar="NAME=VALUE", help="An environment variable. Repeatable.")
    ] = None,
    metrics: Annotated[
        _Strings,
        typer.Option(
            "--metric", metavar="NAME=REGEX", help="A metric to read from the log. Repeatable."
        ),
    ] = None,
    tags: Annotated[_Strings, typer.Option("--tag", metavar="NAME=VALUE", help="A tag.")] = None,
    requirements: Annotated[
        str | None, typer.Option(help="A requirements file in the source.")
    ] = None,
    framework: Annotated[
        str | None, typer.Option(help='Such as "pytorch" or "tensorflow==2.19".')
    ] = None,
    image: Annotated[str | None, typer.Option(help="A container image.")] = None,
    accelerator: Annotated[
        str | None, typer.Option(help='On each node, such as "A100-40GB:8".')
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="The provider's own machine name.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines.")] = None,
    nproc: Annotated[int | None, typer.Option(help="Processes on each machine.")] = None,
    model_dir: Annotated[
        str | None,
        typer.Option("--output", help="Where the model goes; else the provider's place."),
    ] = None,
    retry: Annotated[int | None, typer.Option(help="Restarts after a preemption.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds of running before it is stopped.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: the same key, the same job.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be sent.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Wait for its end, or print its handle.")
    ] = True,
) -> int:
    """Start a training job.

    The job is what the file says, with the options over it; paths in the file are relative to
    it. On a terminal a bar shows how far it is, if it has a metric "epoch" and a hyperparameter
    "epochs" (or "step" and "steps"); elsewhere its log goes to stderr.
    """
    fields = _beside(file, specs.table(file))
    resources = {
        "accelerator": accelerator,
        "instance_type": instance_type,
        "nodes": nodes,
        "nproc": nproc,
    }
    named = [
        dict(zip(("name", "regex"), pair("--metric", one), strict=True)) for one in metrics or ()
    ]
    options: dict[str, Any] = {
        "source": source,
        "entry": entry,
        "name": name,
        "inputs": specs.pairs("--input", inputs),
        "hyperparameters": {
            name: typed(value) for name, value in specs.pairs("--hp", hyperparameters).items()
        },
        "args": args,
        "env": specs.pairs("--env", env),
        "metrics": named,
        "tags": specs.pairs("--tag", tags),
        "requirements": requirements,
        "framework": framework,
        "image": image,
        "resources": {name: value for name, value in resources.items() if value is not None},
        "outputs": {"model": model_dir} if model_dir is not None else {},
        "retry": {"max": retry} if retry is not None else {},
        "timeout": timeout,
        "idempotency_key": key,
    }
    if image is not None and "kind" not in fields and entry is None:
        options["kind"] = "container"
    if not fields and source is None and "kind" not in options:
        raise InvalidRequest(
            "there is nothing to train",
            field="source",
            hint="Name a job file, or --source DIR and --entry FILE",
        )
    spec = specs.read(TrainingJob, specs.over(fields, options))
    if plan:
        return plans.show(session, session.client.training.plan(spec))
    job = session.client.training.submit(spec)
    if not wait:
        if session.json:
            session.document({"id": job.id})
        session.say(job.id)
        return 0
    session.note(job.id)
    status = watch.job(session, job, logs=True)
    if session.json:
        session.document({"id": job.id, "status": status})
    session.say(job.id)
    for line in watch.describe(status):
        session.say(line)
    return 0


def _beside(file: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a job file with its paths made relative to the file."""
    made = dict(fields)
    if "source" in made:
        made["source"] = specs.beside(file, made["source"])
    if isinstance(made.get("inputs"), dict):
        made["inputs"] = {
            name: {**one, "uri": specs.beside(file, one.get("uri"))}
            if isinstance(one, dict)
            else specs.beside(file, one)
            for name, one in made["inputs"].items()
        }
    if isinstance(made.get("outputs"), dict):
        made["outputs"] = {name: specs.beside(file, one) for name, one in made["outputs"].items()}
    return made
