"""Local jobs under kill -9, cancel and timeout: nothing is lost, no process is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jobtools import CALL, ended, gone, job, profile, run, script, supervisor, text, until

from cloudai._core.state import processes as _processes
from cloudai.errors import NotFound
from cloudai.providers.local.jobs.store import ENDED
from cloudai.providers.local.training import LocalTraining
from cloudai.types import Resources, Retry, Spot, State

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")

# Starts a child of its own, in a session of its own, that nobody waits for.
TREE = """
import os, pathlib, subprocess, sys, time
pids = pathlib.Path(os.environ["PIDS"])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
with open(pids / f"{os.getpid()}", "w") as file: file.write(str(child.pid))
os.rename(pids / f"{os.getpid()}", pids / f"{os.getpid()}.ready")
time.sleep(600)
"""


@pytest.fixture
def training() -> LocalTraining:
    return LocalTraining(profile())


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    folder = tmp_path / "pids"
    folder.mkdir()
    return folder


def tree(pids: Path, workers: int = 1) -> list[int]:
    """The process ids of the workers and their children, once all have started."""
    ready = until(
        lambda: (found := list(pids.glob("*.ready"))) and len(found) == workers and found,
        f"{workers} workers",
        60,
    )
    return [int(path.stem) for path in ready] + [int(path.read_text()) for path in ready]


def test_ended_states_are_those_of_the_type() -> None:
    assert {state.value for state in State if state.done} == ENDED


CLIENTS = """
import os, sys, time
from pathlib import Path
from cloudai._core.profiles.config import Config
from cloudai.protocols import Call
from cloudai.providers.local.training import LocalTraining
from cloudai.types import TrainingJob
adapter = LocalTraining(Config(start=Path("/")).profile(provider="local"))
source, names = sys.argv[1], sys.argv[2:]
def spec(name):
    return TrainingJob(name=name, source=source, entry="train.py", idempotency_key="key-" + name,
                       hyperparameters={"name": name})
"""
# One client after the other, each a process of its own, whose id is told as it begins.
SUBMIT = """
for name in names:
    pid = os.fork()
    if not pid:
        adapter.submit(spec(name), Call())
        time.sleep(600)
    print(pid, flush=True)
    os.waitpid(pid, 0)
"""
ATTACH = """
for name in names:
    adapter.find("key-" + name, Call()) or adapter.submit(spec(name), Call())
for name in names:
    deadline = time.monotonic() + 60
    while not adapter.status(name, Call()).state.done and time.monotonic() < deadline:
        time.sleep(0.02)
    status = adapter.status(name, Call())
    print(status.state.value, (Path(status.outputs["model"]) / "out").read_text())
"""


@pytest.mark.slow
def test_twenty_clients_killed_at_random_moments(training: LocalTraining, tmp_path: Path) -> None:
    source = script(
        tmp_path / "src",
        """
        import json, os, time
        time.sleep(0.05)
        with open(os.environ["CLOUDAI_MODEL_DIR"] + "/out", "a") as file:
            file.write(json.loads(os.environ["CLOUDAI_HPS"])["name"] + ";")
        """,
    )
    dice = random.Random(7)
    names = [f"killed-{number}" for number in range(20)]
    recorded = 0
    with subprocess.Popen(
        [sys.executable, "-c", CLIENTS + SUBMIT, source, *names], stdout=subprocess.PIPE
    ) as clients:
        assert clients.stdout is not None
        for name in names:
            pid = int(clients.stdout.readline())
            # A submission takes about 20 ms, a job 200.
            time.sleep(dice.uniform(0.0, 0.04) if dice.random() < 0.7 else dice.uniform(0.0, 0.3))
            os.kill(pid, signal.SIGKILL)
            recorded += training.find(f"key-{name}", CALL) is not None
    assert 0 < recorded < 20  # the kills came before, within and after the submissions
    answer = subprocess.run(
        [sys.executable, "-c", CLIENTS + ATTACH, source, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    # Each script ran, and ran once.
    expected = [f"SUCCEEDED {name};" for name in names]
    assert answer.stdout.splitlines() == expected, answer.stderr
    # What the killed clients left half-made is swept by the next submission.
    training.submit(job("sweeper", source, hyperparameters={"name": "s"}), CALL)
    assert not list((training.home / "jobs").glob(".*"))
    ended(training, "sweeper")


def test_a_client_is_left_without_children(training: LocalTraining, tmp_path: Path) -> None:
    """Neither the supervisor nor a zombie of it. In a process of its own: this one has children
    of other tests."""
    code = """
import psutil
adapter.submit(spec(names[0]), Call())
while not adapter.status(names[0], Call()).state.done:
    time.sleep(0.02)
