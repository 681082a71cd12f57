"""Rehearsals of a preemption: real processes, killed for real."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import pytest

from cloudai.errors import InvalidRequest
from cloudai.testing.rehearse import spot
from cloudai.types import Metric, State, TrainingJob

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="jobs need POSIX process groups")

SCRIPT = """
import json, os, pathlib, time
folder = pathlib.Path(os.environ["CLOUDAI_CHECKPOINT_DIR"])
file, mode = folder / "state.json", os.environ["MODE"]
hps = json.loads(os.environ["CLOUDAI_HPS"])
steps = hps.get("steps", 8)
first = 1
if file.exists():
    if mode == "crash":
        raise SystemExit(3)
    if mode != "scratch":
        first = json.loads(file.read_text())["step"] + 1
if mode == "short" and first > 1:
    steps = first
(pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"]) / "model").write_text("x")
with open(os.environ["STARTS"], "a") as count:
    count.write("x")
    starts = count.tell()
for step in range(first, steps + 1):
    time.sleep(0.05)
    if mode != "silent":
        print(f"{hps.get('say', 'step=')}{step}", flush=True)
    if mode not in ("none", "late") or (mode == "late" and step == steps):
        part = folder / "part"
        part.write_text(json.dumps({"step": step}))
        os.replace(part, file)
        if mode == "late":
            os._exit(0)  # before anybody can look
    if f"{starts}:{step}" in os.environ["HOLDS"].split():
        time.sleep(600)  # it is to be preempted by now, however slow the look is
"""


def job(folder: Path, mode: str, holds: str = "", **about: Any) -> TrainingJob:
    """``holds``: words ``START:STEP``; there it stays until it is killed. Starts are counted from
    1, an undisturbed one too."""
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "train.py").write_text(SCRIPT)
    made: dict[str, Any] = {
        "hyperparameters": {"steps": 8},
        "metrics": (Metric(name="step", regex=r"step=(\d+)"),),
        **about,
    }
    starts = folder / f"starts-{secrets.token_hex(4)}"
    return TrainingJob(
        source=str(folder / "source"),
        entry="train.py",
        env={"MODE": mode, "HOLDS": holds, "STARTS": str(starts)},
        **made,
    )


def test_a_job_that_resumes(tmp_path: Path) -> None:
    said: list[str] = []
    found = spot(job(tmp_path, "good", "1:7"), seed=3, say=said.append)
    assert found.ok, found.reason
    assert found.state is State.SUCCEEDED
    assert found.steps == 8
    # A slow look may come late, never early.
    assert found.preempted[0] >= found.chosen[0]
    assert 1 < found.resumed[0] <= found.preempted[0] + 1
    assert found.checkpoints == ("state.json",)
    assert found.log_tail[-1] == "step=8"
    assert any("preempted at step" in line for line in said)
    assert spot(job(tmp_path, "good", "1:7"), seed=3).chosen == found.chosen


def test_the_steps_come_from_the_log_where_nothing_else_tells(tmp_path: Path) -> None:
    said: list[str] = []
    spec = job(tmp_path, "good", "2:7 3:8", hyperparameters={"say": "Epoch "}, metrics=())
    found = spot(spec, seed=1, preemptions=2, say=said.append)
    assert found.ok, found.reason
    assert (found.unit, found.steps) == ("epoch", 8)
    assert len(found.preempted) == len(found.resumed) == 2
    assert "first run, undisturbed" in said[0]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("scratch", r"started from scratch: preempted at step \d+ of 8, it began again at 1"),
        ("none", "wrote no checkpoint: nothing is in CLOUDAI_CHECKPOINT_DIR"),
        ("late", "its checkpoint came only with the end"),
        ("crash", "started anew it ended FAILED, exit code 3"),
        ("short", "it ended in success at step 4 of 8 already"),
        ("silent", "its log does not tell its steps"),
    ],
)
def test_a_job_that_does_not(tmp_path: Path, mode: str, reason: str) -> None:
    import re

    # What has a checkpoint stays at the step, so that it is preempted there.
    holds = "" if mode in {"none", "late", "silent"} else "1:3"
    found = spot(job(tmp_path, mode, holds), at=3)
    assert not found.ok
    assert re.search(reason, found.reason), found.reason


def test_what_cannot_be_rehearsed(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nothing left to resume"):
        spot(job(tmp_path, "good", hyperparameters={"steps": 1}))
    with pytest.raises(InvalidRequest, match="preemptions"):
        spot(job(tmp_path, "good"), preemptions=0)
    with pytest.raises(InvalidRequest, match="inputs.train"):
        spot(job(tmp_path, "good", inputs={"train": "s3://bucket/train"}))
