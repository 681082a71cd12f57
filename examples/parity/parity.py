"""Runs ``program.py`` on this machine and on three emulated clouds, and compares what came out.

    python examples/parity/parity.py                 # all four
    python examples/parity/parity.py local aws       # some
    python examples/parity/parity.py --write docs/testing.md

The emulators run the work for real, each by its platform's own contract, in processes of this
machine. The program reaches them over sockets, through the environment alone. It exits with 1
where two places differ in the accuracy, in the trained weights or in a single label.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACES = ("local", "aws", "azure", "vertex")
BEGIN = "<!-- parity table: begin (made by `examples/parity/parity.py --write`) -->"
END = "<!-- parity table: end -->"


@contextlib.contextmanager
def environment(place: str) -> Generator[dict[str, str]]:
    """The environment of a program that runs there: this one's, and a running emulator's."""
    made = dict(os.environ)
    if place == "local":
        yield made
        return
    from cloudai.testing import clouds

    with clouds.emulated(place, execute=True, speed=20.0) as cloud:
        clouds.apply(clouds.environment([cloud]), made.__setitem__, lambda name: made.pop(name, 0))
        yield made


def run(place: str, folder: Path, epochs: int) -> dict:
    """What the program finds at one place."""
    result = folder / f"{place}.json"
    with environment(place) as env:
        subprocess.run(
            [
                sys.executable, str(HERE / "program.py"), "--profile", place,
                "--epochs", str(epochs), "--result", str(result),
            ],
            env=env,
            check=True,
        )  # fmt: skip
    return json.loads(result.read_text())


def table(found: list[dict]) -> str:
    """The comparison, as Markdown."""
    lines = [
        "| place | last loss | endpoint | batch | weights | chat | embeddings | left | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        chat = one["chat"] if len(one["chat"]) <= 40 else f"{one['chat'][:39]}…"
        pair = " and ".join(str(number + 1) for number in one["closest"])
        lines.append(
            f"| {one['profile']} | {one['loss']:.4f} | {one['endpoint']:.4%} | {one['batch']:.4%} "
            f"| {one['weights']} | {chat} | {one['dimensions']}; {pair} alike "
            f"| {len(one['left'])} | {one['seconds']:.0f} |"
        )
    return "\n".join(lines)


def differences(found: list[dict]) -> list[str]:
    """What is not the same at all places."""
    first = found[0]
    told = [
        f"{one['profile']} and {first['profile']} differ in {name}: {one[name]} and {first[name]}"
        for one in found[1:]
        for name in ("endpoint", "batch", "loss", "weights", "labels", "closest")
        if one[name] != first[name]
    ]
    told += [
        f"{one['profile']}: the endpoint and the batch differ: {one['endpoint']}, {one['batch']}"
        for one in found
        if one["endpoint"] != one["batch"]
    ]
    return told + [f"{one['profile']} left {one['left']}" for one in found if one["left"]]


def write(text: str, file: Path) -> None:
    """Puts the table between its marks in a Markdown file."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{file} has no {BEGIN!r} with its end")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="*", default=PLACES, help=f"of {', '.join(PLACES)}")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--write", type=Path, help="a Markdown file that keeps the table")
    options = parser.parse_args()
    if unknown := sorted(set(options.places) - set(PLACES)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PLACES)}")
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        found = [run(place, Path(folder), options.epochs) for place in options.places]
    print(f"\n{table(found)}\n")
    told = differences(found)
    if told:
        sys.exit("\n".join(told))
    if options.write:
        write(table(found), options.write)
    if len(found) > 1:
        print(f"the same accuracy at {len(found)} places: {found[0]['endpoint']:.4%}")


if __name__ == "__main__":
    main()
