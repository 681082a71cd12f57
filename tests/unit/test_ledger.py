"""The ledger: intents, confirmations, two writers, kill -9, no room."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloudai import State, StateError
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
    found = ledger.get("cloudai://p/training/7")
    assert found is not None
    assert (found.id, found.state) == ("7", State.QUEUED)
    ledger.saw("cloudai://p/training/7", State.SUCCEEDED)
    assert ledger.entries()[0].state is State.SUCCEEDED
    ledger.drop("p", "training", "k")
    assert ledger.entries(), "a confirmed resource is not dropped"
    ledger.remove("cloudai://p/training/7")
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
    with pytest.raises(StateError, match="another cloudai"):
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
