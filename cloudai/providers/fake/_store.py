"""The fake's jobs and endpoints, and its clock: one SQLite file, shared by processes."""

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
from cloudai.errors import Conflict, NotFound
from cloudai.providers.fake._script import Fate
from cloudai.types._base import met

_MIGRATIONS: Final = (
    """
CREATE TABLE clock (frozen REAL, ahead REAL NOT NULL);
INSERT INTO clock VALUES (NULL, 0);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, capability TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL,
    spec BLOB NOT NULL, fate BLOB NOT NULL, created REAL NOT NULL, cancelled REAL,
    published INTEGER NOT NULL DEFAULT 0, work BLOB NOT NULL,
    UNIQUE (capability, key)
);
CREATE TABLE endpoints (
    name TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, spec BLOB NOT NULL, fate BLOB NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL
);
""",
)


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A job as submitted.

    Parameters
    ----------
    id, capability, key, name: the obvious. spec: JSON. fate: what becomes of it.
    created, cancelled: on the fake's clock.
    published: whether its outputs have been put in place.
    work: JSON of the capability's own.
    """

    id: str
    capability: str
    key: str
    name: str
    spec: bytes
    fate: Fate
    created: float
    cancelled: float | None = None
    published: bool = False
    work: bytes = b"{}"


class EndpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as deployed. ``fate`` is JSON: ``starting``, ``state``, ``reason``."""

    name: str
    key: str
    spec: bytes
    fate: bytes
    created: float
    updated: float


class Store:
    """See the module.

    Parameters
    ----------
    folder: holds the file, and what jobs leave.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "fake.db"

    @contextmanager
    def open(self) -> Generator[sqlite3.Connection]:
        """A connection; each statement stands for itself."""
        ensure(self.folder)
        with database(self._path, _MIGRATIONS) as db:
            yield db

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """A connection with a transaction that no other process writes beside."""
        with self.open() as db, transaction(db):
            yield db

    def now(self, db: sqlite3.Connection) -> float:
        """The fake's time, Unix seconds: the machine's, unless it was frozen or moved."""
        frozen, ahead = db.execute("SELECT frozen, ahead FROM clock").fetchone()
        return (time.time() if frozen is None else frozen) + ahead

    def advance(self, seconds: float) -> None:
        """Moves the clock forward, for all processes."""
        with self.writing() as db:
            db.execute("UPDATE clock SET ahead = ahead + ?", (seconds,))

    def freeze(self) -> None:
        """Stops the clock, for all processes; ``advance`` alone moves it then."""
        with self.writing() as db:
            db.execute("UPDATE clock SET frozen = coalesce(frozen, ?)", (time.time(),))

    def add(self, job: JobRow) -> JobRow:
        """Records a job; the one that its key already has is given instead."""
        with self.writing() as db:
            found = self._by_key(db, job.capability, job.key)
            if found is not None:
                return found
            made = msgspec.structs.replace(job, created=self.now(db))
            db.execute(
                "INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    made.id,
                    made.capability,
                    made.key,
                    made.name,
                    made.spec,
                    msgspec.json.encode(made.fate),
                    made.created,
                    made.cancelled,
                    made.published,
                    made.work,
                ),
            )
            return made

    def by_key(self, capability: str, key: str) -> JobRow | None:
        """The job that was submitted with a key."""
        with self.open() as db:
            return self._by_key(db, capability, key)

    def _by_key(self, db: sqlite3.Connection, capability: str, key: str) -> JobRow | None:
        row = db.execute(
            "SELECT * FROM jobs WHERE capability=? AND key=?", (capability, key)
        ).fetchone()
        return _job(row) if row else None

    def job(self, db: sqlite3.Connection, capability: str, id: str) -> JobRow:
        """A job by id. Raises NotFound."""
        row = db.execute(
            "SELECT * FROM jobs WHERE capability=? AND id=?", (capability, id)
        ).fetchone()
        if row is None:
            raise NotFound(f"there is no {capability} job {id!r}", provider="fake")
        return _job(row)

    def jobs(self, db: sqlite3.Connection, capability: str) -> list[JobRow]:
        """All jobs of a capability, the oldest first."""
        rows = db.execute(
            "SELECT * FROM jobs WHERE capability=? ORDER BY created, id", (capability,)
        )
        return [_job(row) for row in rows.fetchall()]

    def deploy(self, endpoint: EndpointRow) -> EndpointRow:
        """Records an endpoint; the one that its key already has is given instead. Raises
        Conflict where the name belongs to another."""
        with self.writing() as db:
            for row in db.execute("SELECT * FROM endpoints WHERE key=?", (endpoint.key,)):
                return _endpoint(row)
            for _ in db.execute("SELECT 1 FROM endpoints WHERE name=?", (endpoint.name,)):
                raise Conflict(
                    f"there is an endpoint {endpoint.name!r} already",
                    provider="fake",
                    hint="Update it, delete it, or choose another name",
                )
            now = self.now(db)
            made = msgspec.structs.replace(endpoint, created=now, updated=now)
            db.execute("INSERT INTO endpoints VALUES (?,?,?,?,?,?)", msgspec.structs.astuple(made))
            return made

    def redeploy(self, name: str, spec: bytes, fate: bytes) -> None:
        """Gives an endpoint a new spec. Raises NotFound."""
        with self.writing() as db:
            self.endpoint(db, name)
            db.execute(
                "UPDATE endpoints SET spec=?, fate=?, updated=? WHERE name=?",
                (spec, fate, self.now(db), name),
            )

    def endpoint(self, db: sqlite3.Connection, name: str) -> EndpointRow:
        """An endpoint by name. Raises NotFound."""
        row = db.execute("SELECT * FROM endpoints WHERE name=?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"there is no endpoint {name!r}", provider="fake")
        return _endpoint(row)

    def endpoints(self, db: sqlite3.Connection) -> list[EndpointRow]:
        """All endpoints, the oldest first."""
        rows = db.execute("SELECT * FROM endpoints ORDER BY created, name")
        return [_endpoint(row) for row in rows.fetchall()]


def _job(row: tuple[Any, ...]) -> JobRow:
    values = dict(zip(JobRow.__struct_fields__, row, strict=True))
    values["fate"] = msgspec.json.decode(values["fate"], type=met(Fate))
    values["published"] = bool(values["published"])
    return JobRow(**values)


def _endpoint(row: tuple[Any, ...]) -> EndpointRow:
    return EndpointRow(**dict(zip(EndpointRow.__struct_fields__, row, strict=True)))
