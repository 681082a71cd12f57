"""The sagemaker SDK does the same work at the emulator, finds what cloudai made, and cloudai finds
what it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from cloudai import BatchTransform, Client, Conflict, NotFound, TrainingJob
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.aws import BUCKET, ROLE, AwsEmulator, LocalExecutor, _container
from cloudai.types import State

TRAIN = """
import json, os, pathlib
rows = pathlib.Path(os.environ["SM_CHANNEL_TRAIN"], "a.csv").read_text().split()
scale = json.loads(os.environ["SM_HPS"])["scale"]
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.json").write_text(json.dumps({"scale": scale}))
print("rows", len(rows), flush=True)
"""


def test_the_sagemaker_sdk_and_cloudai_see_each_others_work(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    if not _container.mounts():
        pytest.skip("the SDK's own script names /opt/ml, and this machine has no user namespaces")
    aws.start(LocalExecutor(tmp_path / "emulated"))
    s3 = boto3.client("s3", endpoint_url=aws.url)
    s3.put_object(Bucket=BUCKET, Key="data/a.csv", Body=b"1\n2\n")
    s3.put_object(Bucket=BUCKET, Key="lines/in.jsonl", Body=b"1\n2\n")
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    job = client.training.submit(
        TrainingJob(
            source=str(source), entry="train.py", name="ours", hyperparameters={"scale": 3},
            inputs={"train": f"s3://{BUCKET}/data/"},
        )
    )  # fmt: skip
    job.wait(60)
    handler = ASSETS / "handler.py"
    endpoint = client.endpoints.deploy(job.model, name="ours", handler=handler)
    batch = client.batch.submit(
        BatchTransform(
            name="ours", model=job.model, handler=str(handler),
            input=f"s3://{BUCKET}/lines/in.jsonl", output=f"s3://{BUCKET}/out/ours.jsonl",
        )
    )  # fmt: skip
    batch.wait(60)
    (sent,) = aws.sent("CreateTrainingJob")
    given = {
        "training_image": sent.json["AlgorithmSpecification"]["TrainingImage"],
        "source": str(source), "data": f"s3://{BUCKET}/data/", "bucket": BUCKET, "role": ROLE,
        "job": job.native_id, "endpoint": endpoint.native_id, "batch": batch.native_id,
        "lines": f"s3://{BUCKET}/lines/", "output": f"s3://{BUCKET}/out/theirs",
    }  # fmt: skip
    (tmp_path / "given.json").write_text(json.dumps(given))
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("sagemaker_sdk.py"))]
    done = subprocess.run(
        [*program, str(tmp_path / "given.json")], env={**os.environ, **aws.env},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    training, served, transformed = (found[name] for name in ("training", "endpoint", "batch"))
    assert (training["status"], training["found"]) == ("Completed", "Completed")
    assert training["log"] == ["rows 2"]
    assert training["model"] == job.status.outputs["model"]
    assert training["listed"] == ["ours", training["made"]]
    assert (served["status"], served["variant"]) == ("InService", "main")
    assert served["answers"] == [{"predictions": [3, 6]}] * 2
    assert served["listed"] == ["ours", "theirs"]
    assert (transformed["status"], transformed["theirs"]) == ("Completed", "Completed")
    assert transformed["output"].startswith(f"s3://{BUCKET}/")
    assert transformed["listed"] == ["ours", transformed["made"]]

    # And the other way.
    theirs = client.training.attach(training["made"])
    assert theirs.wait(60).state is State.SUCCEEDED
    assert "rows 2" in [line.text for line in theirs.logs()]
    assert json.loads((theirs.download(tmp_path / "t") / "model.json").read_text()) == {"scale": 3}
    assert client.endpoints.attach("theirs").predict([1, 2]) == [3, 6]
    other = client.batch.attach(transformed["made"])
    status = other.wait(60)
    assert (status.state, status.outputs) == (State.SUCCEEDED, {"output": given["output"]})
    assert list(other.logs()) == list(batch.logs())
    made = s3.get_object(Bucket=BUCKET, Key="out/theirs/in.jsonl.out")["Body"].read()
    assert made.split() == b"3 6".split(), made
    for strange in (theirs, other, client.endpoints.attach("theirs")):
        with pytest.raises(Conflict, match="carries no tag of cloudai"):
            strange.delete()
    other.delete(force=True)
    batch.delete()
    with pytest.raises(NotFound, match="there is no batch 'ours'"):
        client.batch.attach("ours")
