"""Jobs that are really run: each replica its own process, started as the service would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudai import Client
from cloudai.errors import JobFailed
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import Input, Resources, SecretRef, State, TrainingJob

SCRIPT = """
import json, os, pathlib, sys
print("args", sys.argv[1:], flush=True)
print("token", os.environ.get("TOKEN"), flush=True)
hyperparameters = json.loads(os.environ["CLOUDAI_HPS"])
train = pathlib.Path(os.environ["CLOUDAI_INPUT_TRAIN"])
text = (train / "data.csv" if train.is_dir() else train).read_text()
checkpoints = pathlib.Path(os.environ["CLOUDAI_CHECKPOINT_DIR"])
(checkpoints / "last.txt").write_text("epoch 3")
model = pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"])
(model / "model.json").write_text(json.dumps({**hyperparameters, "data": text}))
"""

CLUSTER = """
import datetime, os, pathlib, torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {total.item():g}", flush=True)
if dist.get_rank() == 0:
    pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"], "total.txt").write_text(f"{total.item():g}")
dist.destroy_process_group()
"""


@pytest.fixture
def cloud() -> Iterator[VertexEmulator]:
    with VertexEmulator(execute=True) as emulator:
        yield emulator


def source(folder: Path, text: str) -> str:
    folder.mkdir()
    (folder / "train.py").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    "about",
    [
        {"framework": "pytorch"},
        {"framework": "huggingface==4.48"},
        {"image": "europe-docker.pkg.dev/p/r/i:1"},
    ],
)
def test_script_in_every_kind_of_image(
    client: Client, cloud: VertexEmulator, tmp_path: Path, about: dict[str, Any]
) -> None:
    data = cloud.storage.put(f"gs://{cloud.bucket}/data/data.csv", "1,2")
    cloud.secrets["token"] = "a-secret"
    mode = "mount" if "image" in about else "copy"
    job = client.training.submit(
        TrainingJob(
            source=source(tmp_path / "src", SCRIPT),
            entry="train.py",
            hyperparameters={"epochs": 3, "name": "a b"},
            inputs={"train": Input(uri=data.rpartition("/")[0], mode=mode)},
            secrets={"TOKEN": SecretRef(store="secretmanager", name="token")},
            **about,
        )
    )
    job.wait(60)
    lines = [line.text for line in job.logs()]
    assert lines == ["args ['--epochs=3', '--name=a b']", "token a-secret"]
    made = json.loads((job.download(tmp_path / "model") / "model.json").read_text())
    assert made == {"epochs": 3, "name": "a b", "data": "1,2"}
    assert cloud.storage.get(f"{job.outputs['checkpoints']}/last.txt") == b"epoch 3"
    client.destroy(job.id)
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == [data]


def test_container_of_one_s_own(client: Client, cloud: VertexEmulator) -> None:
    job = client.training.submit(
        TrainingJob(
            kind="container",
            image="europe-docker.pkg.dev/p/r/i:1",
            command=("sh", "-c", 'echo "$0 $1 in $AIP_MODEL_DIR" && exit $2'),
            args=("hello", "there", "3"),
        )
    )
    with pytest.raises(JobFailed) as caught:
        job.wait(60)
    assert caught.value.exit_code == 3
    assert caught.value.log_tail[-1].startswith("hello there in gs://")


def test_torchrun_over_several_machines(
    client: Client, cloud: VertexEmulator, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    job = client.training.submit(
        TrainingJob(
            source=source(tmp_path / "src", CLUSTER),
            entry="train.py",
            resources=Resources(nodes=2, cpus=4),
            env={"OMP_NUM_THREADS": "1"},
        )
    )
    assert job.wait(300).state is State.SUCCEEDED, [line.text for line in job.logs()]
    said = {(line.source, line.text) for line in job.logs() if line.text.startswith("rank ")}
    assert said == {("workerpool0-0", "rank 0 of 2: 3"), ("workerpool1-0", "rank 1 of 2: 3")}
    assert cloud.storage.get(f"{job.model.uri}/total.txt") == b"3"


def test_one_replica_s_failure_ends_the_job(
    client: Client, cloud: VertexEmulator, tmp_path: Path
) -> None:
    text = (
        "import os, sys, time\n"
        "if os.environ['CLOUDAI_NODE_RANK'] == '1':\n"
        "    sys.exit(5)\n"
        "time.sleep(120)\n"
    )
    # No torchrun: the container starts the script on each machine itself.
    start = "import os, runpy, sys; os.environ['CLOUDAI_NODE_RANK'] = "
    start += "os.environ['CLUSTER_SPEC'].split('workerpool')[-1][0]; exec(sys.argv[1])"
    job = client.training.submit(
        TrainingJob(
            kind="container",
            image="europe-docker.pkg.dev/p/r/i:1",
            command=("python3", "-c", start, text),
            resources=Resources(nodes=2),
        )
    )
    with pytest.raises(JobFailed, match="workerpool1-0") as caught:
        job.wait(60)
    assert caught.value.exit_code == 5
