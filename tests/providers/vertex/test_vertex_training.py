"""Training jobs over real sockets, against the emulator."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from vertextools import golden, sent

from cloudai import Client
from cloudai.errors import (
    InvalidRequest,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobPartial,
    JobPreempted,
    JobTimedOut,
    WaitTimeout,
)
from cloudai.providers.vertex import common
from cloudai.providers.vertex.training import package, wire
from cloudai.testing.emulators.vertex import Fate, VertexEmulator
from cloudai.types import (
    Input,
    Metric,
    Outputs,
    Resources,
    Retry,
    SecretRef,
    Spot,
    State,
    TrainingJob,
)

PLACE = wire.Place(
    "p",
    "europe-west4",
    "gs://staging/cloudai/training/job-k",
    "robot@p.iam.gserviceaccount.com",
    "projects/1/global/networks/vpc",
)


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "src"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("import lib.part\nprint('loss=0.5')\n")
    (folder / "lib" / "part.py").write_text("X = 1\n")
    (folder / "notes.txt").write_text("not for the job\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret\n")
    return str(folder)


def job(source: str, **about: Any) -> TrainingJob:
    about = {"source": source, "entry": "train.py", "name": "job", **about}
    return TrainingJob(**about)


SPECS: dict[str, dict[str, Any]] = {
    "training_script": {
        "hyperparameters": {"epochs": 3, "rate": 0.1, "deep": True},
        "args": ("--verbose",),
        "inputs": {
            "train": "gs://data/train",
            "test": Input(uri="gs://data/test.csv", mode="mount"),
            "own": "here/own",
        },
        "metrics": (Metric(name="loss", regex="loss=([0-9.]+)"),),
        "env": {"A": "1"},
        "secrets": {"TOKEN": SecretRef(store="secretmanager", name="token", version="3")},
        "requirements": "requirements.txt",
        "tags": {"team": "x"},
        "timeout": 3600.0,
        "idempotency_key": "k1",
    },
    "training_gpus_and_nodes": {
        "framework": "pytorch==2.3",
        "resources": Resources(accelerator="A100-80GB:8", nodes=4, disk=200),
        "spot": Spot(),
        "retry": Retry(max=3),
        "outputs": Outputs(model="gs://models/mine"),
    },
    "training_flex_start": {
        "framework": "huggingface",
        "resources": Resources(accelerator="H100-80GB:8"),
        "spot": Spot(max_wait=7200),
        "native": {
            "vertex": {
                "jobSpec": {
                    "scheduling": {"strategy": "FLEX_START"},
                    "reservedIpRanges": ["range"],
                    "enableWebAccess": True,
                }
            }
        },
    },
    "training_own_image": {
        "image": "europe-docker.pkg.dev/p/r/i:1",
        "hyperparameters": {"x": [1, 2]},
    },
    "training_container": {
        "kind": "container",
        "source": None,
        "entry": None,
        "image": "europe-docker.pkg.dev/p/r/i:1",
        "command": ("run",),
        "args": ("a",),
        "hyperparameters": {"lr": 0.1},
    },
}


@pytest.mark.parametrize("name", SPECS)
def test_golden(name: str) -> None:
    spec = TrainingJob(**{"source": "src", "entry": "train.py", "name": "job", **SPECS[name]})
    assert wire.violations(spec, PLACE) == []
    golden(name, wire.encode(spec, PLACE))


def test_plan_is_what_is_sent(client: Client, cloud: VertexEmulator, source: str) -> None:
    spec = job(
        source,
        idempotency_key="k1",
        resources=Resources(accelerator="L4:1"),
        hyperparameters={"epochs": 2},
        tags={"a": "b"},
    )
    plan = client.training.plan(spec)
    assert plan.ok
    assert cloud.requests == []
    client.training.submit(spec)
    (body,) = [one.body for one in cloud.requests if one.path.endswith("/customJobs")]
    import msgspec

    assert body == msgspec.json.encode(plan.requests[-1].body)
    assert plan.requests[-1].operation == (
        f"POST /v1/projects/{cloud.project}/locations/{cloud.location}/customJobs"
    )
    assert plan.cost is not None
    assert plan.cost.high == pytest.approx(0.81)


def test_archive_is_the_same_each_time_and_holds_the_source(source: str) -> None:
    spec = job(source, ignore=("*.txt",))
    data = package.build(spec)
    assert data == package.build(spec)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = {name.removeprefix("cloudai_job/") for name in tar.getnames()}
    assert names == {"task.py", "bootstrap.py", "source/train.py", "source/lib/part.py"}


def test_states_of_the_proto_are_all_known() -> None:
    from google.cloud.aiplatform_v1 import JobState

    assert {state.name for state in JobState} == set(common.STATES)
    assert common.state("JOB_STATE_OF_NEXT_YEAR") is State.UNKNOWN
    assert not common.state("JOB_STATE_OF_NEXT_YEAR").done


@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (Fate(state="JOB_STATE_EXPIRED"), JobExpired),
        (Fate(state="JOB_STATE_PARTIALLY_SUCCEEDED"), JobPartial),
        (Fate(state="JOB_STATE_CANCELLED"), JobCancelled),
        (Fate(state="JOB_STATE_FAILED", message="bad"), JobFailed),
        (Fate(state="JOB_STATE_FAILED", code=4, message="too long"), JobTimedOut),
        (
            Fate(state="JOB_STATE_FAILED", message="The replica was preempted."),
            JobPreempted,
        ),
    ],
)
def test_wait_tells_every_end(
    client: Client, cloud: VertexEmulator, source: str, fate: Fate, error: type[Exception]
) -> None:
    cloud.jobs.fate = fate
    started = client.training.submit(job(source))
    with pytest.raises(error):
        started.wait(30)


def test_exit_code_and_log_of_a_failure(client: Client, cloud: VertexEmulator, source: str) -> None:
    cloud.jobs.fate = Fate(
        state="JOB_STATE_FAILED",
        message="The replica workerpool0-0 exited with a non-zero status of 3.",
        logs=("first", "Traceback: it broke"),
    )
    with pytest.raises(JobFailed) as caught:
        client.training.submit(job(source)).wait(30)
    assert caught.value.exit_code == 3
    assert caught.value.log_tail[-1] == "Traceback: it broke"


def test_paused_is_no_end_and_has_a_deadline(
    client: Client, cloud: VertexEmulator, source: str
) -> None:
    cloud.jobs.fate = Fate(state="JOB_STATE_PAUSED")
    started = client.training.submit(job(source))
    cloud.clock.advance(10)
    with pytest.raises(WaitTimeout):
        started.wait(0.8)
    status = started.status
    assert status.state is State.QUEUED
    assert status.native_state == "JOB_STATE_PAUSED"
    assert "resumed" in (status.reason or "")


def test_unavailable_while_polling_does_not_end_the_wait(
    client: Client, cloud: VertexEmulator, source: str
) -> None:
    started = client.training.submit(job(source))
    cloud.faults.add("unavailable", "GET .*/customJobs/", times=3)
    cloud.faults.add("reset", "GET .*/customJobs/", times=2)
    assert started.wait(60).state is State.SUCCEEDED


def test_lost_replies_make_no_second_job(cloud: VertexEmulator, source: str) -> None:
    """100 of 100 creates lose their reply; each is looked up, and found."""
    cloud.faults.add("lose_reply", "POST .*/customJobs$", times=100)

    def submit(number: int) -> str:
        with Client(provider="vertex", **cloud.keys()) as client:
            spec = job(source, name=f"job-{number}", idempotency_key=f"key-{number}")
            return client.training.submit(spec).native_id

    with ThreadPoolExecutor(10) as pool:
        ids = list(pool.map(submit, range(100)))
    names = sorted(one["displayName"] for one in cloud.jobs.all.values())
    assert names == sorted(f"job-{number}" for number in range(100))
    assert set(ids) == set(cloud.jobs.all)


def test_nothing_is_left_after_destroy(
    client: Client, cloud: VertexEmulator, source: str, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("1\n")
    started = client.training.submit(job(source, inputs={"train": str(tmp_path / "data.csv")}))
    assert cloud.storage.names(f"gs://{cloud.bucket}/")
    client.destroy(started.id)  # while it runs: it is cancelled first
    assert cloud.jobs.all == {}
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == []
    assert client.resources() == []


def test_nothing_is_left_of_a_job_that_is_refused(
    client: Client, cloud: VertexEmulator, source: str, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("1\n")
    spec = job(
        source,
        inputs={"train": str(tmp_path / "data.csv")},
        native={"vertex": {"nonsense": 1}},
    )
    with pytest.raises(InvalidRequest, match="nonsense"):
        client.training.submit(spec)
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == []
    assert client.resources() == []


def test_logs_of_several_machines_come_whole_though_late(
    client: Client, cloud: VertexEmulator, source: str
) -> None:
    started = client.training.submit(job(source))
    started.wait(30)
    adapter = client._runtime.binding("training").adapter
    from cloudai.protocols import Call

    labels = {"job_id": started.native_id.rpartition("/")[2], "task_name": "workerpool1-0"}
    now = cloud.clock.now()
    for second in range(3):
        cloud.logging.write("ml_job", labels, f"line {second}", at=now + second, structured=True)
    first = adapter.logs(started.native_id, None, Call())
    assert [line.text for line in first.lines] == ["line 0", "line 1", "line 2"]
    assert first.lines[0].source == "workerpool1-0"
    cloud.logging.write("ml_job", labels, "late", at=now + 0.5)
    second = adapter.logs(started.native_id, first.cursor, Call())
    assert [line.text for line in second.lines] == ["late"]
    assert adapter.logs(started.native_id, second.cursor, Call()).lines == ()


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"tags": {"Team": "x"}}, "tags"),
        ({"tags": {"team": "has space"}}, "tags"),
        ({"tags": {"cloudai_key": "x"}}, "tags"),
        ({"tags": {f"t{n}": "x" for n in range(80)}}, "tags"),
        ({"resources": Resources(accelerator="H200:8"), "location": "europe-west4"}, "accelerator"),
        ({"resources": Resources(accelerator="A100-80GB:3")}, "accelerator"),
        ({"resources": Resources(accelerator="MI300:1")}, "accelerator"),
        ({"resources": Resources(cpus=1000)}, "accelerator"),
        ({"timeout": 1e8}, "timeout"),
        ({"retry": Retry(max=2, on=("failed",))}, "retry.on"),
        ({"retry": Retry(max=2, on=("capacity",))}, "retry.on"),
        ({"secrets": {"X": SecretRef(store="env", name="Y")}}, "secrets"),
        ({"inputs": {"train": "s3://b/k"}}, "inputs"),
        ({"inputs": {"train": "nowhere.csv"}}, "inputs"),
        ({"outputs": Outputs(model="here")}, "outputs"),
        ({"framework": "mxnet"}, "framework"),
        ({"framework": "pytorch==1.0"}, "framework"),
        ({"entry": "other.py"}, "entry"),
        ({"location": "global"}, "location"),
        ({"network": "my-vpc"}, "network"),
        ({"reserved_ip_ranges": "r"}, "reserved_ip_ranges"),
    ],
)
def test_bad_input_is_not_sent(
    cloud: VertexEmulator, source: str, about: dict[str, Any], field: str
) -> None:
    about = dict(about)
    own = ("location", "network", "reserved_ip_ranges")
    keys = {**cloud.keys(), **{name: about.pop(name) for name in own if name in about}}
    client = Client(provider="vertex", **keys)
    plan = client.training.plan(job(source, **about))
    assert any(field in violation.field for violation in plan.violations)
    with pytest.raises(InvalidRequest, match=field):
        client.training.submit(job(source, **about))
    assert cloud.requests == []
    assert client.resources() == []


def test_account_network_and_reserved_addresses(cloud: VertexEmulator, source: str) -> None:
    network = "projects/1/global/networks/vpc"
    account = "robot@p.iam.gserviceaccount.com"
    client = Client(
        provider="vertex",
        **cloud.keys(),
        service_account=account,
        network=network,
        reserved_ip_ranges="range-a, range-b",
    )
    client.training.submit(job(source))
    (body,) = sent(cloud, "/customJobs")
    assert body["jobSpec"]["serviceAccount"] == account
    assert body["jobSpec"]["network"] == network
    assert body["jobSpec"]["reservedIpRanges"] == ["range-a", "range-b"]


def test_found_again_by_the_resource_name(cloud: VertexEmulator, source: str) -> None:
    with Client(provider="vertex", **cloud.keys()) as first:
        started = first.training.submit(job(source))
    with Client(provider="vertex", **cloud.keys()) as second:
        for id in (started.native_id, started.id, started.native_id.rpartition("/")[2]):
            assert second.training.attach(id).wait(30).state is State.SUCCEEDED


def test_accelerator_of_another_region_names_candidates(cloud: VertexEmulator, source: str) -> None:
    client = Client(provider="vertex", **{**cloud.keys(), "location": "europe-west4"})
    plan = client.training.plan(job(source, resources=Resources(accelerator="H200:8")))
    (violation,) = plan.violations
    assert "us-central1" in violation.mend
    assert "H100-80GB" in violation.mend


def test_bucket_in_another_region(cloud: VertexEmulator, source: str) -> None:
    cloud.storage.bucket("far-away", "europe-north1")
    client = Client(provider="vertex", **{**cloud.keys(), "bucket": "gs://far-away"})
    with pytest.raises(InvalidRequest, match="europe-north1"):
        client.training.submit(job(source))
    assert sent(cloud, "/customJobs") == []
    for location in ("US", "us-central1"):
        cloud.storage.bucket(f"fine-{location.lower()}", location)
        keys = {**cloud.keys(), "bucket": f"fine-{location.lower()}"}
        assert Client(provider="vertex", **keys).training.submit(job(source)).id


def test_bucket_that_may_only_be_used(client: Client, cloud: VertexEmulator, source: str) -> None:
    """An account that may write objects need not be allowed to look at the bucket."""
    cloud.storage.hidden.add(cloud.bucket)
    assert client.training.submit(job(source)).wait(30).state is State.SUCCEEDED


def test_folder_of_many_files(
    client: Client, cloud: VertexEmulator, source: str, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    for number in range(60):
        (folder / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 7) / f"{number}.txt").write_text(str(number))
    started = client.training.submit(job(source, inputs={"train": str(folder)}))
    pool = sent(cloud, "/customJobs")[0]["jobSpec"]["workerPoolSpecs"][0]
    env = {one["name"]: one["value"] for one in pool["containerSpec"]["env"]}
    uri = env["CLOUDAI_INPUT_TRAIN"]
    names = cloud.storage.names(uri + "/")
    assert len(names) == 60
    assert cloud.storage.get(f"{uri}/3/10.txt") == b"10"
    cloud.faults.add("unavailable", "DELETE .*/o/.*", times=3)
    client.destroy(started.id)
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == []


def test_the_job_fetches_secrets_and_copies_inputs(source: str, tmp_path: Path) -> None:
    """The task that travels with the source, run as Vertex AI would."""
    (Path(source) / "train.py").write_text(
        "import json, os, pathlib, sys\n"
        "print('ARGS', sys.argv[1:])\n"
        "print('TOKEN', os.environ['TOKEN'] == 'top-secret')\n"
        "place = os.environ['CLOUDAI_INPUT_TRAIN']\n"
        "print('COPY', pathlib.Path(place).read_text(), place)\n"
    )
    data = tmp_path / "data.csv"
    data.write_text("1,2")
    with tarfile.open(fileobj=io.BytesIO(package.build(job(source)))) as tar:
        tar.extractall(tmp_path / "package", filter="data")
    with VertexEmulator() as cloud:
        cloud.secrets["token"] = "top-secret"
        done = subprocess.run(
            [
                sys.executable,
                str(tmp_path / "package" / "cloudai_job" / "task.py"),
                "train.py",
                "--epochs",
                "3",
            ],
            env={
                "GCE_METADATA_HOST": cloud.url.removeprefix("http://"),
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": cloud.url,
                "CLOUDAI_VERTEX_SECRETS": '{"TOKEN": "projects/emulated-project/secrets/token/'
                'versions/latest"}',
                "CLOUDAI_VERTEX_COPY": '["train"]',
                "CLOUDAI_INPUT_TRAIN": str(data),
                "AIP_MODEL_DIR": str(tmp_path / "out" / "model"),
                "TMPDIR": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "ARGS ['--epochs', '3']" in done.stdout
    assert "TOKEN True" in done.stdout
    assert "COPY 1,2" in done.stdout
    assert str(data) not in done.stdout


def test_secret_values_are_nowhere_in_the_job(
    client: Client, cloud: VertexEmulator, source: str
) -> None:
    cloud.secrets["token"] = "CANARY-VALUE"
    ref = SecretRef(store="secretmanager", name="token")
    client.training.submit(job(source, secrets={"TOKEN": ref}))
    assert all(b"CANARY-VALUE" not in one.body for one in cloud.requests)


def test_cost_grows_with_time(client: Client, cloud: VertexEmulator, source: str) -> None:
    cloud.jobs.fate = Fate(running=1e6)
    started = client.training.submit(
        job(source, resources=Resources(accelerator="A100-80GB:8", nodes=2))
    )
    cloud.clock.advance(1)
    assert started.state is State.RUNNING
    cost = started.cost
    assert cost is not None
    assert 0 <= cost < 1
    started.cancel()
