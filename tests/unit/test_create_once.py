"""One key, one job, whoever asks at the same time: between threads, processes and homes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cloudai
from cloudai import TrainingJob
from cloudai._core.state import lock

RIVAL = """
import sys, threading
import cloudai
client = cloudai.Client(provider=sys.argv[1], home=sys.argv[2])
job = cloudai.TrainingJob(source=sys.argv[3], entry="train.py", idempotency_key="one")
ids = []
threads = [threading.Thread(target=lambda: ids.append(client.training.submit(job).id))
           for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("\\n".join(ids))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text("print('done')")
    return folder


@pytest.mark.parametrize("provider", ["local", "fake"])
def test_k2_every_caller_on_this_machine_gets_the_one_job(
    tmp_path: Path, source: Path, provider: str
) -> None:
    home = str(tmp_path / "home")
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, provider, home, str(source)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = [rival.communicate() for rival in rivals]
    assert not [error for _, error in told if error]
    assert len({id for out, _ in told for id in out.split()}) == 1
    assert sum(len(out.split()) for out, _ in told) == 16
    client = cloudai.Client(provider=provider, home=home)
    (job,) = client.training.list()
    client.training.attach(job.id).delete()


def test_c6_a_name_follows_from_the_key(tmp_path: Path, source: Path) -> None:
    """Two homes are two machines: the name is what a provider can tell the one job by."""
    names = {
        cloudai.Client(provider="fake", home=str(tmp_path / home))
        .training.submit(TrainingJob(source=str(source), entry="train.py", idempotency_key="k"))
        .status.name
        for home in ("one", "two")
    }
    assert len(names) == 1


def test_k1_a_lock_is_held_between_threads_and_free_after_its_holder(tmp_path: Path) -> None:
    held = lock.attempt(tmp_path / "l")
    assert held is not None
    assert lock.attempt(tmp_path / "l") is None
    assert lock.wait(tmp_path / "l", 0.02) is None
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(lock.wait(tmp_path / "l", 10)))
    waiting.start()
    held.free()
    waiting.join()
    assert found[0] is not None
    found.pop().free()  # type: ignore[attr-defined]
    assert not (tmp_path / "l").exists()


def test_k1_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cloudai._core.state import lock\n"
        "held = lock.attempt(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "l")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert lock.attempt(tmp_path / "l") is None
        process.kill()
    held = lock.attempt(tmp_path / "l")
    assert held is not None
    held.free()
