"""azure-ai-ml does the same work at the emulator, finds what cloudai made, and cloudai finds what
it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cloudai
from cloudai.errors import Conflict, NotFound
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.azure import AzureEmulator, LocalExecutor
from cloudai.types import State, TrainingJob

TRAIN = """
import os, pathlib, sys
out = sys.argv[-1] if len(sys.argv) > 1 else os.environ["CLOUDAI_MODEL_DIR"]
pathlib.Path(out, "model.json").write_text('{"scale": 3}')
print("hello", flush=True)
"""

TELLS = """

_load = load


def load(model_dir):
    print("the model has come", flush=True)
    return _load(model_dir)
"""


def test_z1_azure_ai_ml_and_cloudai_see_each_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    (tmp_path / "in.jsonl").write_text("1\n2\n")
    (tmp_path / "request.json").write_text('{"inputs": [1, 2]}')
    with AzureEmulator(LocalExecutor(), speed=20.0) as azure:
        for name, value in azure.env.items():
            monkeypatch.setenv(name, value)
        with cloudai.Client(provider="azure", workspace="lab", compute="cluster") as client:
            both(azure, client, tmp_path)


def both(azure: AzureEmulator, client: cloudai.Client, tmp_path: Path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text((ASSETS / "handler.py").read_text() + TELLS)
    job = client.training.submit(TrainingJob(source=str(tmp_path / "source"), entry="train.py"))
    job.wait(60)
    endpoint = client.endpoints.deploy(job.model, name="ours", handler=handler)
    batch = client.batch.submit(
        cloudai.BatchTransform(
            model=job.model, handler=str(handler), input=str(tmp_path / "in.jsonl"),
            output=str(tmp_path / "out"),
        )
    )  # fmt: skip
    batch.wait(60)
    cloud, env = azure.cloud
    given = {
        "source": str(tmp_path / "source"), "request": str(tmp_path / "request.json"),
        "folder": str(tmp_path), "job": job.native_id, "endpoint": endpoint.native_id,
        "batch": batch.native_id, "cloud": cloud,
    }  # fmt: skip
    (tmp_path / "given.json").write_text(json.dumps(given))
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("azure_ai_ml.py"))]
    done = subprocess.run(
        [*program, str(tmp_path / "given.json")], env={**os.environ, **env},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    training, served, transformed = (found[name] for name in ("training", "endpoint", "batch"))
    assert (training["status"], training["found"]) == ("Completed", "Completed")
    assert {job.native_id, training["made"]} <= set(training["listed"])
    assert training["model"] == job.status.outputs["model"]
    assert (served["traffic"], served["machine"]) == ({"v-main": 100}, "Standard_DS3_v2")
    assert served["answers"] == [{"outputs": [3, 6]}] * 2
    assert served["listed"] == ["ours", "theirs"]
    assert served["models"] == 1
    assert "the model has come" in served["log"]
    assert (transformed["asked"], transformed["default"]) == ("again", "main")
    assert (transformed["again"], transformed["status"]) == ("Completed", "Completed")
    assert transformed["listed"] == sorted([batch.native_id, "theirs"])

    # And the other way; to look changes nothing.
    seen = len(azure.requests)
    theirs = client.training.attach(training["made"])
    assert theirs.wait(60).state is State.SUCCEEDED
    assert [line.text for line in theirs.logs()] == ["hello"]
    kept = theirs.download(tmp_path / "theirs") / "model.json"
    assert json.loads(kept.read_text()) == {"scale": 3}
    other = client.endpoints.attach("theirs")
    for _ in range(3):
        assert other.status.state is State.RUNNING
    assert [(v.name, v.share) for v in other.status.variants] == [("blue", 1.0)]
    assert other.predict([1, 2]) == [3, 6]
    asked = client.training.attach(transformed["made"])  # a job of a batch endpoint is a job
    assert asked.wait(60).state is State.SUCCEEDED
    with pytest.raises(NotFound, match="there is no batch 'theirs'"):  # an endpoint is none
        client.batch.attach("theirs")
    for strange in (theirs, other):
        with pytest.raises(Conflict, match="carries no tag of cloudai"):
            strange.delete()
    changing = {"PUT", "DELETE", "PATCH"}
    assert not [one.path for one in azure.requests[seen:] if one.method in changing]