print(psutil.Process().children())
"""
    source = script(tmp_path / "src", "")
    client = [sys.executable, "-c", CLIENTS + code, source, "zombie"]
    done = subprocess.run(client, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_a_job_without_supervisor_is_started_by_whoever_looks(
    training: LocalTraining, tmp_path: Path
) -> None:
    """What a client leaves that is killed between its row and its supervisor."""
    spec = job("orphaned", script(tmp_path / "src", "print('ran')"))
    training._record(spec, "orphaned", "key-orphaned")
    assert ended(training, "orphaned").state is State.SUCCEEDED
    assert text(training, "orphaned") == ["ran"]


def test_a_supervisor_that_cannot_start_fails_the_job(
    training: LocalTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudai.providers.local.jobs.base.SPAWN_SECONDS", 0.1)
    monkeypatch.setattr("cloudai.providers.local.jobs.base._SUPERVISOR", "no_such_module")
    training.submit(job("nostart", script(tmp_path / "src", "")), CALL)
    status = ended(training, "nostart")
    assert status.state is State.FAILED
    assert "supervisor does not start" in str(status.reason)
    assert b"no_such_module" in (training.home / "jobs" / "nostart" / "supervisor.log").read_bytes()


@linux
@pytest.mark.parametrize("nproc", [1, 2])
def test_sigkill_of_the_supervisor_leaves_no_orphan(
    training: LocalTraining, tmp_path: Path, pids: Path, nproc: int
) -> None:
    spec = job(
        "lost",
        script(tmp_path / "src", TREE),
        env={"PIDS": str(pids)},
        resources=Resources(nproc=nproc),
    )
    training.submit(spec, CALL)
    processes = tree(pids, nproc)
    os.kill(supervisor(training.home, "lost"), signal.SIGKILL)
    status = ended(training, "lost")
    assert status.state is State.FAILED
    assert "supervisor died" in str(status.reason)
    assert status.native_state == "lost"
    until(lambda: all(map(gone, processes)), "the end of every process")


@linux
@pytest.mark.slow
def test_sigkill_of_the_torchrun_agent_leaves_no_orphan(
    training: LocalTraining, tmp_path: Path, pids: Path
) -> None:
    spec = job(
        "agent",
        script(tmp_path / "src", TREE),
        env={"PIDS": str(pids)},
        resources=Resources(nproc=2),
    )
    training.submit(spec, CALL)
    processes = tree(pids, 2)
    (agent,) = psutil.Process(supervisor(training.home, "agent")).children()
    assert "torch.distributed.run" in agent.cmdline()
    agent.kill()
    status = ended(training, "agent")
    assert (status.state, status.exit_code) == (State.FAILED, 137)
    until(lambda: all(map(gone, processes)), "the end of every process")


def test_what_a_script_leaves_running_is_ended(
    training: LocalTraining, tmp_path: Path, pids: Path
) -> None:
    source = script(tmp_path / "src", TREE.replace("\ntime.sleep(600)", ""))
    run(training, job("leftover", source, env={"PIDS": str(pids)}))
    assert all(gone(pid) for pid in tree(pids))


def test_cancel_ends_the_tree(training: LocalTraining, tmp_path: Path, pids: Path) -> None:
    source = script(tmp_path / "src", TREE)
    training.submit(job("cancel", source, env={"PIDS": str(pids)}), CALL)
    processes = tree(pids)
    training.cancel("cancel", CALL)
    assert training.status("cancel", CALL).state in {State.STOPPING, State.CANCELLED}
    assert ended(training, "cancel").state is State.CANCELLED
    assert all(map(gone, processes))
    training.cancel("cancel", CALL)  # again: nothing to do
    with pytest.raises(NotFound):
        training.cancel("unknown", CALL)


def test_cancel_lets_the_script_save_then_kills_it(
    training: LocalTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudai.providers.local.jobs.base.GRACE", 0.5)
    source = script(
        tmp_path / "src",
        """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: print("saved"))
        print("ready")
        while True: time.sleep(0.01)
        """,
    )
    training.submit(job("stubborn", source), CALL)
    until(lambda: text(training, "stubborn"), "the script")
    training.cancel("stubborn", CALL)
    status = ended(training, "stubborn")
    assert status.state is State.CANCELLED
    assert "saved" in text(training, "stubborn")


def test_timeout(training: LocalTraining, tmp_path: Path, pids: Path) -> None:
    source = script(tmp_path / "src", TREE)
    status = run(
        training,
        job("slow", source, env={"PIDS": str(pids)}, timeout=5.0),
        State.TIMED_OUT,
    )
    assert status.reason == "it ran longer than timeout=5 s"
    assert status.exit_code == 143
    assert all(gone(pid) for pid in tree(pids))


def test_delete_ends_a_running_job_first(
    training: LocalTraining, tmp_path: Path, pids: Path
) -> None:
    source = script(tmp_path / "src", TREE)
    training.submit(job("deleted", source, env={"PIDS": str(pids)}), CALL)
    processes = tree(pids)
    training.delete("deleted", CALL)
    assert all(map(gone, processes))
    assert training.list(CALL) == []
    assert not list((training.home / "jobs").iterdir())


CHECKPOINTED = """
import os, pathlib, signal
folder = pathlib.Path(os.environ["CLOUDAI_CHECKPOINT_DIR"])
done = sorted(int(p.name) for p in folder.iterdir())
print("restart", os.environ["CLOUDAI_RESTART_COUNT"], "from", done[-1] if done else None)
for epoch in range(done[-1] + 1 if done else 0, 6):
    (folder / "new").touch(); os.replace(folder / "new", folder / str(epoch))
    if epoch in (1, 3) and os.environ["CLOUDAI_RESTART_COUNT"] == str(epoch // 2):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_restart_from_the_newest_checkpoint_after_kill(
    training: LocalTraining, tmp_path: Path
) -> None:
    source = script(tmp_path / "src", CHECKPOINTED)
    status = run(training, job("resume", source, retry=Retry(max=3)))
    assert status.restarts == 2
    told = [line for line in text(training, "resume") if line.startswith("restart")]
    assert told == ["restart 0 from None", "restart 1 from 1", "restart 2 from 3"]
    assert any("killed by SIGKILL" in line for line in text(training, "resume"))


