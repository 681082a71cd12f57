"""The live run, tried on an emulator: it runs, ends before the budget, removes all after a failure
and after Ctrl-C, and keeps no secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from live import meter, recording

RUN = Path(__file__).with_name("run.py")


def begun(
    folder: Path, budget: float, only: str, provider: str = "vertex"
) -> subprocess.Popen[str]:
    command = [
        sys.executable, str(RUN), provider, "--budget", str(budget), "--emulator",
        "--folder", str(folder), "-k", only,
    ]  # fmt: skip
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        start_new_session=True,
    )  # fmt: skip


def rows(folder: Path) -> list[str]:
    """What the run's ledger still has."""
    code = (
        "import json, cloudai\n"
        "print(json.dumps([r.key for r in cloudai.Client(provider='fake').resources()]))"
    )
    home = next(folder.glob("run-*"), folder / "none")  # there is none where nothing was made
    env = {**os.environ, "CLOUDAI_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_run_removes_all_and_keeps_no_secret(tmp_path: Path) -> None:
    run = begun(tmp_path, 5, "(Endpoints and test_life) or (Chat and test_text) or bucket")
    out, _ = run.communicate(timeout=240)
    assert run.returncode == 0, out
    assert "3 passed" in out
    assert "all is removed" in out
    assert rows(tmp_path) == []
    assert 0 < json.loads((tmp_path / "spent.json").read_text())["spent"] < 0.1
    (answer,) = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert json.loads(answer)["answer"] is True
    kept = (tmp_path / "cassette.json").read_text()
    assert "generateContent" in kept
    assert "SCRUBBED" in kept
    for secret in ("Bearer ya29", "emulated-token", "PRIVATE KEY", 'access_token": "ya'):
        assert secret not in kept
    # An emulator's own recording is held to itself.
    cassette = tmp_path / "cassette.json"
    assert recording.differences(cassette, cassette) == []
    told = recording.shapes(cassette)
    assert any(
        ":generateContent" in name and ".candidates" in names for name, names in told.items()
    )


@pytest.mark.slow
def test_a_run_ends_before_its_budget(tmp_path: Path) -> None:
    """An hour of the machine does not fit: nothing is made. Two calls fit into 5 cents."""
    run = begun(tmp_path, 0.05, "(Chat and (test_text or test_max_tokens)) or Endpoints")
    out, _ = run.communicate(timeout=240)
    assert run.returncode == 3, out
    assert "stopped before the budget" in out
    assert json.loads((tmp_path / "spent.json").read_text())["spent"] <= 0.05
    assert rows(tmp_path) == []
    assert "models:upload" not in (tmp_path / "cassette.json").read_text()


@pytest.mark.slow
def test_ctrl_c_removes_all(tmp_path: Path) -> None:
    run = begun(tmp_path, 5, "Endpoints")
    until = time.monotonic() + 120
    while not rows(tmp_path):  # until something may be there
        assert time.monotonic() < until
        assert run.poll() is None
    os.killpg(run.pid, signal.SIGINT)
    out, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "all is removed" in out, out
    assert rows(tmp_path) == []


def test_it_is_opted_in(tmp_path: Path) -> None:
    env = {name: text for name, text in os.environ.items() if name != "CLOUDAI_LIVE_OK"}
    for about, told in (
        (["aws", "--budget", "5"], "set CLOUDAI_LIVE_OK=aws"),
        (["aws"], "--budget"),
        (["aws", "--budget", "5000"], "--budget"),
    ):
        done = subprocess.run(
            [sys.executable, str(RUN), *about, "--folder", str(tmp_path)],
            env=env, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2
        assert told in done.stderr


def test_the_meter_never_lets_the_budget_be_passed() -> None:
    now = [0.0]
    one = meter.Meter(1.0, lambda: now[0])
    one.begin(0.4)
    one.begin(0.4)
    with pytest.raises(meter.OverBudget, match="might pass the budget"):
        one.begin(0.4)
    with pytest.raises(meter.TooDear):
        one.begin(30.0)
    now[0] = 1800.0
    assert one.spent == pytest.approx(0.4)
    one.settle()
    assert (one.spent, one.worst) == (pytest.approx(0.4), pytest.approx(0.4))
    one.begin(0.5)
    for _ in range(5):
        one.ask()
        one.paid(None)
    with pytest.raises(meter.OverBudget):
        one.ask()
    assert one.worst <= 1.0
