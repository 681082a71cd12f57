"""The suite's table: capability × provider × sync and async, with the gaps and their reasons."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cloudai._core.profiles.registry import CAPABILITIES

BEGIN: Final = "<!-- conformance table: begin (made by `python -m cloudai.testing.conformance`) -->"
END: Final = "<!-- conformance table: end -->"

_COLUMNS: Final = ("provider", "capability", "client", "passed", "gaps", "skipped", "failed")

Result = Mapping[str, Any]


def rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """One row for each provider, capability and client, in a fixed order."""
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for one in results:
        counts[one["provider"], one["capability"], one["mode"]][one["outcome"]] += 1
    order = {name: place for place, name in enumerate(CAPABILITIES)}
    keys = sorted(counts, key=lambda key: (key[0], order.get(key[1], 99), key[2] != "sync"))
    return [
        (*key, *(str(counts[key][kind]) for kind in ("passed", "gap", "skipped", "failed")))
        for key in keys
    ]


def notes(results: Iterable[Result]) -> list[tuple[str, str, str, str]]:
    """Each gap and skipped test once: provider, capability, test, reason."""
    found = {
        (one["provider"], one["capability"], one["test"], f"{one['outcome']}: {one['reason']}")
        for one in results
        if one["outcome"] in {"gap", "skipped"}
    }
    return sorted(found)


def text(results: Sequence[Result]) -> str:
    """The table for a terminal."""
    lines = [_COLUMNS, *rows(results)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(_COLUMNS))]
    made = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    made += [
        f"{provider} {capability}: {test}: {why}"
        for provider, capability, test, why in notes(results)
    ]
    return "\n".join(made)


def markdown(results: Sequence[Result]) -> str:
    """The table for the docs."""
    made = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    made += [f"| {' | '.join(row)} |" for row in rows(results)]
    listed = notes(results)
    if listed:
        made += [
            "",
            "| provider | capability | test | why it does not count |",
            "|---|---|---|---|",
        ]
        made += [f"| {' | '.join(cell.replace('|', '/') for cell in note)} |" for note in listed]
    return "\n".join(made)


def write(results: Sequence[Result], file: Path) -> None:
    """Writes the results: a ``.md`` gets the table, between its marks where it has them; any
    other file gets JSON."""
    if file.suffix != ".md":
        file.write_text(json.dumps(results, indent=1), encoding="utf-8")
        return
    table = f"{BEGIN}\n\n{markdown(results)}\n\n{END}"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    whole = f"{before}{table}{after}" if begin and end else f"{old}{table}\n"
    file.write_text(whole, encoding="utf-8")
