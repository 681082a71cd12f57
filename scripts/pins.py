"""Writes what the endpoint server needs, by version and hash: what is installed beside it inside
users' containers (``cloudai/_core/handlers/server_pins.txt``).

    python scripts/pins.py

It needs uv, and a package index. The names are those of the extra ``server`` and of the values
that cloudai is made of; a test holds them against ``pyproject.toml``.
"""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

NAMES = ("httptools", "msgspec", "orjson", "uvloop")
TARGET = Path(__file__).parent.parent / "cloudai" / "_core" / "handlers" / "server_pins.txt"


def main() -> None:
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += [
        "--generate-hashes",
        "--python-version",
        "3.11",
        "--universal",
        "--no-emit-index-url",
    ]
    command += ["--only-binary", ":all:", "-"]
    done = subprocess.run(
        command, input="\n".join(NAMES), capture_output=True, text=True, check=True
    )
    made = f"# Made by scripts/pins.py on {datetime.date.today()}.\n"
    TARGET.write_text(made + done.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
