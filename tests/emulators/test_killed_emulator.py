"""An emulator leaves no process of what it ran, not even where it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

import cloudai
from cloudai._core.state import processes
from cloudai.testing import EmulatedCloud, emulated

for name in ("moto", "openai", "google.genai", "azure.ai.ml"):
    pytest.importorskip(name)
if not processes.LINUX:
    pytest.skip("the process table is read as Linux has it", allow_module_level=True)

CLOUDS = ("aws", "azure", "vertex")

# A job with children as a user's job has them: one in the job's group, one in a session of its
# own, and one that nobody waits for.
TRAIN = """
import os, pathlib, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(3600)"]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
shell = subprocess.run(["sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", *sleep],
                       stdout=subprocess.PIPE, text=True)
pids = [os.getpid(), *(child.pid for child in children), int(shell.stdout)]
note = pathlib.Path(os.environ["NOTES"], str(os.getpid()))
note.with_suffix(".part").write_text(" ".join(map(str, pids)))
note.with_suffix(".part").rename(note)
time.sleep(3600)
"""
HANDLER = """
import os

def load(model_dir):
    return os.getppid()

def predict(model, inputs, params):
    return [[os.getpid(), model] for _ in inputs]
"""


def alive(pids: Iterable[int]) -> list[int]:
    wanted = set(pids)
    return [pid for pid, _, state in processes._table() if pid in wanted and state not in "ZX"]


def notes(folder: Path, jobs: list[cloudai.JobHandle]) -> list[int]:
    """The processes of the jobs, once all have told them."""
    deadline = time.monotonic() + 120
    while True:
        states = [job.status for job in jobs]  # a look at it lets a job's life go on
        found = [file for file in folder.iterdir() if not file.suffix]
        if len(found) == len(jobs):
            return [int(word) for file in found for word in file.read_text().split()]
        assert time.monotonic() < deadline, states
        time.sleep(0.05)


def gone(pids: Iterable[int]) -> None:
    """Waits until none of them is left."""
    pids = list(pids)
    deadline = time.monotonic() + 60
    while left := alive(pids):
        if time.monotonic() > deadline:
            processes.send(left, signal.SIGKILL)
            raise AssertionError(f"{left} were left")
        time.sleep(0.05)


def test_sigkill_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, model, told = tmp_path / "source", tmp_path / "model", tmp_path / "notes"
    for folder in (source, model, told):
        folder.mkdir()
    (source / "train.py").write_text(TRAIN)
    (model / "handler.py").write_text(HANDLER)
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "home"))
    file = tmp_path / "env"
    with ExitStack() as stack, subprocess.Popen(
        [sys.executable, "-m", "cloudai.cli", "emulate", *CLOUDS, "--execute", "--speed", "20",
         "--env-file", str(file)],
        stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as emulator:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not file.exists():
                assert emulator.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            for line in file.read_text().splitlines():
                name, _, value = line.partition("=")
                monkeypatch.setenv(name, value.strip("'"))
            served: list[int] = []
            jobs: list[cloudai.JobHandle] = []
            for cloud in CLOUDS:
                client = stack.enter_context(cloudai.Client(cloud))
                jobs.append(
                    client.training.submit(
                        cloudai.TrainingJob(
                            source=str(source), entry="train.py", env={"NOTES": str(told)}
                        )
                    )
                )
                endpoint = client.endpoints.deploy(str(model), name=f"killed-{cloud}")
                served += endpoint.predict([0])[0]
            ran = notes(told, jobs)
            others = processes.descendants(emulator.pid)  # the keeper too
            # Six a cloud: a job with three children, a server and its worker.
            assert len(set(alive([*ran, *served]))) == 6 * len(CLOUDS)
        finally:
            emulator.send_signal(signal.SIGKILL)
    gone([*ran, *served, *others])


# A program with a child that bears the mark, and one that was forked while the keeper's pipe was
# open.
FORKED = """
import os, subprocess, sys, time
from cloudai.testing.emulators.common.keeper import kept

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"],
                         env=kept(os.environ))
fork = os.fork()
if not fork:
    time.sleep(3600)
print(child.pid, fork, flush=True)
if sys.argv[1:]:
    sys.exit()
time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_however_the_process_ends(number: signal.Signals | None) -> None:
    exits = [] if number else ["exits"]
    with subprocess.Popen(
        [sys.executable, "-c", FORKED, *exits], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        child, fork = map(int, program.stdout.readline().split())
        try:
            if number is not None:
                program.send_signal(number)
            gone([child])
            assert alive([fork]) == [fork]  # which does not hold the pipe
        finally:
            os.kill(fork, signal.SIGKILL)
        program.wait(60)


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


@pytest.mark.cloudai_emulated(execute=True)
def test_the_server_ends_with_its_endpoint(cloud: EmulatedCloud, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text(HANDLER)
    with cloudai.Client(cloud.name) as client:
        endpoint = client.endpoints.deploy(str(tmp_path), name="short-lived")
        served = endpoint.predict([0])[0]
        assert sorted(alive(served)) == sorted(served)
        endpoint.delete()
        gone(served)


def test_a_job_ends_with_its_cloud(tmp_path: Path) -> None:
    source, told = tmp_path / "source", tmp_path / "notes"
    source.mkdir()
    told.mkdir()
    # What leads a session of its own is not in the job's group, and is left to the keeper.
    (source / "train.py").write_text(TRAIN)
    for name in CLOUDS:
        with (
            emulated(name, execute=True, speed=20) as cloud,
            cloud.applied(),
            cloud.client() as client,
        ):
            spec = cloudai.TrainingJob(
                source=str(source), entry="train.py", env={"NOTES": str(told)}
            )
            pids = notes(told, [client.training.submit(spec)])
        gone(pids[:2])
        processes.send(pids, signal.SIGKILL)
        for file in told.iterdir():
            file.unlink()
