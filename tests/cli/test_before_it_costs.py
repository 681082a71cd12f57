"""``cloudai diff`` and ``cloudai rehearse spot``."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Run

JOB = """
source = "src"
entry = "train.py"
[inputs]
train = "s3://acme/data"
[hyperparameters]
steps = 6
[tags]
Team = "Vision"
[[metrics]]
name = "step"
regex = 'step=(\\d+)'
"""

SCRIPT = """
import os, pathlib, time
file = pathlib.Path(os.environ["CLOUDAI_CHECKPOINT_DIR"]) / "step"
again = file.exists()
first = int(file.read_text()) + 1 if {resumes} and again else 1
for step in range(first, 7):
    time.sleep(0.05)
    print(f"step={{step}}", flush=True)
    part = file.with_name("part")
    part.write_text(str(step))
    part.rename(file)
    if step == 5 and not again:
        time.sleep(600)  # it is to be preempted by now, however slow the look is
"""


@pytest.fixture
def job(work: Path) -> Path:
    (work / "src").mkdir()
    (work / "job.toml").write_text(JOB)
    (work / "data").mkdir()
    (work / "data" / "a.txt").write_text("a")
    return work / "job.toml"


def test_diff(run: Run, job: Path) -> None:
    pytest.importorskip("boto3")
    pytest.importorskip("google.cloud.storage")
    (job.parent / "src" / "train.py").write_text("print(1)")
    found = run("diff", "--from", "aws", "--to", "vertex", "job.toml")
    assert found.code == 2
    assert "aws → vertex: training" in found.out
    assert "refused: to be changed first\n  tags: 'Team'" in found.out
    assert "inputs.train: s3://acme/data → gs://acme/data" in found.out
    assert "aws was planned with stand-ins for keys it lacks: region=us-east-1" in found.err
    told = run("diff", "--from", "aws", "--to", "vertex", "job.toml", "--json")
    assert told.code == 2
    assert not told.json["ok"]
    assert told.json["refused"][0]["field"] == "tags"
    assert told.json["target"]["plan"]["provider"] == "vertex"
    job.write_text(JOB.replace('Team = "Vision"', 'team = "vision"'))
    found = run("diff", "--from", "aws", "--to", "vertex", "job.toml")
    assert found.code == 0, found.out
    assert run("diff", "--from", "aws", "--to", "vertx", "job.toml").code == 3


def test_diff_of_an_endpoint_and_a_batch(run: Run, work: Path) -> None:
    pytest.importorskip("boto3")
    (work / "endpoint.toml").write_text(
        'name = "digits"\nmode = "async"\n[[variants]]\nmodel = "s3://acme/model.tar.gz"\n'
    )
    (work / "batch.json").write_text('{"input": "a.txt", "output": "b.jsonl", "chat": "smart"}')
    (work / "a.txt").write_text("a\n")
    assert "fake: endpoints" in run(
        "diff", "--from", "aws", "--to", "fake", "endpoint.toml"
    ).out.replace("aws → ", "")
    found = run("diff", "--from", "local", "--to", "fake", "batch.json", "--json")
    assert found.json["target"]["plan"]["capability"] == "batch"


def test_rehearse_spot(run: Run, job: Path) -> None:
    script = job.parent / "src" / "train.py"
    script.write_text(SCRIPT.format(resumes=True))
    here = ("rehearse", "spot", "job.toml", "--input", "train=data", "--seed", "5")
    found = run(*here)
    assert found.code == 0, found.err
    assert "resumed from its checkpoint and completed" in found.out
    assert "--seed 5 repeats it" in found.out
    script.write_text(SCRIPT.format(resumes=False))
    found = run(*here)
    assert found.code == 1
    assert "it started from scratch" in found.err
    told = run(*here, "--json")
    assert told.code == 1
    assert not told.json["ok"]
    assert told.json["seed"] == 5
    # The bucket's data is not on this machine.
    found = run("rehearse", "spot", "job.toml")
    assert found.code == 7
    assert "inputs.train" in found.err
