"""``pip install`` without an index: what is installed here is what there is to install."""

from __future__ import annotations

import re
import sys
from importlib import metadata


def main(argv: list[str]) -> None:
    """Refuses what pip refuses; puts nothing anywhere, since it is there."""
    wanted: list[str] = []
    hashed = "--require-hashes" in argv
    words = iter(argv[1:])
    for word in words:
        if word == "-r":
            wanted += _lines(next(words))
        elif word == "--target":
            next(words)
        elif not word.startswith("-"):
            wanted.append(word)
    for line in wanted:
        requirement = line.split(";")[0].split(" --")[0].strip()
        if hashed and ("==" not in requirement or "--hash=sha256:" not in line):
            sys.exit(
                "ERROR: In --require-hashes mode, all requirements must have their versions "
                f"pinned with == and a hash: {requirement}"
            )
        name = re.split(r"[^\w.-]", requirement)[0]
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            name = "cloudai"
        if name == "cloudai":  # it is on no index
            sys.exit(f"ERROR: No matching distribution found for {requirement}")


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        text = re.sub(r"(?m)^\s*#.*$", "", file.read()).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    main(sys.argv[1:])
