"""The state of local jobs: schema, two clients at once, a full disk."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jobtools import CALL, ended, job, profile, script, text, until

from cloudai.errors import CloudAIError, Conflict, StateError
from cloudai.providers.local.jobs.store import _MIGRATIONS, Store
from cloudai.providers.local.training import LocalTraining
from cloudai.types import State


@pytest.fixture
def training() -> LocalTraining:
    return LocalTraining(profile())


def test_schema(training: LocalTraining, tmp_path: Path) -> None:
    training.submit(job("one", script(tmp_path / "src", "")), CALL)
    ended(training, "one")
    db = sqlite3.connect(training.home / "local.db")
    try:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(_MIGRATIONS)
        db.execute(f"PRAGMA user_version={len(_MIGRATIONS) + 1}")
    finally:
        db.close()
    with pytest.raises(StateError, match="written by a newer cloudai"):
        training.list(CALL)


def test_a_state_file_that_is_none(training: LocalTraining, tmp_path: Path) -> None:
    training.home.mkdir(exist_ok=True)
    (training.home / "local.db").write_bytes(b"no database at all, " * 100)
    with pytest.raises(StateError, match="is no SQLite file"):
        training.submit(job("one", script(tmp_path / "src", "")), CALL)
    assert not (training.home / "jobs").exists()


def test_many_clients_at_once(training: LocalTraining, tmp_path: Path) -> None:
    """Processes and threads, each with its own job and all with one in common; the state file
    is made by whoever comes first."""
    source = script(tmp_path / "src", "print('ran')")
    code = """
import sys, threading
from pathlib import Path
from cloudai._core.profiles.config import Config
from cloudai.protocols import Call
from cloudai.providers.local.training import LocalTraining
from cloudai.types import TrainingJob
adapter = LocalTraining(Config(start=Path("/")).profile(provider="local"))
source, number = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
ids = []
def submit(name):
    spec = TrainingJob(name=name, source=source, entry="train.py", idempotency_key="key-" + name)
    ids.append(adapter.submit(spec, Call()))
threads = [threading.Thread(target=submit, args=(name,))
           for name in (f"own-{number}-a", f"own-{number}-b", "common", "common")]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*sorted(ids))
"""
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", code, source, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("\n")
        client.stdin.flush()
    for number, client in enumerate(clients):
        out, _ = client.communicate(timeout=60)
        assert out.split() == ["common", "common", f"own-{number}-a", f"own-{number}-b"]
    names = [status.id for status in training.list(CALL)]
    assert sorted(names) == sorted(
        ["common", *(f"own-{number}-{end}" for number in range(3) for end in "ab")]
    )
    for name in names:
        assert ended(training, name).state is State.SUCCEEDED
        assert text(training, name) == ["ran"]  # once
    assert sorted(path.name for path in (training.home / "jobs").iterdir()) == sorted(names)


def test_two_clients_with_one_name(training: LocalTraining, tmp_path: Path) -> None:
    source = script(tmp_path / "src", "")
    barrier = threading.Barrier(2)
    results: list[str] = []

    def submit(key: str) -> None:
        spec = job("wanted", source, idempotency_key=key)
        barrier.wait()
        try:
            results.append(training.submit(spec, CALL))
        except Conflict:
            results.append("conflict")

    threads = [threading.Thread(target=submit, args=(key,)) for key in ("k1", "k2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["conflict", "wanted"]
    ended(training, "wanted")


FULL = """
import resource, signal, sys
from pathlib import Path
from cloudai._core.profiles.config import Config
from cloudai.protocols import Call
from cloudai.providers.local.training import LocalTraining
from cloudai.types import TrainingJob
adapter = LocalTraining(Config(start=Path("/")).profile(provider="local"))
source, limit = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
spec = TrainingJob(name="full", source=source, entry="train.py", idempotency_key="full")
try:
    adapter.submit(spec, Call())
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("limit", "payload"), [(100, 50), (3000, 5000), (40_000, 100_000)], ids=["db", "wal", "source"]
)
def test_a_full_disk_is_told_and_leaves_nothing_half_made(
    training: LocalTraining, tmp_path: Path, limit: int, payload: int
) -> None:
    """A limit of file size is how a full disk looks to a process: a write fails in the middle,
    here that of the state file or of the source's copy."""
    source = script(tmp_path / "src", "print('ran')")
    (tmp_path / "src" / "payload").write_bytes(b"x" * payload)
    done = subprocess.run(
        [sys.executable, "-c", FULL, source, str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("StateError no space is left on the disk"), done
    assert "CLOUDAI_HOME" in done.stdout
    assert not list((training.home / "jobs").iterdir())
    assert training.list(CALL) == []
    # With room again, the same submission succeeds.
    training.submit(job("full", source, idempotency_key="full"), CALL)
    assert ended(training, "full").state is State.SUCCEEDED


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_really_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        source = script(tmp_path / "src", "print('ran')")
        (tmp_path / "src" / "payload").write_bytes(b"x" * 1_000_000)
        training = LocalTraining(profile(home=str(disk / "home")))
        with pytest.raises(StateError, match="no space is left on the disk"):
            training.submit(job("full", source), CALL)
        assert not list((disk / "home" / "jobs").iterdir())
        # A script that fills the disk fails by itself; its end is told once there is room.
        source = script(
            tmp_path / "filler",
            """
            import os
            path = os.environ["CLOUDAI_OUTPUT_DIR"] + "/o"
            file = open(path, "wb", buffering=0)
            try:
                while True: file.write(b"x" * 1024)
            except OSError: pass
            raise SystemExit(5)
            """,
        )
        training.submit(job("filler", source), CALL)
        output = disk / "home" / "jobs" / "filler" / "output" / "o"
        until(lambda: os.statvfs(disk).f_bavail == 0, "the full disk")
        time.sleep(0.5)  # the supervisor meets it meanwhile
        try:
            assert training.status("filler", CALL).state is State.RUNNING
        except StateError as error:
            assert "no space is left" in str(error)  # noqa: PT017
        output.unlink()
        status = ended(training, "filler", 90)
        assert (status.state, status.exit_code) == (State.FAILED, 5)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    training = LocalTraining(profile(home=str(tmp_path / "file" / "home")))
    with pytest.raises(CloudAIError, match="CLOUDAI_HOME"):
        training.submit(job("x", script(tmp_path / "src", "")), CALL)


def test_the_store_serves_threads_and_forks(training: LocalTraining, tmp_path: Path) -> None:
    training.submit(job("one", script(tmp_path / "src", "")), CALL)
    ended(training, "one")
    store = Store(training.home)
    pid = os.fork()
    if not pid:
        os._exit(0 if store.change("one", reason="forked") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.row("one")["reason"] == "forked"
