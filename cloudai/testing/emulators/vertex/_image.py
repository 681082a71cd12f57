"""What a model container's command finds here in the place of its image: a Python, and a pip.

The Python is this process's; where the image has one that cloudai does not run on, it is one of
that version, so that the command meets what it would meet there. No package is fetched: this
process's pip is covered by one that takes what is installed here for what an index has, and
refuses what pip refuses.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from cloudai._core.handlers.travel import PYTHON

_VERSION: Final = re.compile(r"[._]c?py?(3)(\d{1,2})\b")
_PIP: Final = Path(__file__).parent / "index"


def surroundings(image: str, folder: Path) -> dict[str, str]:
    """The variables of a container's command.

    Parameters
    ----------
    folder: where its Python may be put.
    """
    version = version_of(image)
    outside = os.environ.get("PATH", "")
    if version is None or version >= PYTHON:
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{outside}",
            "PYTHONPATH": str(_PIP),
        }
    place = folder / "bin"
    place.mkdir()
    found = interpreter(version)
    if found is None:
        told = f"there is no Python {version[0]}.{version[1]} here, which is what {image} runs"
        (place / "python3").write_text(f'#!/bin/sh\necho "{told}" >&2\nexit 1\n')
        (place / "python3").chmod(0o755)
    else:
        (place / "python3").symlink_to(found)
    return {"PATH": f"{place}{os.pathsep}{outside}"}


def version_of(image: str) -> tuple[int, int] | None:
    """The version of an image's Python, where its name tells it, as Google's do."""
    match = _VERSION.search(image)
    return None if match is None else (int(match[1]), int(match[2]))


def interpreter(version: tuple[int, int]) -> str | None:
    """A Python of a version on this machine, if there is one."""
    name = f"python{version[0]}.{version[1]}"
    tries = [shutil.which(name)]
    for root in (os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv")):
        if root:
            tries += sorted(glob.glob(f"{root}/versions/{version[0]}.{version[1]}.*/bin/{name}"))
    for path in filter(None, tries):
        done = subprocess.run([path, "-c", ""], capture_output=True, check=False)
        if done.returncode == 0:  # a version manager's stand-in may have none behind it
            return path
    return None
