"""Training on SageMaker: plans, ends, bad input, lost replies, what is left."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudai import BatchTransform, Client, Resources, TrainingJob
from cloudai.errors import (
    CloudAIError,
    ConfigError,
    Conflict,
    InvalidRequest,
    JobCancelled,
    JobCapacityError,
    JobExpired,
    JobFailed,
    JobTimedOut,
    UnsupportedByProvider,
)
from cloudai.testing.emulators.aws import BUCKET, ROLE, AwsEmulator, Fate, ScriptedExecutor
from cloudai.types import Input, Metric, Outputs, Retry, SecretRef, Spot, State

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/own:1"
GOLDEN = Path(__file__).parent / "golden" / "training.json"


def job(here: str, /, **about: Any) -> TrainingJob:
    return TrainingJob(**{"source": here, "entry": "train.py", "timeout": 600.0, **about})


def full(source: str) -> TrainingJob:
    """A job that uses most of what there is."""
    return job(
        source,
        name="golden-job",
        idempotency_key="key-1",
        requirements="requirements.txt",
        framework="pytorch==2.6",
        args=("--verbose",),
        hyperparameters={"epochs": 3, "rate": 0.1, "deep": True, "name": "x", "sizes": [1, 2]},
        env={"MODE": "fast"},
        inputs={"train": "s3://cloudai-emulated/data/", "more": Input(
            uri="s3://cloudai-emulated/data/", mode="stream")},
        resources=Resources(accelerator="A100-40GB:8", nodes=2, disk=100),
        spot=Spot(max_wait=7200),
        retry=Retry(max=2),
        metrics=(Metric(name="loss", regex="loss=([0-9.]+)"),),
        tags={"team": "vision"},
        native={"aws": {"EnableNetworkIsolation": False}},
    )  # fmt: skip


def put(aws: AwsEmulator, key: str, data: bytes = b"1\n") -> str:
    boto3.client("s3", endpoint_url=aws.url).put_object(Bucket=BUCKET, Key=key, Body=data)
    return f"s3://{BUCKET}/{key}"


def test_what_plan_shows_is_what_is_sent(aws: AwsEmulator, client: Client, source: str) -> None:
    put(aws, "data/a.txt")
    spec = full(source)
    before = len(aws.requests)
    plan = client.training.plan(spec)
    assert len(aws.requests) == before, "plan asked somebody"
    assert plan.ok, plan.violations
    client.training.submit(spec)
    (sent,) = aws.sent("CreateTrainingJob")
    (planned,) = [r for r in plan.requests if r.operation == "sagemaker:CreateTrainingJob"]
    assert sent.body == json.dumps(planned.body).encode()
    assert sent.json == json.loads(GOLDEN.read_text())


def test_the_cost_of_a_plan(client: Client, source: str) -> None:
    spec = job(source, resources=Resources(instance_type="ml.m5.xlarge"), timeout=3600.0)
    cost = client.training.plan(spec).cost
    assert cost is not None
    assert cost.high == pytest.approx(0.23)
    assert 0 < cost.low < cost.high
    assert cost.as_of


def test_capacity_that_is_preferred(client: Client, source: str) -> None:
    resources = Resources(accelerator="H100:1".replace("H100", "H100-80GB"), any_of=("L4:1",))
    body = client.training.plan(job(source, resources=resources)).requests[-1].body
    assert [row["InstanceType"] for row in body["ResourceConfig"]["InstancePreferences"]] == [
        "ml.p5.4xlarge", "ml.g6.xlarge",
    ]  # fmt: skip
    assert "InstanceType" not in body["ResourceConfig"]


ENDS: list[tuple[str, Fate, dict[str, Any], type[CloudAIError], State, str]] = [
    ("failed", Fate(end="Failed", exit_code=7, logs=("boom",)), {}, JobFailed, State.FAILED, "7"),
    ("late", Fate(running=1e6), {"timeout": 1.0}, JobTimedOut, State.TIMED_OUT, "MaxRuntime"),
    (
        "capacity", Fate(end="CapacityError"), {}, JobCapacityError, State.FAILED, "CapacityError",
    ),
    (
        "no-spot", Fate(starting=1e6),
        {"timeout": 5.0, "spot": Spot(max_wait=10.0)}, JobExpired, State.EXPIRED, "MaxWaitTime",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", ENDS, ids=lambda case: case[0])
def test_ends_are_told_apart(aws: AwsEmulator, client: Client, source: str, case: Any) -> None:
    _, fate, about, kind, state, word = case
    aws.cloud_state.executor = ScriptedExecutor([fate])
    handle = client.training.submit(job(source, **about))
    aws.cloud_state.advance(2e6 if state is State.EXPIRED else 100.0)
    with pytest.raises(kind) as caught:
        handle.wait(20)
    error: Any = caught.value
    assert type(error) is kind
    assert error.state is state
    assert word in str(error)
    if state is State.FAILED and fate.end == "Failed":
        assert error.exit_code == 7
        assert "boom" in error.log_tail
        assert "CapacityError" not in str(error)


def test_a_stopped_job_is_cancelled(aws: AwsEmulator, client: Client, source: str) -> None:
    aws.cloud_state.executor = ScriptedExecutor([Fate(running=1e6, stopping=0.0)])
    handle = client.training.submit(job(source))
    handle.cancel()
    with pytest.raises(JobCancelled):
        handle.wait(20)


def test_a_spot_job_that_was_interrupted(aws: AwsEmulator, client: Client, source: str) -> None:
    aws.cloud_state.executor = ScriptedExecutor([Fate(interruptions=2)])
    handle = client.training.submit(job(source, spot=Spot()))
    status = handle.wait(20)
    assert status.restarts == 2
    (sent,) = aws.sent("CreateTrainingJob")
    assert sent.json["EnableManagedSpotTraining"] is True
    assert sent.json["CheckpointConfig"]["S3Uri"].startswith(f"s3://{BUCKET}/")


def test_metrics_logs_and_cost(aws: AwsEmulator, client: Client, source: str) -> None:
    fate = Fate(running=3600.0, logs=("loss=1.0", "no number", "loss=0.5"))
    aws.cloud_state.executor = ScriptedExecutor([fate])
    metric = Metric(name="loss", regex="loss=([0-9.]+)")
    handle = client.training.submit(
        job(source, metrics=(metric,), timeout=7200.0, resources=Resources(
            instance_type="ml.m5.xlarge")))  # fmt: skip
    aws.cloud_state.advance(3700)
    status = handle.wait(20)
    assert [point.value for point in status.metrics["loss"]] == [1.0, 0.5]
    assert [line.text for line in handle.logs()] == ["loss=1.0", "no number", "loss=0.5"]
    assert status.cost == pytest.approx(0.23, rel=0.01)


@pytest.mark.slow
def test_lost_replies_make_no_second_job(
    aws: AwsEmulator, keys: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after SageMaker took the job: 100 of 100 jobs exist once."""
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    client = Client(**keys, retries=6)
    for number in range(100):
        aws.faults.add("lose_reply", r"CreateTrainingJob$", times=1 + number % 2)
        spec = job(
            source,
            name=f"lost-{number}",
            kind="container",
            image="123456789012.dkr.ecr.us-east-1.amazonaws.com/img:1",
            entry=None,
        )
        handle = client.training.submit(spec)
        assert handle.native_id == f"lost-{number}"
    names = [one["TrainingJobName"] for one in aws.cloud_state.of(aws.region, "TrainingJob")]
    assert sorted(names) == sorted(f"lost-{number}" for number in range(100))
    # Each was created by one request that took effect; what went out again was adopted.
    assert len(aws.sent("CreateTrainingJob")) >= 100
    client.close()


