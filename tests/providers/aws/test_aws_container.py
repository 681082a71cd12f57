"""What runs inside a training container: the real entrypoint, in processes of this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from msgspec.structs import replace

from cloudai import Client, Resources, TrainingJob
from cloudai.errors import JobFailed
from cloudai.providers.aws.training import efa
from cloudai.testing.emulators.aws import BUCKET, AwsEmulator, LocalExecutor
from cloudai.types import Metric, Outputs, SecretRef, Spot

SCRIPT = """
import argparse, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
given = parser.parse_args()
rows = open(os.path.join(os.environ["SM_CHANNEL_TRAIN"], "a.csv")).read()
told = {
    "epochs": given.epochs, "rows": rows, "hps": json.loads(os.environ["SM_HPS"]),
    "hp": os.environ["SM_HP_EPOCHS"], "channels": json.loads(os.environ["SM_CHANNELS"]),
    "hosts": json.loads(os.environ["SM_HOSTS"]), "host": os.environ["SM_CURRENT_HOST"],
    "name": os.environ["TRAINING_JOB_NAME"], "same": os.environ["CLOUDAI_INPUT_TRAIN"] ==
    os.environ["SM_CHANNEL_TRAIN"], "secret": len(os.environ["DB"]), "key": len(os.environ["KEY"]),
    "input": sorted(k for k in os.environ if k.startswith("CLOUDAI_INPUT_")),
}
print("loss=0.25", flush=True)
json.dump(told, open(os.path.join(given.model_dir, "told.json"), "w"))
open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "report.txt"), "w").write("beside")
"""


@pytest.fixture
def local(aws: AwsEmulator, tmp_path: Path) -> AwsEmulator:
    return aws.start(LocalExecutor(tmp_path / "emulated"))


def test_a_script_written_for_sagemakers_toolkit(
    local: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    """With secrets, one of them a field of an older version, fetched in the container."""
    manager = boto3.client("secretsmanager", endpoint_url=local.url)
    manager.create_secret(Name="db", SecretString='{"password": "four"}')
    manager.put_secret_value(SecretId="db", SecretString='{"password": "longer"}')
    boto3.client("ssm", endpoint_url=local.url).put_parameter(
        Name="/k", Value="abc", Type="SecureString"
    )
    s3 = boto3.client("s3", endpoint_url=local.url)
    s3.put_object(Bucket=BUCKET, Key="data/a.csv", Body=b"1,2\n")
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    job = client.training.submit(
        TrainingJob(
            source=str(folder), entry="train.py", name="toolkit", hyperparameters={"epochs": 3},
            inputs={"train": f"s3://{BUCKET}/data/"}, env={"AWS_ENDPOINT_URL": local.url},
            outputs=Outputs(model=f"s3://{BUCKET}/elsewhere"),
            metrics=(Metric(name="loss", regex="loss=([0-9.]+)"),),
            secrets={
                "DB": SecretRef(store="secretsmanager", name="db#password", version="AWSPREVIOUS"),
                "KEY": SecretRef(store="ssm", name="/k"),
            },
        )
    )  # fmt: skip
    status = job.wait(60)
    assert [point.value for point in status.metrics["loss"]] == [0.25]
    told = json.loads((job.download(tmp_path / "model") / "told.json").read_text())
    assert told == {
        "epochs": 3, "rows": "1,2\n", "hps": {"epochs": 3}, "hp": "3", "channels": ["train"],
        "hosts": ["algo-1"], "host": "algo-1", "name": "toolkit", "same": True, "secret": 4,
        "key": 3, "input": ["CLOUDAI_INPUT_TRAIN"],
    }  # fmt: skip
    beside = job.download(tmp_path / "beside", output="output")
    assert (beside / "report.txt").read_text() == "beside"
    job.delete()
    left = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [row["Key"] for row in left] == ["data/a.csv"]


def test_why_a_container_did_not_get_to_the_script(
    local: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    boto3.client("secretsmanager", endpoint_url=local.url).create_secret(
        Name="db", SecretString='{"user": "canary"}'
    )
    (tmp_path / "train.py").write_text("")
    spec = TrainingJob(
        source=str(tmp_path), entry="train.py", env={"AWS_ENDPOINT_URL": local.url},
        secrets={"DB": SecretRef(store="secretsmanager", name="db#password")},
        ignore=("emulated",),
    )  # fmt: skip
    with pytest.raises(JobFailed, match="'db' has no field 'password'") as caught:
        client.training.submit(spec).wait(60)
    assert "canary" not in str(caught.value)
    missing = replace(spec, secrets={"KEY": SecretRef(store="ssm", name="/none")})
    with pytest.raises(JobFailed, match="secret '/none' of KEY could not be read"):
        client.training.submit(missing).wait(60)


RESUMED = """
import os, pathlib, time
kept = pathlib.Path(os.environ["CLOUDAI_CHECKPOINT_DIR"]) / "step"
if kept.exists():
    print("resumed at", kept.read_text(), flush=True)
else:
    kept.write_text("41")
    print("saved", flush=True)
    time.sleep(600)
