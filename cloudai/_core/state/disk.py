"""Disks: a full one told as such, files that appear whole, and the state files of cloudai.
Standard library only: the supervisor of each job imports it."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from cloudai.errors import StateError

# EFBIG is what a file size limit gives.
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
BUSY_SECONDS: Final = 30.0
"""How long one writer of a state file waits for another."""

MEND: Final = "Make room on the disk, or set CLOUDAI_HOME (the profile's `home`) elsewhere"

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
        name = getattr(error, "sqlite_errorname", "")
        if name in _FULL_SQLITE or (name.startswith("SQLITE_IOERR") and _is_full(path)):
            raise _no_space(path, mend) from error
        raise StateError(
            f"the state file {path} cannot be used ({error})", hint=mend or None
        ) from error


def _is_full(path: Path) -> bool:
    """Whether the path's disk has no block left: SQLite then fails in several ways, also where
    it only reads, since that needs a little shared file."""
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _no_space(path: Path, mend: str) -> StateError:
    return StateError(f"no space is left on the disk of {path}", hint=mend or "Free some")


def make_database(path: Path, schema: str, version: int) -> None:
    """Makes a SQLite file in WAL mode, unless it is there: complete, in one step, readable by
    its owner alone.

    Two processes that make it in place fall over each other: the switch to WAL gives "database
    is locked" at once, whatever the busy timeout (measured: 17 of 900).
    """
    if path.exists():
        return
    part = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with closing(sqlite3.connect(part, isolation_level=None)) as db:
            os.chmod(part, 0o600)
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(f"BEGIN; {schema} PRAGMA user_version={version}; COMMIT;")
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{part}{suffix}")


@contextmanager
def database(path: Path, schema: str, version: int) -> Generator[sqlite3.Connection]:
    """A connection to a state file, which is made where there is none. One connection an
    operation makes state safe across threads and forks.

    Parameters
    ----------
    path: the file; its folder exists.
    schema: the statements that make an empty file one of ``version``, each with its semicolon.

    Raises StateError where the file cannot be used: no room on the disk, no rights, not a
    database, or written by another version.
    """
    with disk_errors(path, MEND):
        make_database(path, schema, version)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=NORMAL")
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found != version:
                raise StateError(
                    f"{path} was written by another cloudai (schema {found}, not {version})",
                    hint="Upgrade cloudai, or set CLOUDAI_HOME to another folder",
                )
            yield db


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[sqlite3.Connection]:
    """One writer at a time: all of it, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
    except BaseException:
        if db.in_transaction:  # a full disk may have ended it already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def sync_folder(folder: Path) -> None:
    """Makes a rename in the folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