def test_a_key_from_another_process_is_found_by_its_tag(
    aws: AwsEmulator, keys: Any, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(source, name="once", idempotency_key="the-key")
    Client(**keys).training.submit(spec)
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "elsewhere"))
    other = Client(**keys)
    adapter = other._runtime.binding("training").adapter
    from cloudai.protocols import Call

    assert adapter.find("the-key", Call()) == "once"
    assert adapter.find("no-key", Call()) is None
    assert other.training.submit(spec).native_id == "once"
    assert len(aws.cloud_state.of(aws.region, "TrainingJob")) == 1


def test_a_name_that_is_taken(client: Client, source: str) -> None:
    client.training.submit(job(source, name="taken"))
    with pytest.raises(Conflict, match="another name"):
        client.training.submit(job(source, name="taken", env={"A": "1"}))


@pytest.mark.slow
def test_half_a_minute_of_throttling_is_survived(
    aws: AwsEmulator, client: Client, source: str
) -> None:
    aws.faults.add("throttle", r"CreateTrainingJob$", times=None)
    end = threading.Timer(30.0, aws.faults.clear)
    began = time.monotonic()
    end.start()
    client.training.submit(job(source, name="patient"), timeout=90.0)
    assert time.monotonic() - began >= 30.0
    assert len(aws.cloud_state.of(aws.region, "TrainingJob")) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "hyperparameters": ({"hyperparameters": {f"h{n}": n for n in range(101)}}, "hyperparameters"),
    "long-value": ({"hyperparameters": {"text": "x" * 3000}}, "hyperparameters"),
    "instance": ({"resources": Resources(instance_type="ml.g5.xlarg")}, "ml.g5.xlarge"),
    "accelerator": ({"resources": Resources(accelerator="A100-80GB:1")}, "resources.accelerator"),
    "local-input": ({"inputs": {"train": "/no/such/place"}}, "inputs.train"),
    "remote-input": ({"inputs": {"train": f"s3://{BUCKET}/nothing/"}}, "inputs.train"),
    "no-bucket": ({"inputs": {"train": "s3://there-is-no-such-bucket/x"}}, "inputs.train"),
    "other-cloud": ({"inputs": {"train": "gs://bucket/x"}}, "inputs.train"),
    "source": ({"source": "/no/such/place"}, "source"),
    "entry": ({"entry": "none.py"}, "entry"),
    "requirements": ({"requirements": "none.txt"}, "requirements"),
    "framework": ({"framework": "caffe"}, "framework"),
    "version": ({"framework": "pytorch==9.9"}, "framework"),
    "image-region": (
        {"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x:1"}, "eu-west-1",
    ),
    "output": ({"outputs": Outputs(model="/tmp/model")}, "outputs.model"),
    "spot": ({"spot": Spot(max_wait=5.0)}, "spot.max_wait"),
    "tag": ({"tags": {"k" * 200: "v"}}, "tags"),
    "channels": ({"inputs": {f"c{n}": f"s3://{BUCKET}/x" for n in range(21)}}, "inputs"),
    "channels-and-code": (
        {"inputs": {f"c{n}": f"s3://{BUCKET}/x" for n in range(20)}}, "20 channels",
    ),
    "profile-bucket": ({"inputs": {"train": "s3://BAD_/x"}}, "inputs.train"),
    "secret": ({"secrets": {"KEY": SecretRef(store="env", name="X")}}, "secrets"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_a_job_is_sent(
    aws: AwsEmulator, client: Client, source: str, case: str
) -> None:
    about, word = BAD[case]
    with pytest.raises(InvalidRequest) as caught:
        client.training.submit(job(source, **about))
    assert word in str(caught.value)
    assert aws.sent("CreateTrainingJob") == []
    assert client.resources() == []


@pytest.mark.parametrize("name", ["a" * 64, "-x", "x-", "with space", "x_y", ""])
def test_bad_names(source: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        job(source, name=name)


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"role": "cloudai-jobs"}, "role"),
        ({"role": "arn:aws:iam::123:role/x"}, "role"),
        ({"bucket": "s3://bucket"}, "bucket"),
        ({"subnets": "subnet-1"}, "security_groups"),
        ({"kms_key": "arn:aws:kms:eu-west-1:123456789012:key/1"}, "eu-west-1"),
    ],
)
def test_bad_profiles(aws: AwsEmulator, keys: Any, source: str, about: Any, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Client(**{**keys, **about}).training.submit(job(source))
    assert aws.sent("CreateTrainingJob") == []


def test_a_bucket_in_another_region(aws: AwsEmulator, keys: Any, source: str) -> None:
    s3 = boto3.client("s3", endpoint_url=aws.url, region_name="eu-west-1")
    s3.create_bucket(
        Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    with pytest.raises(InvalidRequest, match="eu-west-1"):
        Client(**{**keys, "bucket": "far-away"}).training.submit(job(source))
    assert aws.sent("CreateTrainingJob") == []


def test_a_bucket_that_does_not_exist(aws: AwsEmulator, keys: Any, source: str) -> None:
    with pytest.raises(InvalidRequest, match="bucket='not-there' is a bucket that does not exist"):
        Client(**{**keys, "bucket": "not-there"}).training.submit(job(source))
    assert aws.sent("CreateTrainingJob") == []


def test_the_default_bucket_is_sagemakers(keys: Any, source: str) -> None:
    about = {key: value for key, value in keys.items() if key != "bucket"}
    body = Client(**about).training.plan(job(source)).requests[-1].body
    where = body["OutputDataConfig"]["S3OutputPath"]
    assert where.startswith("s3://sagemaker-us-east-1-123456789012/")


def test_network_and_encryption(keys: Any, source: str) -> None:
    client = Client(**keys, subnets="subnet-1, subnet-2", security_groups="sg-1", kms_key="k")
    body = client.training.plan(job(source)).requests[-1].body
    assert body["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]}
    assert body["OutputDataConfig"]["KmsKeyId"] == "k"
    assert body["ResourceConfig"]["VolumeKmsKeyId"] == "k"
    # Machines with disks of their own take no key for them, and say so.
    plan = client.training.plan(job(source, resources=Resources(accelerator="L4:1")))
    assert "VolumeKmsKeyId" not in plan.requests[-1].body["ResourceConfig"]
    assert any("hardware" in loss for loss in plan.dropped)


def test_network_and_encryption_of_endpoints_and_batches(keys: Any, tmp_path: Path) -> None:
    client = Client(**keys, subnets="subnet-1", security_groups="sg-1", kms_key="k")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "handler.py").write_text("def load(d): ...\ndef predict(m, i, p): ...\n")
    (tmp_path / "in.jsonl").write_text('"x"\n' * 100)
    about = {"input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.jsonl")}
    model = str(tmp_path / "model")
    config = client.endpoints.plan(model, name="e", mode="async").requests[-2].body
    assert config["KmsKeyId"] == config["AsyncInferenceConfig"]["OutputConfig"]["KmsKeyId"] == "k"
    transform = client.batch.plan(BatchTransform(**about, model=model)).requests[-1].body
    assert transform["TransformOutput"]["KmsKeyId"] == "k"
    assert transform["TransformResources"]["VolumeKmsKeyId"] == "k"
    chat = BatchTransform(**about, chat="anthropic.claude-opus-4-1-20250805-v1:0")
    invocation = client.batch.plan(chat).requests[-1].body
    assert invocation["outputDataConfig"]["s3OutputDataConfig"]["s3EncryptionKeyId"] == "k"
    assert invocation["vpcConfig"] == {"subnetIds": ["subnet-1"], "securityGroupIds": ["sg-1"]}


def test_fine_tuning_names_the_alternative(client: Client) -> None:
    spec = TrainingJob(kind="finetune", base_model="m", inputs={"train": f"s3://{BUCKET}/x"})
    with pytest.raises(UnsupportedByProvider, match="script"):
        client.training.submit(spec)


def test_delete_leaves_nothing(aws: AwsEmulator, client: Client, source: str) -> None:
    handle = client.training.submit(job(source, inputs={"train": source}))
    handle.wait(20)
    handle.delete()
    assert aws.cloud_state.left() == []
    s3 = boto3.client("s3", endpoint_url=aws.url)
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
    assert ROLE.startswith("arn:")


@pytest.mark.slow
def test_images_are_those_of_the_sagemaker_sdk() -> None:
    """Held against the SDK itself, in a process of its own: it warns and is slow to import."""
    import subprocess
    import sys

    code = """
import warnings; warnings.simplefilter("ignore")
from sagemaker.core import image_uris
from cloudai.providers.aws.images import image
for name, version in (("pytorch", "2.6"), ("pytorch", "2.6.0"), ("tensorflow", "2.19")):
    for scope in ("training", "inference"):
        for gpu, machine in ((False, "ml.m5.xlarge"), (True, "ml.g5.xlarge")):
            for region in ("eu-west-1", "us-east-1"):
                theirs = image_uris.retrieve(name, region, version=version, image_scope=scope,
                                             instance_type=machine)
                ours = image(f"{name}=={version}", scope, region, chip="gpu" if gpu else "cpu")
                assert ours == theirs, (ours, theirs)
# M6: Graviton's own.
for name, version in (("pytorch", "2.6.0"), ("pytorch", "2.4.0"), ("tensorflow", "2.16.1")):
    theirs = image_uris.retrieve(name, "eu-west-1", version=version, instance_type="ml.c7g.xlarge",
                                 image_scope="inference_graviton")
    ours = image(f"{name}=={version}", "inference", "eu-west-1", chip="graviton")
    assert ours == theirs, (ours, theirs)
# Every image of Hugging Face's with PyTorch, of the newest base where there are several.
import json, pathlib, sagemaker
table = pathlib.Path(sagemaker.__path__[0], "core/image_uri_config/huggingface.json")
table = json.loads(table.read_text())
count = 0
for scope in ("training", "inference"):
    for version, row in table[scope]["versions"].items():
        bases = [key for key in row if key.startswith("pytorch")]
        for gpu, machine in ((False, "ml.m5.xlarge"), (True, "ml.g5.xlarge")) if bases else ():
            try:
                theirs = image_uris.retrieve("huggingface", "eu-west-1", version=version,
                    image_scope=scope, instance_type=machine, base_framework_version=bases[-1])
            except ValueError:
                theirs = None
            try:
                ours = image(f"huggingface=={version}", scope, "eu-west-1",
                             chip="gpu" if gpu else "cpu")
            except ValueError:
                ours = None
            assert ours == theirs, (ours, theirs)
            count += ours is not None
assert count >= 40, count
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_m5_tensorflow_starts_as_itself(client: Client, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    about = {"source": str(tmp_path), "entry": "train.py", "framework": "tensorflow"}
    plan = client.training.plan(
        TrainingJob(**about, resources=Resources(accelerator="A10G:4", nodes=2))
    )
    env = plan.requests[-1].body["Environment"]
    assert env == {"CLOUDAI_FRAMEWORK": "tensorflow"}
    plan = client.training.plan(TrainingJob(**about, resources=Resources(nproc=4)))
    assert [one.field for one in plan.violations] == ["resources.nproc"]


def test_m11_no_restart_for_want_of_machines(keys: Any, source: str) -> None:
    with Client(**keys) as client:
        plan = client.training.plan(
            TrainingJob(source=source, entry="train.py", retry=Retry(max=2, on=("capacity",)))
        )
    assert [violation.field for violation in plan.violations] == ["retry.on"]
