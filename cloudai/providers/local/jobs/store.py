"""The state of local jobs: one SQLite file, safe after kill -9, shared by all processes.

Every operation opens its own connection, so that threads and forks share none; each write is
one ``BEGIN IMMEDIATE`` transaction. The supervisor of each job imports this module, so it is
kept to the standard library.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cloudai._core.state.disk import database, transaction
from cloudai.errors import Conflict, NotFound

ENDED: Final = frozenset(
    {"SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED", "TIMED_OUT", "PREEMPTED", "EXPIRED"}
)
"""The states that ``State.done`` holds for, as texts (a test compares the two)."""

_MIGRATIONS: Final = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        spec TEXT NOT NULL,
        sheet TEXT NOT NULL,
        state TEXT NOT NULL,
        native_state TEXT,
        reason TEXT,
        created_at REAL NOT NULL,
        spawned_at REAL,
        spawns INTEGER NOT NULL DEFAULT 0,
        started_at REAL,
        ended_at REAL,
        token TEXT,
        exit_code INTEGER,
        restarts INTEGER NOT NULL DEFAULT 0,
        outcome TEXT,
        done INTEGER,
        total INTEGER,
        errors INTEGER NOT NULL DEFAULT 0,
        log_tail TEXT NOT NULL DEFAULT '[]',
        UNIQUE (kind, key)
    );
    CREATE TABLE metrics (
        job TEXT NOT NULL,
        name TEXT NOT NULL,
        step INTEGER NOT NULL,
        value REAL NOT NULL,
        time REAL NOT NULL,
        PRIMARY KEY (job, name, step)
    ) WITHOUT ROWID;
    """,
)


class Store:
    """The table of jobs in ``<home>/local.db``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "local.db"

    def folder(self, id: str) -> Path:
        return self.home / "jobs" / id

    @contextmanager
    def _connect(self) -> Generator[sqlite3.Connection]:
        with database(self.path, _MIGRATIONS) as db:
            db.row_factory = sqlite3.Row
            yield db

    @contextmanager
    def _write(self) -> Generator[sqlite3.Connection]:
        with self._connect() as db, transaction(db):
            yield db

    def insert(
        self,
        *,
        id: str,
        kind: str,
        key: str,
        spec: str,
        sheet: dict[str, Any],
        place: Callable[[], None],
        again: Callable[[sqlite3.Row], bool] = lambda row: False,
    ) -> str:
        """Records a job as QUEUED, in one transaction with ``place``, which moves its folder
        into place. Gives the id of the job that has this key already, if there is one; but a
        job that is ended and that ``again`` approves is queued anew.

        Raises Conflict when the name belongs to another job.
        """
        with self._write() as db:
            same = db.execute(
                "SELECT * FROM jobs WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
            if same is not None and not (same["state"] in ENDED and again(same)):
                return same["id"]
            taken = same or db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
            if taken is not None:
                if taken["kind"] != kind or taken["state"] not in ENDED or not again(taken):
                    raise Conflict(
                        f"the name {id!r} belongs to a {taken['kind']} job "
                        f"({taken['state']}) that was submitted with another key",
                        provider="local",
                        hint=f"Use another name, or remove that job first: cloudai destroy {id}",
                    )
                db.execute("DELETE FROM jobs WHERE id = ?", (taken["id"],))
                db.execute("DELETE FROM metrics WHERE job = ?", (taken["id"],))
            place()
            db.execute(
                "INSERT INTO jobs (id, kind, key, spec, sheet, state, created_at) "
                "VALUES (?, ?, ?, ?, ?, 'QUEUED', ?)",
                (id, kind, key, spec, json.dumps(sheet), time.time()),
            )
        return id

    def find(self, kind: str, key: str) -> str | None:
        if not self.path.exists():
            return None
        with self._connect() as db:
            row = db.execute(
                "SELECT id FROM jobs WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
        return row["id"] if row else None

    def row(self, id: str, kind: str | None = None) -> sqlite3.Row:
        """The job's row. Raises NotFound."""
        row = None
        if self.path.exists():
            with self._connect() as db:
                row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None or (kind is not None and row["kind"] != kind):
            raise NotFound(
                f"there is no {kind or 'such'} job {id!r} in {self.home}",
                provider="local",
                hint="`cloudai ls` lists the jobs; CLOUDAI_HOME says where they are kept.",
            )
        return row

    def rows(self, kind: str) -> list[sqlite3.Row]:
        if not self.path.exists():
            return []
        with self._connect() as db:
            return db.execute(
                "SELECT * FROM jobs WHERE kind = ? ORDER BY created_at", (kind,)
            ).fetchall()

    def metrics(self, id: str) -> dict[str, list[tuple[float, int, float]]]:
        found: dict[str, list[tuple[float, int, float]]] = {}
        with self._connect() as db:
            for name, value, step, when in db.execute(
                "SELECT name, value, step, time FROM metrics WHERE job = ? ORDER BY name, step",
                (id,),
            ):
                found.setdefault(name, []).append((float(value), step, when))
        return found

    def add_metrics(self, id: str, points: Iterable[tuple[str, int, float, float]]) -> None:
        """Records ``(name, step, value, time)`` points."""
        with self._write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO metrics (job, name, step, value, time) "
                "VALUES (?, ?, ?, ?, ?)",
                # SQLite takes a NaN for NULL, so that it is kept as a text.
                (
                    (id, name, step, "nan" if math.isnan(value) else value, when)
                    for name, step, value, when in points
                ),
            )

    def change(self, id: str, *, only_from: Iterable[str] | None = None, **columns: Any) -> bool:
        """Sets columns of a job; False when it is gone, or not in one of ``only_from``."""
        sets = ", ".join(f"{name} = ?" for name in columns)
        values = [*columns.values(), id]
        where = "id = ?"
        if only_from is not None:
            states = list(only_from)
            where += f" AND state IN ({', '.join('?' * len(states))})"
            values += states
        with self._write() as db:
            # The names are this package's own column names, never input.
            return db.execute(f"UPDATE jobs SET {sets} WHERE {where}", values).rowcount == 1  # noqa: S608

    def remove(self, id: str) -> None:
        with self._write() as db:
            db.execute("DELETE FROM metrics WHERE job = ?", (id,))
            db.execute("DELETE FROM jobs WHERE id = ?", (id,))
