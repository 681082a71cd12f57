"""The ledger: every resource that was created through cloudai on this machine.

A row is written *before* the provider is asked (an intent) and completed after, so that a
process killed in between leaves a trace: the next look asks the provider by the idempotency key.
SQLite in WAL mode; one connection an operation, which makes it safe across threads and forks.
It holds no secret: specs hold references.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.state import lock
from cloudai._core.state.disk import MEND, database, disk_errors, transaction
from cloudai._core.state.home import ensure
from cloudai.errors import StateError
from cloudai.protocols import Place
from cloudai.types import State

_MIGRATIONS: Final = (
    """
CREATE TABLE resources (
    profile TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    provider TEXT NOT NULL, place TEXT NOT NULL, name TEXT NOT NULL, id TEXT, uri TEXT,
    state TEXT NOT NULL, spec BLOB NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    PRIMARY KEY (profile, kind, key)
);
CREATE UNIQUE INDEX resources_uri ON resources (uri);
""",
    # Where each one lies; NULL for what was recorded before. A handle without a region stands for
    # another resource in each.
    """
ALTER TABLE resources ADD COLUMN lies TEXT;
DROP INDEX resources_uri;
CREATE INDEX resources_uri ON resources (uri);
""",
)
"""Each brings a ledger to the next version; ``user_version`` says which it has."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One resource.

    Parameters
    ----------
    place: the profile and the keys that find it, as a URI without an id.
    uri: the handle's; None while the provider has not confirmed the create.
    id: the provider's own. key: the idempotency key. state: when it was last seen; a text where
        another version of cloudai wrote one that this one does not know.
    lies: account, region, workspace and emulator; None where an earlier cloudai did not note it.
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
    state: State | str
    spec: bytes
    created: float
    updated: float
    lies: Place | None = None


# Made once: msgspec crashes where two threads meet a type for the first time (0.22).
_PLACE: Final = msgspec.json.Decoder(Place)
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
        lies: Place | None = None,
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
                f"INSERT INTO resources ({_FIELDS}) VALUES (?,?,?,?,?,?,NULL,NULL,?,?,?,?,?)",  # noqa: S608
                (
                    profile,
                    kind,
                    key,
                    provider,
                    place,
                    name,
                    State.PLANNED.value,
                    spec,
                    now,
                    now,
                    _text(lies),
                ),
            )
            return None

    def creating(self, kind: str, key: str, seconds: float) -> lock.Held:
        """The right to create what a key stands for, which the life of its holder holds: a rival
        waits for the outcome. Raises StateError after ``seconds``."""
        folder = ensure(self.path.parent / "locks")
        name = hashlib.sha256(f"{kind}\0{key}".encode()).hexdigest()[:32]
        with disk_errors(folder, MEND):
            found = lock.wait(folder / name, seconds)
        if found is None:
            raise StateError(
                f"another process has been creating this {kind} (key {key!r}) for {seconds:.0f} s",
                hint="Wait for it: the same key then gives its handle",
            )
        return found

    def confirm(self, profile: str, kind: str, key: str, *, id: str, uri: str) -> None:
        """Records the provider's id for an intent."""
        with self._writing() as db:
            # A name that was deleted behind our back and created anew has the same URI and place.
            db.execute(
                "DELETE FROM resources WHERE uri=? AND key<>? AND lies IS (SELECT lies FROM "
                "resources WHERE profile=? AND kind=? AND key=?)",
                (uri, key, profile, kind, key),
            )
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

    def saw(self, entry: Entry, state: State) -> None:
        """Records a state that was seen, if it is news."""
        with self._writing() as db:
            db.execute(
                "UPDATE resources SET state=?, updated=? "
                "WHERE profile=? AND kind=? AND key=? AND state<>?",
                (state.value, time.time(), entry.profile, entry.kind, entry.key, state.value),
            )

    def adopt(self, entry: Entry) -> None:
        """Records what is there already; a row of the same handle or key is replaced."""
        with self._writing() as db:
            row = [
                value.value if isinstance(value, State) else value
                for value in msgspec.structs.astuple(entry)[:-1]
            ]
            marks = ",".join("?" * len(Entry.__struct_fields__))
            db.execute(
                f"INSERT OR REPLACE INTO resources ({_FIELDS}) VALUES ({marks})",  # noqa: S608
                (*row, _text(entry.lies)),
            )

    def remove(self, entry: Entry) -> None:
        """Forgets a resource; its provider is not asked."""
        with self._writing() as db:
            db.execute(
                "DELETE FROM resources WHERE profile=? AND kind=? AND key=?",
                (entry.profile, entry.kind, entry.key),
            )

    def knows(self, profile: str, kind: str, key: str) -> bool:
        """Whether the key was used."""
        return bool(
            self._read(
                f"SELECT {_FIELDS} FROM resources WHERE profile=? AND kind=? AND key=?",  # noqa: S608
                (profile, kind, key),
            )
        )

    def of(self, uri: str) -> list[Entry]:
        """What a handle stands for: one resource; several where a handle without a region was
        made in several."""
        return self._read(f"SELECT {_FIELDS} FROM resources WHERE uri=?", (uri,))  # noqa: S608

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
        with database(self.path, _MIGRATIONS) as db:
            return [_entry(row) for row in db.execute(query, values).fetchall()]

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        ensure(self.path.parent)
        with database(self.path, _MIGRATIONS) as db, transaction(db):
            yield db


def _entry(row: tuple[Any, ...]) -> Entry:
    found = dict(zip(Entry.__struct_fields__, row, strict=True))
    if found["state"] in State.__members__:
        found["state"] = State(found["state"])
    if found["lies"] is not None:
        found["lies"] = _PLACE.decode(found["lies"])
    return Entry(**found)


def _text(lies: Place | None) -> str | None:
    return None if lies is None else msgspec.json.encode(lies).decode()
