"""The ledger: every resource that was created through cloudai on this machine.

A row is written *before* the provider is asked (an intent) and completed after, so that a
process killed in between leaves a trace: the next look asks the provider by the idempotency key.
SQLite in WAL mode; one connection an operation, which makes it safe across threads and forks.
It holds no secret: specs hold references.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.state.disk import database, transaction
from cloudai._core.state.home import ensure
from cloudai.types import State

SCHEMA: Final = 1
_CREATE: Final = """
CREATE TABLE resources (
    profile TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    provider TEXT NOT NULL, place TEXT NOT NULL, name TEXT NOT NULL, id TEXT, uri TEXT,
    state TEXT NOT NULL, spec BLOB NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    PRIMARY KEY (profile, kind, key)
);
CREATE UNIQUE INDEX resources_uri ON resources (uri);
"""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One resource.

    Parameters
    ----------
    place: the profile and the keys that find it, as a URI without an id.
    uri: the handle's; None while the provider has not confirmed the create.
    id: the provider's own. key: the idempotency key. state: when it was last seen.
    spec: as submitted, JSON. created, updated: Unix seconds.
    """

    profile: str
    kind: str
    key: str
    provider: str
    place: str
    name: str
    id: str | None
    uri: str | None
    state: State
    spec: bytes
    created: float
    updated: float


_FIELDS: Final = ", ".join(Entry.__struct_fields__)


class Ledger:
    """The ledger in a folder. Made on first use.

    Parameters
    ----------
    home: the folder.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "ledger.db"

    def intend(
        self,
        *,
        profile: str,
        kind: str,
        key: str,
        provider: str,
        place: str,
        name: str,
        spec: bytes,
    ) -> Entry | None:
        """Records that something is about to be created. Gives the row that the key already
        has, or None when this call made it."""
        with self._writing() as db:
            found = db.execute(
                f"SELECT {_FIELDS} FROM resources WHERE profile=? AND kind=? AND key=?",  # noqa: S608 - field names of our own
                (profile, kind, key),
            ).fetchone()
            if found:
                return _entry(found)
            now = time.time()
            db.execute(
                "INSERT INTO resources VALUES (?,?,?,?,?,?,NULL,NULL,?,?,?,?)",
                (profile, kind, key, provider, place, name, State.PLANNED.value, spec, now, now),
            )
            return None

    def confirm(self, profile: str, kind: str, key: str, *, id: str, uri: str) -> None:
        """Records the provider's id for an intent."""
        with self._writing() as db:
            # A name that was deleted behind our back and created anew has the same URI.
            db.execute("DELETE FROM resources WHERE uri=? AND key<>?", (uri, key))
            db.execute(
                "UPDATE resources SET id=?, uri=?, state=?, updated=? "
                "WHERE profile=? AND kind=? AND key=?",
                (id, uri, State.QUEUED.value, time.time(), profile, kind, key),
            )

    def drop(self, profile: str, kind: str, key: str) -> None:
        """Forgets an intent that the provider refused for certain."""
        with self._writing() as db:
            db.execute(
                "DELETE FROM resources WHERE profile=? AND kind=? AND key=? AND id IS NULL",
                (profile, kind, key),
            )

    def saw(self, uri: str, state: State) -> None:
        """Records a state that was seen, if it is news."""
        with self._writing() as db:
            db.execute(
                "UPDATE resources SET state=?, updated=? WHERE uri=? AND state<>?",
                (state.value, time.time(), uri, state.value),
            )

    def remove(self, uri: str) -> None:
        """Forgets a resource that is gone at the provider."""
        with self._writing() as db:
            db.execute("DELETE FROM resources WHERE uri=?", (uri,))

    def get(self, uri: str) -> Entry | None:
        rows = self._read(f"SELECT {_FIELDS} FROM resources WHERE uri=?", (uri,))  # noqa: S608
        return rows[0] if rows else None

    def entries(self, kind: str | None = None, profile: str | None = None) -> list[Entry]:
        """All resources, the oldest first."""
        return self._read(
            f"SELECT {_FIELDS} FROM resources WHERE (?1 IS NULL OR kind=?1) "  # noqa: S608
            "AND (?2 IS NULL OR profile=?2) ORDER BY created",
            (kind, profile),
        )

    def _read(self, query: str, values: tuple[Any, ...]) -> list[Entry]:
        if not self.path.exists():
            return []
        with database(self.path, _CREATE, SCHEMA) as db:
            return [_entry(row) for row in db.execute(query, values).fetchall()]

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        ensure(self.path.parent)
        with database(self.path, _CREATE, SCHEMA) as db, transaction(db):
            yield db


def _entry(row: tuple[Any, ...]) -> Entry:
    return msgspec.convert(dict(zip(Entry.__struct_fields__, row, strict=True)), Entry)
