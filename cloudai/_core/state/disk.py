"""Disks: a full one told as such, files that appear whole, and the state files of cloudai.
Standard library only: the supervisor of each job imports it."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from cloudai.errors import StateError

# EFBIG is what a file size limit gives.
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
BUSY_SECONDS: Final = 30.0
"""How long one writer of a state file waits for another."""

MEND: Final = "Make room on the disk, or set CLOUDAI_HOME (the profile's `home`) elsewhere"

_FULL_SQLITE: Final = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}
_BUSY: Final = {"SQLITE_BUSY", "SQLITE_LOCKED"}
_BROKEN: Final = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}
_ELSEWHERE: Final = "Mend its rights, or set CLOUDAI_HOME (the profile's `home`) elsewhere"


@contextmanager
def disk_errors(path: Path, mend: str = "") -> Generator[None]:
    """Turns a full disk, and a file that cannot be written or read, into StateError.

    Parameters
    ----------
    path: what is being written. mend: where else it could go when there is no room, a sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _no_space(path, mend) from error
        what = error.filename or path
        denied = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
        hint = _ELSEWHERE if denied and mend else None
        raise StateError(f"{what}: {error.strerror or error}", hint=hint) from error
    except sqlite3.Error as error:
        raise _sqlite_error(error, path, mend) from error


def _sqlite_error(error: sqlite3.Error, path: Path, mend: str) -> StateError:
    name = getattr(error, "sqlite_errorname", "")
    primary = "_".join(name.split("_")[:2])
    if name in _FULL_SQLITE or (name.startswith("SQLITE_IOERR") and _is_full(path)):
        return _no_space(path, mend)
    if primary in _BUSY:
        return StateError(
            f"another process holds {path} (waited {BUSY_SECONDS:.0f} s)",
            hint=f"Wait for it, or see who it is: fuser {path}",
        )
    if primary in _BROKEN:
        return StateError(
            f"{path} is no SQLite file, or a damaged one ({error})",
            hint="Move it away, or set CLOUDAI_HOME to another folder; what was made stays at "
            "its provider",
        )
    hint = (mend or None) if primary == "SQLITE_IOERR" else _ELSEWHERE
    return StateError(f"the state file {path} cannot be used ({error})", hint=hint)


def _is_full(path: Path) -> bool:
    """Whether the path's disk has no block left: SQLite then fails in several ways, also where
    it only reads, since that needs a little shared file."""
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _no_space(path: Path, mend: str) -> StateError:
    return StateError(f"no space is left on the disk of {path}", hint=mend or "Free some")


def make_database(path: Path, migrations: Sequence[str]) -> None:
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
            db.executescript(
                f"BEGIN; {' '.join(migrations)} PRAGMA user_version={len(migrations)}; COMMIT;"
            )
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{part}{suffix}")


def migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Brings a file of an earlier version up to this one, in one transaction. Raises StateError
    for a file of a later version, and for one without any table."""

    def version() -> int:
        return db.execute("PRAGMA user_version").fetchone()[0]

    if version() == len(migrations):
        return
    with transaction(db):
        found = version()  # another process may have done it meanwhile
        if found > len(migrations):
            raise StateError(
                f"{path} was written by a newer cloudai "
                f"(schema {found}; this one knows up to {len(migrations)})",
                hint="Upgrade cloudai, or move the file away and begin anew (CLOUDAI_HOME names "
                "another folder)",
            )
        if not found:
            raise StateError(
                f"{path} is empty: it holds no table of cloudai",
                hint="Put it back from a copy, or remove it and begin anew; what was made stays "
                "at its provider",
            )
        for statements in migrations[found:]:
            for statement in filter(str.strip, statements.split(";")):
                db.execute(statement)
        db.execute(f"PRAGMA user_version={len(migrations)}")


@contextmanager
def database(path: Path, migrations: Sequence[str]) -> Generator[sqlite3.Connection]:
    """A connection to a state file, which is made where there is none. One connection an
    operation makes state safe across threads and forks.

    Parameters
    ----------
    path: the file; its folder exists.
    migrations: statements, each with its semicolon (and none within a text): the first makes an
        empty file version 1, each further one brings it to the next. What has been released is
        never changed, only added to.

    Raises StateError where the file cannot be used: no room on the disk, no rights, not a
    database, held by another process, or written by a newer version.
    """
    with disk_errors(path, MEND):
        make_database(path, migrations)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=NORMAL")
            migrate(db, path, migrations)
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


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes a file that appears whole or not at all, and lasts through a power cut."""
    with whole(path, mode) as file:
        file.write(data)


@contextmanager
def whole(path: Path, mode: int = 0o666, *, alone: bool = False) -> Generator[IO[bytes]]:
    """A file to write, which appears at its end, and only if nothing was raised.

    Parameters
    ----------
    alone: nobody else writes it at the same time, so that what a kill left of it is written over.
    """
    own = "cloudai-part" if alone else f"{os.getpid()}-{os.urandom(4).hex()}"
    part = path.with_name(f".{path.name}-{own}")
    try:
        handle = os.open(
            part, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if alone else os.O_EXCL), mode
        )
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in the folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
