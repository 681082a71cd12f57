"""What the service itself takes and tells: each test names the finding that it stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform_v1
from google.protobuf import json_format

from cloudai import BatchTransform, Client, Input, InvalidRequest, Rollout, State, TrainingJob
from cloudai.errors import JobFailed, ProviderError
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import Deployment, Spot, Variant


@pytest.fixture
def runs() -> Iterator[VertexEmulator]:
    with VertexEmulator(execute=True) as emulator:
        yield emulator


@pytest.fixture
def runner(runs: VertexEmulator) -> Iterator[Client]:
    with Client(provider="vertex", **runs.keys()) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "train.py").write_text("print('hello')\n")
    return str(folder)


def model(cloud: VertexEmulator, scale: int) -> str:
    base = f"gs://{cloud.bucket}/models/{scale}"
    cloud.storage.put(f"{base}/model.json", json.dumps({"scale": scale}))
    cloud.storage.put(f"{base}/handler.py", (ASSETS / "handler.py").read_text())
    return base


def test_v4_long_timeouts_are_durations_of_the_proto(client: Client, source: str) -> None:
    plan = client.training.plan(
        TrainingJob(
            source=source,
            entry="train.py",
            timeout=1_209_600.0,
            spot=Spot(max_wait=2_000_000.0),
            native={"vertex": {"jobSpec": {"scheduling": {"strategy": "FLEX_START"}}}},
        )
    )
    assert plan.ok
    body = plan.requests[-1].body
    read = aiplatform_v1.CustomJob.pb()()
    json_format.ParseDict(body, read)
    assert read.job_spec.scheduling.timeout.seconds == 1_209_600
    assert read.job_spec.scheduling.max_wait_duration.seconds == 2_000_000


CONTAINER = """
import os, pathlib
text = pathlib.Path(os.environ["CLOUDAI_INPUT_TRAIN"]).read_text()
model = pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"])
model.mkdir(parents=True)
(model / "model.txt").write_text(text)
"""


def test_v5_a_container_of_ones_own_is_told_paths(runner: Client, runs: VertexEmulator) -> None:
    data = runs.storage.put(f"gs://{runs.bucket}/data/train.csv", "1,2")
    job = runner.training.submit(
        TrainingJob(
            kind="container",
            image="europe-docker.pkg.dev/p/r/i:1",
            command=("python3", "-c", CONTAINER),
            inputs={"train": data},
        )
    )
    job.wait(60)
    (sent,) = runs.jobs.all.values()
    env = common_env(sent)
    assert env["CLOUDAI_INPUT_TRAIN"] == f"/gcs/{runs.bucket}/data/train.csv"
    assert runs.storage.get(f"{job.model.uri}/model.txt") == b"1,2"


def common_env(job: dict[str, Any]) -> dict[str, str]:
    (pool,) = job["jobSpec"]["workerPoolSpecs"]
    return {one["name"]: one["value"] for one in pool["containerSpec"]["env"]}


def test_v6_variables_that_the_service_refuses(client: Client, source: str) -> None:
    env = {"A": ""}
    job = TrainingJob(source=source, entry="train.py", env=env)
    handler = Path(source) / "handler.py"
    handler.write_text("def predict(model, inputs, params): return inputs\ndef load(path): pass\n")
    spec = Deployment(name="x", variants=(Variant(model=source),), handler=str(handler), env=env)
    for plan in (client.training.plan(job), client.endpoints.plan(spec)):
        assert [one.field for one in plan.violations] == ["env.A"]
    with pytest.raises(InvalidRequest, match=r"env\.A"):
        client.training.submit(job)


@pytest.mark.parametrize("ahead", [60.0, -60.0])
def test_v7_an_update_after_a_failed_one_serves_whatever_the_clocks_say(
    runner: Client, runs: VertexEmulator, ahead: float
) -> None:
    endpoint = runner.endpoints.deploy(model(runs, 2), name="clocks")
    runs.clock.advance(ahead)  # from here on this machine's clock is as much off
    runs.serving.failures["main"] = "the model is corrupt"
    with pytest.raises(Exception, match="the model is corrupt"):
        endpoint.update(model(runs, 3))
    runs.serving.failures.clear()
    endpoint.update(model(runs, 5))
    assert endpoint.predict([1]) == [5]
    assert endpoint.status.state is State.RUNNING


def test_v7_a_canary_bakes_by_the_services_clock(runner: Client, runs: VertexEmulator) -> None:
    endpoint = runner.endpoints.deploy(model(runs, 2), name="bakes")
    rollout = Rollout(kind="canary", percent=20, bake=3600)
    endpoint.update(model(runs, 3), rollout=rollout, wait=False)
    while len([one for one in endpoint.status.variants if one.share]) != 2:
        pass
    runs.clock.advance(3700)
    endpoint.wait(60)
    assert endpoint.predict([1]) == [3]


def test_v8_a_batch_of_a_tuned_model_names_the_model(client: Client, cloud: VertexEmulator) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    Path("train.jsonl").write_text(json.dumps(row) + "\n")
    tuned = client.training.submit(
        TrainingJob(kind="finetune", base_model="gemini-3.5-flash", inputs={"train": "train.jsonl"})
    )
    tuned.wait(60)
    Path("in.jsonl").write_text('"hi"\n')
    batch = client.batch.submit(
        BatchTransform(chat=tuned.model.uri, input="in.jsonl", output="out.jsonl")
    )
    batch.wait(60)
    (sent,) = cloud.batches.all.values()
    assert "/models/" in sent["model"]
    assert json.loads(Path("out.jsonl").read_text())["text"] == "ho"


@pytest.mark.parametrize(
    ("location", "bucket", "good"),
    [
        ("us-central1", "NAM4", True),
        ("us-east1", "NAM4", True),
        ("us-west1", "NAM4", False),
        ("europe-west4", "EUR4", True),
        ("us-central1", "US", True),
        ("europe-west4", "US", False),
        ("global", "EUROPE-WEST4", True),
        ("us-central1", "EU", False),
    ],
)
def test_v9_buckets_of_two_regions_and_work_of_none(location: str, bucket: str, good: bool) -> None:
    place = "us-central1" if location == "global" else location
    with VertexEmulator(location=place) as cloud:
        cloud.storage.bucket("there", bucket)
        keys = {**cloud.keys(), "location": location, "bucket": "there"}
        Path("in.jsonl").write_text('"hi"\n')
        spec = BatchTransform(chat="gemini-3.5-flash", input="in.jsonl", output="out.jsonl")
        with Client(provider="vertex", **keys) as client:
            if good:
                client.batch.submit(spec).wait(60)
            else:
                with pytest.raises(InvalidRequest, match="bucket"):
                    client.batch.submit(spec)


FILE = """
import os, pathlib
place = pathlib.Path(os.environ["CLOUDAI_INPUT_TRAIN"])
print("named", place.name, place.read_text(), flush=True)
"""


@pytest.mark.parametrize("where", ["here", "bucket"])
@pytest.mark.parametrize("mode", ["copy", "mount"])
def test_v10_an_input_that_is_one_file_keeps_its_name(
    runner: Client, runs: VertexEmulator, source: str, where: str, mode: Any
) -> None:
    (Path(source) / "train.py").write_text(FILE)
    uri = "train.csv"
    Path(uri).write_text("1,2")
    if where == "bucket":
        uri = runs.storage.put(f"gs://{runs.bucket}/data/train.csv", "1,2")
    job = runner.training.submit(
        TrainingJob(source=source, entry="train.py", inputs={"train": Input(uri=uri, mode=mode)})
    )
    job.wait(60)
    assert [line.text for line in job.logs()] == ["named train.csv 1,2"]


def test_v11_the_end_of_a_long_log(runner: Client, source: str) -> None:
    script = "for number in range(1500):\n    print(number)\nraise RuntimeError('the cause')\n"
    (Path(source) / "train.py").write_text(script)
    job = runner.training.submit(TrainingJob(source=source, entry="train.py"))
    with pytest.raises(JobFailed) as caught:
        job.wait(60)
    assert caught.value.log_tail[-1] == "RuntimeError: the cause"
    assert "1499" in caught.value.log_tail


@pytest.mark.parametrize("uri", ["gs://{bucket}/nothing", "gs://no-such-bucket/train"])
def test_v12_an_input_that_is_not_there(
    client: Client, cloud: VertexEmulator, source: str, uri: str
) -> None:
    uri = uri.format(bucket=cloud.bucket)
    with pytest.raises(InvalidRequest, match=r"inputs\.train"):
        client.training.submit(TrainingJob(source=source, entry="train.py", inputs={"train": uri}))
    assert cloud.jobs.all == {}
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == []


def test_l9_the_model_of_a_job_that_nothing_ran(
    client: Client, cloud: VertexEmulator, source: str
) -> None:
    job = client.training.submit(TrainingJob(source=source, entry="train.py"))
    job.wait(60)
    handler = Path("handler.py")
    handler.write_text((ASSETS / "handler.py").read_text())
    endpoint = client.endpoints.deploy(job.model, name="made", handler=str(handler))
    assert endpoint.status.state is State.RUNNING


def test_l11_a_list_that_leads_in_a_circle(
    client: Client, cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudai.testing.emulators.vertex import _collection

    monkeypatch.setattr(
        _collection, "page", lambda found, *_: {"customJobs": [], "nextPageToken": "1"}
    )
    with pytest.raises(ProviderError, match="twice"):
        client.training.list()
    assert len([one for one in cloud.requests if one.path.endswith("customJobs")]) < 5


def test_z12_native_outside_of_its_nest(client: Client, source: str) -> None:
    handler = Path(source) / "handler.py"
    handler.write_text("def load(path): pass\ndef predict(model, inputs, params): return inputs\n")
    about = {"name": "x", "handler": str(handler)}
    native = {"vertex": {"containerSpec": {"env": []}}}
    (found,) = client.endpoints.plan(source, native=native, **about).violations
    assert found.field == "native.vertex.containerSpec"
    assert '{"model": {"containerSpec": …}}' in found.mend
    model = aiplatform_v1.Model.pb().DESCRIPTOR.fields_by_name
    camel = {re.sub(r"_(\w)", lambda m: m[1].upper(), name) for name in model}
    from cloudai.providers.vertex.endpoints import wire

    assert set(wire._NESTS["model"]) <= camel
