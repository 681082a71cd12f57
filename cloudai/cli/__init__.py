"""The command line. ``main`` is the console script ``cloudai``.

Each command is a row of data, and its module is imported only when that command runs: typer
alone takes longer to import than all of ``cloudai --help`` may take, so the overview is printed
from the rows without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cloudai.cli.commands import GROUPS, HOMES

OPTIONS = ("--profile", "-p", "--provider", "--config", "--set")
FLAGS = ("--json",)
COMPLETION = ("--install-completion", "--show-completion")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code (see ``cloudai.cli.exits``)."""
    given = list(sys.argv[1:] if argv is None else argv)
    if "_CLOUDAI_COMPLETE" in os.environ or (given and given[0] in COMPLETION):
        _run(None, given)
    elif not given or given[0] in {"--help", "-h", "help"}:
        sys.stdout.write(overview())
        sys.exit(0)
    elif given[0] == "--version":
        _run("version", given[1:])
    else:
        name, rest = _split(given)
        _run(name, rest)


def overview() -> str:
    """What ``cloudai --help`` prints."""
    width = max(len(name) for rows in GROUPS.values() for name in rows)
    lines = [
        "Usage: cloudai COMMAND [OPTIONS] [ARGUMENTS]",
        "",
        "Training jobs, endpoints, batch transform, chat and embeddings on AWS, Azure,",
        "Vertex AI and this machine.",
    ]
    for title, rows in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {summary}" for name, summary in rows.items()]
    lines += [
        "",
        "Every command takes --profile, --provider, --config, --set KEY=VALUE and --json;",
        "`cloudai COMMAND --help` tells the rest. Exit codes are in docs/cli.md.",
        "`cloudai --install-completion` sets up the shell's completion.",
        "",
    ]
    return "\n".join(lines)


def _split(given: list[str]) -> tuple[str, list[str]]:
    """The command's name, of one word or two, and its arguments. Common options may also stand
    before the command."""
    front: list[str] = []
    while given and given[0].partition("=")[0] in (*FLAGS, *OPTIONS):
        count = 1 if given[0] in FLAGS or "=" in given[0] else 2
        front, given = front + given[:count], given[count:]
    if not given:
        _refuse("a command is missing. Try: cloudai --help")
    name, rest = _named(given)
    return name, front + rest


def _named(given: list[str]) -> tuple[str, list[str]]:
    if " ".join(given[:2]) in HOMES:
        return " ".join(given[:2]), given[2:]
    if given[0] in HOMES:
        return given[0], given[1:]
    if given[0].startswith("-"):
        _refuse(f"there is no option {given[0]!r} before a command. Try: cloudai --help")
    words = {name.partition(" ")[0]: name for name in HOMES if " " in name}
    if given[0] in words and given[1:] in (["--help"], ["-h"]):
        return words[given[0]], given[1:]
    from cloudai.types._base import unknown

    wanted = " ".join(given[:2]) if given[0] in words else given[0]
    _refuse(str(unknown("command", wanted, HOMES)))


def _refuse(problem: str) -> NoReturn:
    from cloudai.cli.exits import USAGE

    sys.stderr.write(f"cloudai: {problem}\n")
    sys.exit(USAGE)


def _run(name: str | None, arguments: list[str]) -> None:
    from cloudai.cli.run import run

    run(name, arguments)
