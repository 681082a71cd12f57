"""The ledger: intents, confirmations, two writers, kill -9, no room."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cloudai import State, StateError
from cloudai._core.state import disk
from cloudai._core.state.home import ensure
from cloudai._core.state.ledger import Ledger


def intend(ledger: Ledger, key: str) -> object:
    return ledger.intend(
        profile="p",
        kind="training",
        key=key,
        provider="fake",
        place="cloudai://p/training/",
        name=key,
        spec=b"{}",
    )


def test_an_intent_becomes_a_resource_and_goes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert intend(ledger, "k") is None
    (entry,) = ledger.entries()
    assert (entry.state, entry.uri) == (State.PLANNED, None)
    assert intend(ledger, "k") == entry
    ledger.confirm("p", "training", "k", id="7", uri="cloudai://p/training/7")
    (found,) = ledger.of("cloudai://p/training/7")
    assert (found.id, found.state) == ("7", State.QUEUED)
    ledger.saw(found, State.SUCCEEDED)
    assert ledger.entries()[0].state is State.SUCCEEDED
    ledger.drop("p", "training", "k")
    assert ledger.entries(), "a confirmed resource is not dropped"
    ledger.remove(found)
    assert ledger.entries() == []


def test_a_ledger_that_is_only_read_is_not_made(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").entries() == []
    assert not (tmp_path / "none").exists()


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cloudai._core.state.ledger import Ledger\n"
        "l = Ledger(Path(sys.argv[1]))\n"
        "for n in range(25):\n"
        "    l.intend(profile='p', kind='training', key=f'{sys.argv[2]}-{n}', provider='f',"
        " place='p', name='x', spec=b'{}')\n"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in range(3)
    ]
    threads = [
        threading.Thread(
            target=lambda n=n: [intend(Ledger(tmp_path), f"t{n}-{m}") for m in range(25)]
        )
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in others] == [0, 0, 0]
    assert len(Ledger(tmp_path).entries()) == 150


def test_a_writer_that_is_killed_leaves_a_good_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cloudai._core.state.ledger import Ledger\n"
        "l = Ledger(Path(sys.argv[1])); n = 0\n"
        "while True:\n"
        "    l.intend(profile='p', kind='training', key=str(n), provider='f', place='p', name='x',"
        " spec=b'{}')\n"
        "    print(n, flush=True); n += 1\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        said += [int(text) for text in process.stdout.read().split()]
    keys = {int(entry.key) for entry in Ledger(tmp_path).entries()}
    assert set(said) <= keys
    assert intend(Ledger(tmp_path), "after") is None


def test_a_newer_or_broken_file_is_refused_with_the_mend(tmp_path: Path) -> None:
    intend(Ledger(tmp_path), "k")
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StateError, match="newer cloudai"):
        intend(Ledger(tmp_path), "k2")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "ledger.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StateError, match="CLOUDAI_HOME"):
        intend(Ledger(broken), "k")


def test_a_full_disk_is_told_and_leaves_the_ledger_whole(tmp_path: Path) -> None:
    """The file size limit makes writes fail as a full disk does."""
    intend(Ledger(tmp_path), "before")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from cloudai._core.state.ledger import Ledger\n"
        "from cloudai import StateError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))\n"
        "try:\n"
        "    for n in range(100):\n"
        "        Ledger(Path(sys.argv[1])).intend(profile='p', kind='training', key=str(n),"
        " provider='f', place='p', name='x', spec=b'x' * 4000)\n"
        "except StateError as error:\n"
        "    print('told:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "told:" in done.stdout, done.stderr
    assert "room on the disk" in done.stdout
    assert "before" in {entry.key for entry in Ledger(tmp_path).entries()}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be made"):
        intend(Ledger(tmp_path / "file" / "home"), "k")


def test_k23_an_empty_ledger_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").touch()
    with pytest.raises(StateError, match="is empty: it holds no table") as caught:
        intend(Ledger(tmp_path), "k")
    assert "another cloudai" not in str(caught.value)
    assert "room on the disk" not in str(caught.value)


def test_k23_a_held_ledger_is_called_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "BUSY_SECONDS", 0.01)
    intend(Ledger(tmp_path), "k")
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="another process holds") as caught:
            intend(Ledger(tmp_path), "k2")
    assert "room on the disk" not in str(caught.value)


def test_k23_a_state_of_another_version_is_shown_as_it_is(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    intend(ledger, "k")
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as db:
        db.execute("UPDATE resources SET state='HIBERNATING'")
    assert ledger.entries()[0].state == "HIBERNATING"


def test_a_ledger_of_an_earlier_version_is_brought_up(tmp_path: Path) -> None:
    """As the release before wrote it: its rows stay, and many processes may do it at once."""
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(
            "CREATE TABLE resources (profile TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,"
            "provider TEXT NOT NULL, place TEXT NOT NULL, name TEXT NOT NULL, id TEXT, uri TEXT,"
            "state TEXT NOT NULL, spec BLOB NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,"
            "PRIMARY KEY (profile, kind, key));"
            "CREATE UNIQUE INDEX resources_uri ON resources (uri);"
            "INSERT INTO resources VALUES ('p','training','old','aws','cloudai://p/training/',"
            "'n','7','cloudai://p/training/7','RUNNING','{}',1.0,2.0);"
            "PRAGMA user_version=1;"
        )
    threads = [
        threading.Thread(target=lambda n=n: intend(Ledger(tmp_path), f"new-{n}")) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = Ledger(tmp_path).entries()
    assert len(rows) == 9
    assert (rows[0].key, rows[0].state, rows[0].lies) == ("old", State.RUNNING, None)


def test_k24_a_home_is_its_owners_whichever_folder_of_it_is_made_first(tmp_path: Path) -> None:
    os.umask(os.umask(0o022))
    ensure(tmp_path / "home" / "models" / "one")
    modes = [(tmp_path / path).stat().st_mode & 0o777 for path in ("home", "home/models")]
    assert modes == [0o700, 0o700]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    disk.write_whole(tmp_path / "file", b"one")
    with pytest.raises(TypeError):
        disk.write_whole(tmp_path / "file", None)  # type: ignore[arg-type]
    assert (tmp_path / "file").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
