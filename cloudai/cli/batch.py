"""``cloudai batch``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from cloudai.cli import plans, specs, watch
from cloudai.cli.context import CommandContext, command, typed
from cloudai.cli.endpoints import trained
from cloudai.errors import InvalidRequest
from cloudai.types import BatchTransform


@command
def batch(
    session: CommandContext,
    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="The input's path or URI; or a .toml file with the fields of a BatchTransform.",
        ),
    ],
    output: Annotated[
        str | None, typer.Argument(metavar="OUTPUT", help="Where the output goes.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model's directory or URI, or the handle of the job that made it."),
    ] = None,
    handler: Annotated[
        str | None, typer.Option(help="A Python file with load and predict.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The name of a running endpoint.")] = None,
    chat: Annotated[
        str | None, typer.Option(metavar="MODEL", help='A chat model; "" is the default one.')
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(metavar="MODEL", help='An embedding model; "" is the default.')
    ] = None,
    name: Annotated[str | None, typer.Option(help="The batch's name.")] = None,
    format: Annotated[
        Literal["jsonl", "csv", "text"] | None, typer.Option(help="Of the input: jsonl, csv, text.")
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="For predict or chat. Repeatable."),
    ] = None,
    join: Annotated[
        Literal["none", "input"] | None,
        typer.Option(help="input: each output line carries its input."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="A field of each input to carry beside its output.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Lines in one call of predict.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Calls under way at once.")] = None,
    on_error: Annotated[
        Literal["fail", "skip", "dead_letter"] | None,
        typer.Option(help="What a bad line does: fail, skip or dead_letter."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds of running before it is stopped.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that is there.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be sent.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Wait for its end, or print its handle.")
    ] = True,
) -> int:
    """Transform a file, line by line.

    The output is in the input's order. One that was killed goes on where it was when it is
    submitted again.
    """
    options: dict[str, Any] = {
        "input": input,
        "output": output,
        "model": trained(session, model) if model is not None else None,
        "handler": handler,
        "endpoint": endpoint,
        "chat": chat,
        "embeddings": embeddings,
        "name": name,
        "format": format,
        "params": {name: typed(value) for name, value in specs.pairs("--param", params).items()},
        "join": join,
        "key": key,
        "batch_size": batch_size,
        "concurrency": concurrency,
        "on_error": on_error,
        "timeout": timeout,
        "overwrite": overwrite or None,
    }
    fields: dict[str, Any] = {}
    if output is None:
        if not input.endswith(specs.ENDINGS):
            raise InvalidRequest("OUTPUT is missing", field="output", hint="Say where it goes")
        del options["input"]
        fields = _beside(input, specs.table(input))
    spec = specs.read(BatchTransform, specs.over(fields, options))
    if plan:
        return plans.show(session, session.client.batch.plan(spec))
    job = session.client.batch.submit(spec)
    if not wait:
        if session.json:
            session.document({"id": job.id})
        session.say(job.id)
        return 0
    session.note(job.id)
    status = watch.job(session, job)
    if session.json:
        session.document({"id": job.id, "status": status})
    session.say(job.id)
    for line in watch.describe(status):
        session.say(line)
    return 0


def _beside(file: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a batch's file with its paths made relative to the file."""
    places = ("input", "output", "model", "handler")
    return {
        name: specs.beside(file, value) if name in places else value
        for name, value in fields.items()
    }
