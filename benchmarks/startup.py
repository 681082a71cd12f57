"""What it takes to begin: ``import cloudai`` and the command line's ``--help``.

    python benchmarks/startup.py [--check]

Each is started in fresh processes, in turn with the bare interpreter; the best of the turns
counts, since other work on the machine only slows. ``--check`` exits with 1 where the import takes
more than 40 ms over the interpreter, or the help more than 150 ms in all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

TURNS = 30
IMPORT_MS = 40.0
HELP_MS = 150.0

COMMANDS = {
    "interpreter": ["-c", "pass"],
    "import cloudai": ["-c", "import cloudai"],
    "cloudai.Client()": ["-c", "import cloudai; cloudai.Client()"],
    "cloudai --help": ["-m", "cloudai.cli", "--help"],
    "cloudai chat --help": ["-m", "cloudai.cli", "chat", "--help"],
    "import msgspec": ["-c", "import msgspec"],
    "import typer": ["-c", "import typer"],
}


def once(arguments: list[str]) -> float:
    """Milliseconds that one process takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(options.turns):
        for name, arguments in COMMANDS.items():
            best[name] = min(best[name], once(arguments))
    over = {name: round(taken - best["interpreter"], 1) for name, taken in best.items()}
    for name, taken in best.items():
        print(f"{name:<22} {taken:7.1f} ms  {over[name]:+7.1f} over the interpreter")
    print(json.dumps({"import_ms": over["import cloudai"], "help_ms": best["cloudai --help"]}))
    if options.check:
        sys.exit(over["import cloudai"] > IMPORT_MS or best["cloudai --help"] > HELP_MS)


if __name__ == "__main__":
    main()