"""


def test_a_spot_job_goes_on_from_its_checkpoints(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    """Its machine is taken away in the middle, really."""
    executor = LocalExecutor(tmp_path / "emulated")
    aws.start(executor)
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text(RESUMED)
    spec = TrainingJob(source=str(folder), entry="train.py", name="spot", spot=Spot())
    job = client.training.submit(spec)
    end = time.monotonic() + 60
    while not any(line.text == "saved" for line in job.logs()):
        assert time.monotonic() < end, "it saved nothing"
        time.sleep(0.1)
    executor.interrupt("spot")
    status = job.wait(60)
    assert status.restarts == 1
    assert [line.text for line in job.logs()] == ["saved", "resumed at 41"]
    assert (job.download(tmp_path / "kept", output="checkpoints") / "step").read_text() == "41"
    job.delete()
    left = boto3.client("s3", endpoint_url=aws.url).list_objects_v2(Bucket=BUCKET)
    assert left["KeyCount"] == 0


TORCH = """
import os, torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank())])
dist.all_reduce(total)
said = (f"rank {dist.get_rank()} of {dist.get_world_size()} on {os.environ['SM_CURRENT_HOST']} "
        f"sum={total.item():g}")
os.write(1, said.encode() + bytes([10]))  # in one piece: print() lets the ranks' lines mix
if dist.get_rank() == 0:
    open(os.path.join(os.environ["CLOUDAI_MODEL_DIR"], "sum.txt"), "w").write(f"{total.item():g}")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_torchrun_over_two_machines(local: AwsEmulator, client: Client, tmp_path: Path) -> None:
    """Two machines of two processes each; the machines' logs are told apart."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text(TORCH)
    job = client.training.submit(
        TrainingJob(
            source=str(folder), entry="train.py",
            resources=Resources(instance_type="ml.m5.xlarge", nodes=2, nproc=2),
        )
    )  # fmt: skip
    job.wait(180)
    said = {line.source: [] for line in job.logs()}  # type: ignore[var-annotated]
    for line in job.logs():
        if line.text.startswith("rank"):
            said[line.source].append(line.text)
    assert sorted(said["algo-1"]) == [f"rank {n} of 4 on algo-1 sum=6" for n in (0, 1)]
    assert sorted(said["algo-2"]) == [f"rank {n} of 4 on algo-2 sum=6" for n in (2, 3)]
    assert (job.download(tmp_path / "model") / "sum.txt").read_text() == "6"


def test_the_network_of_several_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """EFA where the sagemaker SDK knows of it; what the job itself sets stays."""
    monkeypatch.setenv("CLOUDAI_ML_ROOT", str(tmp_path))
    from cloudai.providers.aws.container import start

    p4d = efa.variables("ml.p4d.24xlarge")
    assert (p4d["FI_PROVIDER"], p4d["FI_EFA_USE_DEVICE_RDMA"]) == ("efa", "1")
    assert efa.variables("ml.m5.xlarge") == {}
    job: Any = {"script": ["t.py"], "fabric": {"ml.p4d.24xlarge": p4d}}
    env = {
        "SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_INSTANCE_TYPE": "ml.p4d.24xlarge",
        "SM_NETWORK_INTERFACE_NAME": "eth2",
    }  # fmt: skip
    made = start.network(job, env)
    assert made == {**p4d, "NCCL_SOCKET_IFNAME": "eth2", "GLOO_SOCKET_IFNAME": "eth2"}
    assert start.network(job, {**env, "SM_HOSTS": '["algo-1"]'}) == {}


def test_v5_a_container_of_ones_own_is_told_the_contract(
    local: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("1,2")
    code = (
        "import os, json; "
        "text = open(os.environ['CLOUDAI_INPUT_TRAIN']).read(); "
        "rate = json.loads(os.environ['CLOUDAI_HPS'])['rate']; "
        "open(os.path.join(os.environ['CLOUDAI_MODEL_DIR'], 'm.txt'), 'w').write(f'{text} {rate}')"
    )
    job = client.training.submit(
        TrainingJob(
            kind="container",
            image="123456789012.dkr.ecr.us-east-1.amazonaws.com/own:1",
            command=("python3", "-c"),
            args=(code,),
            inputs={"train": str(tmp_path / "train.csv")},
            hyperparameters={"rate": 0.5},
        )
    )
    job.wait(60)
    assert (job.download(tmp_path / "out") / "m.txt").read_text() == "1,2 0.5"


@pytest.mark.parametrize("where", ["here", "bucket"])
def test_v10_an_input_that_is_one_file_keeps_its_name(
    local: AwsEmulator, client: Client, tmp_path: Path, where: str
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "train.py").write_text(
        "import os, pathlib\n"
        "place = pathlib.Path(os.environ['CLOUDAI_INPUT_TRAIN'])\n"
        "print('named', place.name, place.read_text())\n"
    )
    uri = str(tmp_path / "train.csv")
    Path(uri).write_text("1,2")
    if where == "bucket":
        s3 = boto3.client("s3", endpoint_url=local.url)
        s3.put_object(Bucket=BUCKET, Key="data/train.csv", Body=b"1,2")
        uri = f"s3://{BUCKET}/data/train.csv"
    job = client.training.submit(
        TrainingJob(source=str(source), entry="train.py", inputs={"train": uri})
    )
    job.wait(60)
    assert "named train.csv 1,2" in [line.text for line in job.logs()]
