"""The folder that holds the ledger, local jobs, endpoints and models."""

from __future__ import annotations

import os
from pathlib import Path

from cloudai.errors import StateError


def default_home() -> Path:
    """``CLOUDAI_HOME``, or the user's data folder for cloudai. Not yet made."""
    given = os.environ.get("CLOUDAI_HOME")
    if given:
        return Path(given).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("cloudai", appauthor=False)


def ensure(path: Path) -> Path:
    """Makes the folder, and those above it that are missing, readable by their owner alone: logs
    and inputs lie in it, whichever of its folders is made first."""
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"the folder {path} cannot be made ({error.strerror})",
            hint="Set CLOUDAI_HOME, or the profile's `home`, to a folder that can be written.",
        ) from error
    return path
