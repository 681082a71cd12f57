"""The table of local endpoints in ``<home>/endpoints.db``, and how a server's life is told.

A server holds a lock on ``<home>/endpoints/<name>/lock`` for as long as it lives, so that no
process id is ever trusted that another process may have got since.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.state import lock
from cloudai._core.state.disk import database, transaction
from cloudai._core.state.home import ensure
from cloudai.errors import Conflict, NotFound
from cloudai.types import SecretRef
from cloudai.types._base import met

_MIGRATIONS: Final = (
    """CREATE TABLE endpoints (
    name TEXT PRIMARY KEY,
    key TEXT UNIQUE,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    tls INTEGER NOT NULL,
    token TEXT,
    created_at REAL NOT NULL,
    launched_at REAL
);""",
)


class Row(msgspec.Struct, frozen=True):
    """An endpoint as it was deployed. ``token`` is a reference; ``launched_at`` is None until
    its server process was started."""

    name: str
    key: str | None
    host: str
    port: int
    tls: bool
    token: SecretRef | None
    created_at: float
    launched_at: float | None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


class EndpointStore:
    """The endpoints of a home folder.

    Parameters
    ----------
    home: the profile's.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "endpoints.db"

    def folder(self, name: str) -> Path:
        """Where the endpoint's log, status and sockets lie."""
        return self.home / "endpoints" / name

    def insert(self, row: Row) -> str | None:
        """Records an endpoint. Gives None; or, where one has its key already, that one's name.

        Raises Conflict when the name belongs to another endpoint.
        """
        ensure(self.home)
        with self._write() as db:
            if row.key is not None:
                same = db.execute("SELECT name FROM endpoints WHERE key = ?", (row.key,)).fetchone()
                if same is not None:
                    return same[0]
            if db.execute("SELECT 1 FROM endpoints WHERE name = ?", (row.name,)).fetchone():
                raise Conflict(
                    f"there is an endpoint {row.name!r} already",
                    provider="local",
                    hint="Update it, delete it first, or use another name",
                )
            token = msgspec.json.encode(row.token).decode() if row.token is not None else None
            db.execute(
                "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (row.name, row.key, row.host, row.port, row.tls, token, row.created_at, None),
            )
        return None

    def launched(self, name: str) -> None:
        """Notes that the endpoint's server process was started."""
        with self._write() as db:
            db.execute("UPDATE endpoints SET launched_at = ? WHERE name = ?", (time.time(), name))

    def remove(self, name: str) -> None:
        if self.path.exists():
            with self._write() as db:
                db.execute("DELETE FROM endpoints WHERE name = ?", (name,))

    def find(self, key: str) -> str | None:
        """The name of the endpoint that was deployed with a key."""
        rows = self._rows("WHERE key = ?", key)
        return rows[0].name if rows else None

    def row(self, name: str) -> Row:
        """The endpoint by name. Raises NotFound naming what there is."""
        rows = self._rows("WHERE name = ?", name)
        if not rows:
            others = ", ".join(row.name for row in self._rows("")) or "none"
            raise NotFound(f"there is no endpoint {name!r}; there are: {others}", provider="local")
        return rows[0]

    def rows(self) -> list[Row]:
        return self._rows("ORDER BY created_at")

    def _rows(self, where: str, *values: Any) -> list[Row]:
        if not self.path.exists():
            return []
        with self._connect() as db:
            found = db.execute(f"SELECT * FROM endpoints {where}", values).fetchall()  # noqa: S608
        return [
            Row(
                name=name,
                key=key,
                host=host,
                port=port,
                tls=bool(tls),
                token=msgspec.json.decode(token, type=met(SecretRef)) if token else None,
                created_at=created,
                launched_at=launched,
            )
            for name, key, host, port, tls, token, created, launched in found
        ]

    @contextmanager
    def _connect(self) -> Generator[sqlite3.Connection]:
        with database(self.path, _MIGRATIONS) as db:
            yield db

    @contextmanager
    def _write(self) -> Generator[sqlite3.Connection]:
        with self._connect() as db, transaction(db):
            yield db


def alive(folder: Path) -> bool:
    """Whether a server holds the folder's lock."""
    return lock.held(folder / "lock")


def holder(folder: Path) -> int | None:
    """The process id of the server that holds the lock."""
    try:
        return int((folder / "lock").read_text())
    except (OSError, ValueError):
        return None