def test_a_kill_without_retries_left(training: LocalTraining, tmp_path: Path) -> None:
    source = script(tmp_path / "src", "import os; os.kill(os.getpid(), 9)")
    status = run(training, job("oom", source), State.FAILED)
    assert status.exit_code == 137
    assert "SIGKILL" in str(status.reason)
    assert "memory" in str(status.reason)
    assert run(training, job("spot", source, spot=Spot()), State.PREEMPTED).exit_code == 137


def test_retry_only_on_what_the_spec_says(training: LocalTraining, tmp_path: Path) -> None:
    source = script(tmp_path / "src", "import sys; sys.exit(3)")
    assert run(training, job("r0", source, retry=Retry(max=2)), State.FAILED).restarts == 0
    spec = job("r1", source, retry=Retry(max=2, on=("failed",)))
    assert run(training, spec, State.FAILED).restarts == 2


def test_a_supervisor_that_is_told_to_stop_ends_its_job(
    training: LocalTraining, tmp_path: Path, pids: Path
) -> None:
    source = script(tmp_path / "src", TREE)
    training.submit(job("shutdown", source, env={"PIDS": str(pids)}), CALL)
    processes = tree(pids)
    os.kill(supervisor(training.home, "shutdown"), signal.SIGTERM)
    status = ended(training, "shutdown")
    assert status.state is State.PREEMPTED
    assert "SIGTERM" in str(status.reason)
    assert all(map(gone, processes))


@pytest.mark.slow
def test_two_processes_by_torchrun(training: LocalTraining, tmp_path: Path) -> None:
    source = script(
        tmp_path / "src",
        """
        import datetime, json, os, pathlib, signal
        import torch, torch.distributed as dist
        dist.init_process_group(os.environ["CLOUDAI_BACKEND"],
                                timeout=datetime.timedelta(seconds=30))
        rank, world = dist.get_rank(), dist.get_world_size()
        value = torch.tensor([float(rank + 1)])
        dist.all_reduce(value)
        print(f"rank {rank} of {world} sum={value.item()}")
        crashed = pathlib.Path(os.environ["CLOUDAI_CHECKPOINT_DIR"], "crashed")
        dist.barrier()
        if rank == 1 and not crashed.exists():
            crashed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
        if rank == 0:
            found = {name: os.environ[name] for name in
                     ("OMP_NUM_THREADS", "LOCAL_RANK", "MASTER_ADDR", "CLOUDAI_RESTART_COUNT",
                      "TORCH_DISABLE_SHARE_RDZV_TCP_STORE")}
            pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"], "env").write_text(json.dumps(found))
        dist.destroy_process_group()
        """,
    )
    spec = job(
        "ranks", source, resources=Resources(nproc=2, cpus=4), retry=Retry(max=1), timeout=120
    )
    status = run(training, spec)
    assert status.restarts == 1
    env = json.loads(Path(status.outputs["model"], "env").read_text())
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["CLOUDAI_RESTART_COUNT"] == "1"
    assert env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    lines = training.logs("ranks", None, CALL).lines
    for rank in (0, 1):
        said = [line.text for line in lines if line.source == f"rank{rank}"]
        assert f"rank {rank} of 2 sum=3.0" in said


@linux
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, os, time\n"
        "from cloudai._core.state import processes as p\n"
        "me = os.getpid()\n"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " preexec_fn=lambda: p.die_with(me))\n"
        "print(c.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert child in _processes.descendants(parent.pid)
    assert not gone(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: gone(child), "the child's end")
