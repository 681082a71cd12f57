"""The progress of one batch: a SQLite file beside its output, safe after kill -9.

Each chunk of records that was transformed is one row, written in one transaction: it is there
whole or not at all. Whoever runs the batch again with the same input and the same transform
goes on with what is missing.
"""

from __future__ import annotations

import glob
import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

from cloudai._core.state import lock
from cloudai._core.state.disk import (
    BUSY_SECONDS,
    disk_errors,
    make_database,
    migrate,
    transaction,
)
from cloudai.errors import Conflict, StateError

_MIGRATIONS: Final = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE chunks (
    first INTEGER PRIMARY KEY, count INTEGER NOT NULL, lines BLOB NOT NULL,
    errors INTEGER NOT NULL, bad BLOB NOT NULL
);
""",
)


class Chunk(NamedTuple):
    """Neighbouring records that were transformed.

    Parameters
    ----------
    first: the first one's number among all records, from 0. records: how many.
    lines: their output lines, each with its line end. errors: how many failed.
    bad: the failed ones' lines for the file of errors.
    """

    first: int
    records: int
    lines: bytes
    errors: int
    bad: bytes


def path_of(output: Path) -> Path:
    """Where the progress of the batch that writes ``output`` is kept."""
    return output.with_name(f".{output.name}.cloudai-progress")


@contextmanager
def exclusive(output: Path) -> Generator[None]:
    """Holds the output against other batches. Raises Conflict while another writes it."""
    path = output.with_name(f".{output.name}.cloudai-lock")
    with disk_errors(path):
        found = lock.attempt(path)
    if found is None:
        raise Conflict(
            f"another batch is writing {output} now",
            hint="Wait for it, cancel it, or name another output.",
        )
    try:
        yield
    finally:
        found.free()


class Spool:
    """The progress of the batch that writes ``output``. Used by one thread; hold ``exclusive``.

    Parameters
    ----------
    fingerprint: of the input's content and of what transforms it.
    owner: the name of the batch.
    replace: True drops the progress of another batch; False refuses with Conflict.
    """

    def __init__(
        self,
        output: Path,
        fingerprint: str,
        *,
        owner: str | None = None,
        replace: bool = False,
    ) -> None:
        self.path = path_of(output)
        self._db: sqlite3.Connection | None = None
        with disk_errors(self.path):
            if self._open(fingerprint):
                self._set("owner", owner or "")
                return
            if not replace:
                self.close()
                raise Conflict(
                    f"{output} was begun by a batch with another input or another transform",
                    hint="Use overwrite=True to begin anew, or name another output.",
                )
            self.discard()
            self._open(fingerprint)
            self._set("owner", owner or "")

    def _open(self, fingerprint: str) -> bool:
        """Opens the file; False when it holds the progress of another batch."""
        with suppress(FileNotFoundError):
            if not self.path.stat().st_size:  # cut short by an earlier cloudai's kill
                self.discard()
        make_database(self.path, _MIGRATIONS)
        db = self._db = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_SECONDS)
        db.execute("PRAGMA synchronous=NORMAL")
        migrate(db, self.path, _MIGRATIONS)
        if self._get("fingerprint") is None:
            self._set("fingerprint", fingerprint)
        return self._get("fingerprint") == fingerprint

    @property
    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise StateError(f"{self.path} is closed")
        return self._db

    def commit(self, chunks: Iterable[Chunk]) -> None:
        """Keeps chunks, all of them or none."""
        with disk_errors(self.path):
            db = self._open_db
            with transaction(db):
                db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", chunks)

    def drop_failed(self) -> None:
        """Forgets chunks with failed records, so that these are tried again."""
        with disk_errors(self.path):
            self._open_db.execute("DELETE FROM chunks WHERE errors > 0")

    def covered(self) -> list[tuple[int, int]]:
        """The first record and the count of each chunk, in order."""
        with disk_errors(self.path):
            return self._open_db.execute(
                "SELECT first, count FROM chunks ORDER BY first"
            ).fetchall()

    def totals(self) -> tuple[int, int]:
        """Records done, and those of them that failed."""
        with disk_errors(self.path):
            row = self._open_db.execute(
                "SELECT coalesce(sum(count), 0), coalesce(sum(errors), 0) FROM chunks"
            ).fetchone()
        return row[0], row[1]

    def lines(self) -> Iterator[bytes]:
        """The output lines, chunk by chunk in the input's order. Raises StateError where one is
        missing: that would be a fault of this program."""
        expected = 0
        for first, count, lines in self._open_db.execute(
            "SELECT first, count, lines FROM chunks ORDER BY first"
        ):
            if first != expected:
                raise StateError(f"{self.path} lacks the records from {expected} to {first - 1}")
            expected = first + count
            yield lines

    def bad_lines(self) -> Iterator[bytes]:
        """The failed records' lines, chunk by chunk in the input's order."""
        for (bad,) in self._open_db.execute(
            "SELECT bad FROM chunks WHERE errors > 0 ORDER BY first"
        ):
            yield bad

    def publishing(self, file: IO[bytes]) -> None:
        """Notes which file is about to become the output."""
        with disk_errors(self.path):
            self._set("published", str(os.fstat(file.fileno()).st_ino))

    def published(self, output: Path) -> bool:
        """Whether the output in place is this batch's own, which was killed just after."""
        with suppress(FileNotFoundError):
            return self._get("published") == str(output.stat().st_ino)
        return False

    def _set(self, key: str, value: str) -> None:
        self._open_db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _get(self, key: str) -> str | None:
        row = self._open_db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        """Closes the file; the progress stays."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def close_or_discard(self) -> None:
        """Closes the file; removes it where it holds no progress."""
        if self._db is not None:
            with suppress(StateError):
                if not self.covered():
                    self.discard()
            self.close()

    def discard(self) -> None:
        """Removes the progress."""
        self.close()
        _unlink(self.path)


def _unlink(path: Path) -> None:
    drafts = path.parent.glob(f".{glob.escape(path.name)}-*")  # of who was killed making it
    for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), *drafts):
        one.unlink(missing_ok=True)


def forget(output: Path, owner: str) -> None:
    """Removes the progress that the batch named ``owner`` left beside ``output``, unless a batch
    is at it now."""
    path = path_of(output)
    if not path.exists():
        return
    with suppress(Conflict), exclusive(output):
        with disk_errors(path), closing(sqlite3.connect(path, timeout=30.0)) as db:
            try:
                row = db.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
            except sqlite3.DatabaseError:  # killed before its tables were made
                row = (owner,)
        if row is None or row[0] == owner:
            _unlink(path)
