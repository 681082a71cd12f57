"""The snapshot of a job's source."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Final

from cloudai.types._base import invalid

ALWAYS_IGNORED: Final = (
    ".git",
    "__pycache__",
    "*.pyc",
    ".venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    ".DS_Store",
)


def ignored(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the glob patterns covers a path (relative, with ``/``). A pattern without
    ``/`` matches a name at any depth; what lies in an ignored directory is never looked at."""
    name = PurePosixPath(path).name
    for pattern in patterns:
        bare = pattern.strip("/").removeprefix("./")
        if fnmatch(path, bare) or ("/" not in bare and fnmatch(name, bare)):
            return True
    return False


def snapshot(source: Path, target: Path, ignore: Iterable[str], home: Path) -> None:
    """Copies the source. Links are followed; a link in a circle is an error, one to nowhere is
    left out. ``home``, where jobs live, is never copied, should it lie inside."""
    patterns = (*ALWAYS_IGNORED, *ignore)
    inside = home.resolve()
    root = source.resolve()

    def copy(here: Path, there: Path, within: tuple[str, ...]) -> None:
        real = os.path.realpath(here)
        if real in within:
            raise invalid("source", str(here), "is a link in a circle", "Add it to ignore.")
        there.mkdir()
        with os.scandir(here) as entries:
            for entry in entries:
                path = Path(entry.path)
                if ignored(path.relative_to(source).as_posix(), patterns):
                    continue
                if entry.is_dir():
                    if path.resolve() != inside:
                        copy(path, there / entry.name, (*within, real))
                elif entry.is_file():
                    shutil.copy2(path, there / entry.name)

    if inside == root:
        raise invalid("source", str(source), "is cloudai's own home", "Use another folder.")
    copy(source, target, ())
