"""``python -m cloudai.testing.conformance report [PATH] [--write FILE]``: runs the suite that
stands at PATH (default ``tests/conformance``) and prints its table."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Gives pytest's exit status."""
    parser = argparse.ArgumentParser(prog="python -m cloudai.testing.conformance")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="run the suite and print its table")
    report.add_argument("path", nargs="*", default=["tests/conformance"], help="test files")
    report.add_argument("--write", metavar="FILE", help="also into FILE (.md or .json)")
    report.add_argument("--only", metavar="WORDS", help="pytest's -k")
    given = parser.parse_args(arguments)
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-rN", *given.path]
    if given.write:
        options += ["--cloudai-conformance", str(Path(given.write).absolute())]
    if given.only:
        options += ["-k", given.only]
    # In a process of its own: pytest wants to see cloudai's modules before they are imported.
    return subprocess.run([sys.executable, "-m", "pytest", *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
