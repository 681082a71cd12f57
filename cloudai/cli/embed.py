"""``cloudai embed``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cloudai.cli.context import CommandContext, command
from cloudai.errors import InvalidRequest
from cloudai.types._base import invalid

_SHOWN = 6


@command
def embed(
    session: CommandContext,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts to embed.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="A file with one text a line; - is stdin.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A logical name, or the vendor's own.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help="Shorter vectors.")] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut overlong texts rather than refuse them.")
    ] = False,
    task: Annotated[
        Literal["query", "document", "similarity", "classification", "clustering"] | None,
        typer.Option(help="What the vectors are for."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A .npy file for the vectors.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds, retries included.")] = None,
) -> None:
    """Turn texts into vectors.

    It prints a line of JSON for each, in their order. On a terminal only the first numbers of each
    are shown.
    """
    if output is not None and not output.endswith(".npy"):
        raise invalid("--output", output, "does not end in .npy")
    given = list(texts or ())
    if file is not None or not given:
        given += _lines(file or "-")
    if not given:
        raise InvalidRequest("there is no text to embed", field="texts")
    reply = session.client.embeddings.create(
        given,
        model=model,
        dimensions=dimensions,
        truncate=truncate,
        task=task,
        timeout=timeout,
    )
    if output is not None:
        import numpy as np

        with Path(output).open("wb") as target:
            np.save(target, reply.array)
    if session.json:
        about = {"model": reply.model, "provider": reply.provider, "dim": reply.dim}
        about |= {"usage": reply.usage, "cost": reply.cost}
        where = {"output": output} if output is not None else {"vectors": reply.vectors}
        session.document({**about, **where})
    elif output is not None:
        session.say(f"{output}: {len(reply)} vectors of {reply.dim}")
    elif sys.stdout.isatty():
        for text, vector in zip(given, reply.vectors, strict=True):
            numbers = " ".join(f"{value:+.4f}" for value in vector[:_SHOWN])
            session.say(f"{text[:40]:<40}  {reply.dim}: {numbers} …")
    else:
        for vector in reply.vectors:
            session.line(vector)


def _lines(file: str) -> list[str]:
    if file == "-":
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise invalid("--file", file, f"cannot be read ({error.strerror})") from None
    return [line for line in text.split("\n") if line.strip()]
