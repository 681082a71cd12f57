"""The options of every command as docs/cli.md has them, from the commands themselves.

``python tests/cli/options.py`` (``make options``) writes them there; a test compares.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from cloudai.cli import GROUPS
from cloudai.cli.run import application

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN, END = "<!-- options -->", "<!-- /options -->"

# Said once, for all commands.
COMMON = {f"--{name}" for name in ("profile", "provider", "config", "set", "json", "help")}

# A value's type, which typer writes otherwise from version to version.
_TYPE = re.compile(r" (<[^>]*>|\[[^]]*\]|[A-Z]+)(?= ?/|$)")


def section(name: str) -> str:
    """A command's own options, each with its help."""
    command: Any = typer.main.get_command(application(name))
    context = command.make_context(name, [], resilient_parsing=True)
    usage = [re.sub(r"[{}]", "", piece) for piece in command.collect_usage_pieces(context)[1:]]
    lines = [f"### {name}", f"`{' '.join(('cloudai', name, *usage))}`", ""]
    for one in command.get_params(context):
        record = one.get_help_record(context)
        if record is None or not record[0].startswith("-"):
            continue
        flags = _TYPE.sub("", record[0]) if "=" not in record[0] else record[0]
        if COMMON.isdisjoint(re.findall(r"--[a-z-]+", flags)):
            help_text = re.sub(r"\s+", " ", record[1])
            lines.append(f"- `{flags}`: {help_text}")
    return "\n".join(lines if len(lines) > 3 else [*lines, "No options of its own."])


def made() -> str:
    """The whole part of the page."""
    names = [name for rows in GROUPS.values() for name in rows]
    return "\n\n".join(section(name) for name in names)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} lacks the markers {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n{made()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
