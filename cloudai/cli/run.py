"""Builds the typer application for one command, or for all of them where the shell asks for
completions, and runs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from cloudai.cli.commands import GROUPS, HOMES
from cloudai.cli.exits import BROKEN_PIPE, OK

FAMILIES = {
    "local": "This machine's own models.",
    "rehearse": "What a cloud may do to a job, tried on this machine.",
}
"""The first words of commands of two words."""

_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def application(name: str | None) -> typer.Typer:
    """The application of the command ``name`` alone; None: of all commands."""
    app = typer.Typer(
        add_completion=name is None,
        rich_markup_mode=None,  # rich takes 100 ms to import, for the frames of a help text
        pretty_exceptions_enable=False,
        context_settings=_CONTEXT,
    )
    if name is None:
        families = {
            word: typer.Typer(rich_markup_mode=None, context_settings=_CONTEXT) for word in FAMILIES
        }
        for rows in GROUPS.values():
            for command in rows:
                _add(families.get(command.partition(" ")[0], app), command)
        for word, family in families.items():
            app.add_typer(family, name=word, help=FAMILIES[word])
    else:
        _add(app, name)
    return app


def run(name: str | None, arguments: list[str]) -> None:
    """Runs the command ``name`` and exits; None runs the whole application."""
    app = application(name)
    status = OK
    try:
        app(args=arguments, prog_name=f"cloudai {name}" if name else "cloudai")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else OK
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = BROKEN_PIPE
    sys.exit(status)


def _add(app: typer.Typer, name: str) -> None:
    module = importlib.import_module(f"cloudai.cli.{HOMES[name]}")
    function: Callable[..., None] = getattr(module, name.replace(" ", "_"))
    summary = next(rows[name] for rows in GROUPS.values() if name in rows)
    app.command(name.rpartition(" ")[2], short_help=summary)(function)
