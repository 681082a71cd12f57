"""``cloudai serve``: the endpoint server in the foreground, without a provider or a ledger."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cloudai.cli.session import Session, command
from cloudai.types._base import invalid


@command
def serve(
    session: Session,
    model: Annotated[str, typer.Argument(help="A model's directory.")],
    handler: Annotated[
        str | None, typer.Option(help="A Python file with load and predict.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="0 picks a free one.  [default: 8080]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; else one a core.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:0.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Inputs in one call of predict.")] = None,
) -> None:
    """Serve a model directory over HTTP, in the foreground.

    Ctrl-C ends it. It writes its own log to stderr. Callers have to send the token in
    CLOUDAI_SERVER_TOKEN, if that is set.
    """
    if not Path(model).is_dir():
        raise invalid("model", model, "is not a directory", "Give the directory of a model.")
    if handler is not None and not Path(handler).is_file():
        raise invalid("handler", handler, "is not a file", "Give the path of its file.")
    arguments = [sys.executable, "-m", "cloudai.server", "--model", f"model={model}"]
    for name, value in (
        ("--handler", handler),
        ("--host", host),
        ("--port", port),
        ("--workers", workers),
        ("--device", device),
        ("--max-batch", max_batch),
    ):
        if value is not None:
            arguments += [name, str(value)]
    sys.stdout.flush()
    # It takes this process's place, so that signals and the exit code are the server's own.
    os.execv(sys.executable, arguments)  # noqa: S606
