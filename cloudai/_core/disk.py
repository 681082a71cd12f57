"""Disks: a full one told as such, files that appear whole. Standard library only."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloudai.errors import StateError

# EFBIG is what a file size limit gives.
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_SQLITE: Final = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}


@contextmanager
def disk_errors(path: Path, mend: str = "") -> Generator[None]:
    """Turns a full disk, and a file that cannot be written, into StateError.

    Parameters
    ----------
    path: what is being written. mend: where else it could go, a sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _no_space(path, mend) from error
        what = error.filename or path
        raise StateError(f"{what}: {error.strerror or error}", hint=mend or None) from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") in _FULL_SQLITE:
            raise _no_space(path, mend) from error
        raise StateError(
            f"the state file {path} cannot be used ({error})", hint=mend or None
        ) from error


def _no_space(path: Path, mend: str) -> StateError:
    return StateError(f"no space is left on the disk of {path}", hint=f"Free some. {mend}".strip())


def sync_folder(folder: Path) -> None:
    """Makes a rename in the folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
