"""Azure ML: what the conformance suite does not look at."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import (
    CloudAIError,
    InvalidRequest,
    JobFailed,
    JobPartial,
    JobTimedOut,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.azure.ml import job_wire as wire
from cloudai.providers.azure.ml import workspace as _workspace
from cloudai.providers.azure.ml.machines import machine
from cloudai.providers.azure.session import session
from cloudai.testing.emulators.azure import AzureEmulator, LocalExecutor
from cloudai.testing.emulators.azure._ml import Scoring
from cloudai.types import Deployment, Metric, Resources, Spot, State, TrainingJob, Variant

HANDLER = (
    "import json\n"
    "def load(place):\n    with open(f'{place}/model.json') as file:\n"
    "        return json.load(file)['scale']\n"
    "def predict(model, inputs, params):\n    return [model * value for value in inputs]\n"
)


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Generator[AzureEmulator]:
    """An emulator that runs jobs and models on this machine."""
    with AzureEmulator(LocalExecutor(), speed=20.0) as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def client(azure: AzureEmulator) -> Generator[cloudai.Client]:
    with cloudai.Client(provider="azure", workspace="lab", compute="cluster") as made:
        yield made


def source(folder: Path, script: str) -> str:
    (folder / "src").mkdir()
    (folder / "src" / "train.py").write_text(script)
    return str(folder / "src")


def sent(azure: AzureEmulator, part: str) -> list[Any]:
    return [json.loads(r.body) for r in azure.requests if r.method == "PUT" and part in r.path]


def test_what_plan_shows_is_what_is_sent(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    data = tmp_path / "data.txt"
    data.write_text("hello")
    spec = TrainingJob(
        name="golden",
        idempotency_key="k",
        source=source(
            tmp_path, "print(open(__import__('os').environ['CLOUDAI_INPUT_TEXT']).read())"
        ),
        entry="train.py",
        inputs={"text": str(data)},
        hyperparameters={"epochs": 3, "name": "it's"},
        resources=Resources(accelerator="A100-80GB:1", nodes=2, nproc=1),
        spot=Spot(require_checkpoint=False),
        timeout=60,
        tags={"team": "a"},
    )
    plan = client.training.plan(spec)
    assert plan.ok, plan.violations
    client.training.submit(spec)
    (body,) = sent(azure, "/jobs/")
    shown = plan.requests[-1].body
    uri = body["properties"]["inputs"]["text"].pop("uri")
    assert uri.endswith("/data.txt")
    shown["properties"]["inputs"]["text"].pop("uri")
    assert shown == body
    properties = body["properties"]
    assert properties["resources"] == {
        "instanceCount": 2,
        "instanceType": "Standard_NC24ads_A100_v4",
    }
    assert properties["queueSettings"] == {"jobTier": "Spot"}
    assert properties["limits"]["timeout"] == "PT660S"
    assert properties["distribution"]["processCountPerInstance"] == 1
    assert json.loads(properties["environmentVariables"]["CLOUDAI_HPS"])["epochs"] == 3
    assert [r.body for r in plan.requests if "/environments/" in r.operation] == sent(
        azure, "/environments/"
    )


def test_the_same_source_is_uploaded_once(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    folder = source(tmp_path, "print('hello')")
    for name in ("one", "two"):
        job = client.training.submit(TrainingJob(name=name, source=folder, entry="train.py"))
        assert job.wait(30).state is State.SUCCEEDED
    assert len(sent(azure, "/codes/")) == 1
    assert len(sent(azure, "/environments/")) == 1


def test_a_timeout_is_no_failure(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    folder = source(tmp_path, "import time; time.sleep(60)")
    spec = TrainingJob(source=folder, entry="train.py", timeout=0.5)
    with pytest.raises(JobTimedOut, match=r"0\.5 s"):
        client.training.submit(spec).wait(30)


def test_lost_replies_make_no_duplicate(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    folder = source(tmp_path, "print('hello')")
    for number in range(10):
        azure.faults.add("lose_reply", "PUT /subscriptions/.*/jobs/")
        client.training.submit(TrainingJob(name=f"job-{number}", source=folder, entry="train.py"))
        assert len(client.training.list()) == number + 1


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"source": "/nowhere"}, "source"),
        ({"entry": "other.py"}, "entry"),
        ({"inputs": {"x": "/nowhere"}}, "inputs.x"),
        ({"inputs": {"x": "s3://bucket/x"}}, "inputs.x"),
        ({"resources": Resources(accelerator="L4:1")}, "accelerator"),
        ({"resources": Resources(accelerator="A100-80GB:3")}, "A100-80GB:4"),
        ({"spot": Spot()}, "checkpoints"),
        ({"outputs": cloudai.Outputs(model="models/x")}, "outputs.model"),
        ({"native": {"azure": {"tier": 1}}}, "tier"),
        ({"requirements": "nowhere.txt"}, "requirements"),
    ],
)
def test_bad_specs(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path, about: dict[str, Any], field: str
) -> None:
    given = {"source": source(tmp_path, ""), "entry": "train.py", **about}
    with pytest.raises(InvalidRequest, match=field):
        client.training.submit(TrainingJob(**given))
    assert not client.training.plan(TrainingJob(**given)).ok
    assert not azure.requests


def test_fine_tuning_belongs_to_azure_openai(client: cloudai.Client) -> None:
    spec = TrainingJob(kind="finetune", base_model="gpt-5.1", inputs={"train": "x"})
    with pytest.raises(UnsupportedByProvider, match="without workspace"):
        client.training.submit(spec)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Resources(), "Standard_DS3_v2"),
        (Resources(cpus=16), "Standard_DS5_v2"),
        (Resources(memory=100), "Standard_D32s_v3"),
        (Resources(accelerator="A100-40GB:8"), "Standard_ND96asr_v4"),
        (Resources(accelerator="A100-80GB:8"), "Standard_ND96amsr_A100_v4"),
        (Resources(accelerator="H200:8"), "Standard_ND96isr_H200_v5"),
        (Resources(accelerator="L4:1", any_of=("T4:1",)), "Standard_NC4as_T4_v3"),
        (Resources(instance_type="Standard_X"), "Standard_X"),
    ],
)
def test_machines(asked: Resources, found: str) -> None:
    assert machine(asked) == found


@pytest.mark.parametrize("native", [*wire.STATES, "NotResponding"])
def test_states(native: str) -> None:
    job = {"name": "x", "properties": {"status": native}}
    expected = wire.STATES.get(native, State.UNKNOWN)
    assert wire.status(job, None).state is expected


def test_traffic_and_mirror(azure: AzureEmulator, client: cloudai.Client, tmp_path: Path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text(HANDLER)
    models: list[str] = []
    for scale in (2, 3):
        (tmp_path / f"m{scale}").mkdir()
        (tmp_path / f"m{scale}" / "model.json").write_text(json.dumps({"scale": scale}))
        models.append(str(tmp_path / f"m{scale}"))
    spec = Deployment(
        name="numbers",
        variants=(
            Variant(model=models[0], name="a", weight=2),
            Variant(model=models[1], name="b", weight=1),
        ),
        handler=str(handler),
        native={"azure": {"mirror": {"v-b": 10}}},
    )
    endpoint = client.endpoints.deploy(spec)
    assert {v.name: v.share for v in endpoint.status.variants} == {"a": 0.67, "b": 0.33}
    answered = [endpoint.invoke([1]) for _ in range(30)]
    assert {(p.variant, p.outputs[0]) for p in answered} == {("a", 2), ("b", 3)}
    held = azure.cloud_state.ml["onlineEndpoints/numbers"]["properties"]
    assert held["traffic"] == {"v-a": 67, "v-b": 33}
    assert held["mirrorTraffic"] == {"v-b": 10}
    endpoint.delete()


def test_the_emulator_refuses_what_the_models_do_not_know(
    azure: AzureEmulator, client: cloudai.Client
) -> None:
    from cloudai.providers.azure.ml.workspace import Workspace

    workspace = Workspace(client.profile)
    call = client.training._bound.caller.call()
    body = {"properties": {"jobType": "Command", "comand": "true"}}
    with pytest.raises(InvalidRequest, match="comand"):
        workspace.send("PUT", "jobs/x", call, body)


def test_a_workspace_beside_a_resource(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    azure.deploy("smart")
    lines = tmp_path / "in.jsonl"
    lines.write_text('"hello"\n')
    job = client.batch.submit(
        cloudai.BatchTransform(chat="smart", input=str(lines), output=str(tmp_path / "out.jsonl"))
    )
    assert job.wait(30).state is State.SUCCEEDED
    assert job.native_id.startswith("batch-")
    assert client.chat.create("hi", model="smart").text == "hi"


def test_no_heavy_sdk_is_loaded(connect: Callable[..., cloudai.Client]) -> None:
    code = (
        "import sys, cloudai.providers.azure.ml.training, cloudai.providers.azure.ml.endpoints, "
        "cloudai.providers.azure.ml.batch\n"
        "print([m for m in ('azure.ai.ml', 'torch', 'numpy', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_secret_gets_out(
    azure: AzureEmulator,
    client: cloudai.Client,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Signed addresses of the storage, the endpoint's key and tokens stay where they belong."""
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "azure", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    seen: list[str] = []
    job = client.training.submit(
        TrainingJob(source=source(tmp_path, "print('hi')"), entry="train.py")
    )
    job.wait(30)
    seen += [line.text for line in job.logs()]
    model = tmp_path / "model"
    model.mkdir()
    (model / "handler.py").write_text(
        "def load(place):\n    return 2\ndef predict(model, inputs, params):\n    return inputs\n"
    )
    endpoint = client.endpoints.deploy(str(model), name="numbers")
    assert endpoint.predict([1]) == [1]
    azure.faults.add("reset", "(POST /score|GET /store)", times=None)
    for failing in (lambda: endpoint.predict([1]), lambda: list(job.logs()), unreachable):
        with pytest.raises(CloudAIError) as caught:
            failing()
        seen += [repr(caught.value), "".join(traceback.format_exception(caught.value))]
        seen.append(repr(pickle.dumps(caught.value)))
    seen += [repr(client), repr(job), repr(endpoint), repr(client.resources())]
    seen += [record.getMessage() for record in caplog.records]
    seen += [repr(p.read_bytes()) for p in client.profile.home.rglob("*") if p.is_file()]
    assert any("sig=***" in text for text in seen)
    for secret in (
        azure.cloud_state.sas,
        azure.cloud_state.identity_header,
        *azure.cloud_state.tokens,
        "canary",
    ):
        leaks = [text for text in seen if secret in text]
        assert not leaks, leaks[0][:1000]


def unreachable() -> None:
    transport = session(cloudai.Client(provider="azure").training._bound.profile).transport
    url = "https://127.0.0.1:9/store/data?sp=r&sig=canary%2B0"
    with (
        _workspace._container(url, transport) as container,
        _workspace._storage_errors("data", Call()),
    ):
        container.upload_blob("x", b"x")


def a_batch(client: cloudai.Client, folder: Path, handler: str = HANDLER, **about: Any) -> Any:
    model = folder / "model"
    model.mkdir()
    (model / "model.json").write_text('{"scale": 2}')
    (model / "handler.py").write_text(handler)
    (folder / "in.jsonl").write_text("1\n2\n3\n")
    return client.batch.submit(
        cloudai.BatchTransform(
            model=str(model), input=str(folder / "in.jsonl"), output=str(folder / "out"), **about
        )
    )


def test_z1_a_job_that_the_service_names_itself_is_asked_for_once(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke = Scoring._invoke

    def renamed(self: Scoring, request: Any) -> Any:
        body = json.loads(request.body)
        body["properties"]["name"] = f"batchjob-{os.urandom(8).hex()}"
        request.body = json.dumps(body).encode()
        return invoke(self, request)

    monkeypatch.setattr(Scoring, "_invoke", renamed)
    batch = a_batch(client, tmp_path)
    assert batch.wait(60).state is State.SUCCEEDED
    asked = [r for r in azure.requests if r.method == "POST" and r.path.startswith("/jobs/")]
    assert len(asked) == 1
    assert list(batch.logs())


def test_z2_a_batch_environment_has_what_azure_ml_runs_it_with(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    a_batch(client, tmp_path)
    (environment,) = sent(azure, "/environments/")
    lines = environment["properties"]["condaFile"].splitlines()
    assert [line.split("==")[0] for line in lines if "azureml" in line] == [
        '      - "azureml-core',
        '      - "azureml-dataset-runtime[fuse]',
    ]


def test_z2_an_environment_without_it_fails_in_the_service_s_words(
    azure: AzureEmulator,
    client: cloudai.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ "Troubleshoot batch endpoints" and "Deploy models for scoring in batch endpoints"."""
    from cloudai.providers.azure.ml import model_assets

    for name, left, told in (
        ("none", (), "No module named 'azureml'"),
        ("half", model_assets.BATCH[:1], "are required by batch deployments"),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(model_assets, "BATCH", left)
        batch = a_batch(client, tmp_path / name)
        with pytest.raises(JobFailed, match=told):
            batch.wait(60)


@pytest.mark.parametrize("scheme", ["azureml", "https"])
def test_z13_a_batch_reads_and_writes_azure_s_storage(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path, scheme: str
) -> None:
    """What was submitted counts: the input is kept as it was then."""
    base = {
        "azureml": "azureml://datastores/workspaceblobstore/paths/lines",
        "https": f"{azure.secure_url}/store/data/lines",
    }[scheme]
    azure.cloud_state.blobs["data/lines/in.csv"] = b"n,word\n1,a\n2,b\n"
    handler = (
        "def load(place): return None\n"
        "def predict(model, inputs):\n    return [row['n'] * 2 for row in inputs]\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "handler.py").write_text(handler)
    spec = cloudai.BatchTransform(
        model=str(tmp_path / "model"), input=f"{base}/in.csv", output=f"{base}/out.jsonl",
        join="input",
    )  # fmt: skip
    assert client.batch.plan(spec).ok
    batch = client.batch.submit(spec)
    azure.cloud_state.blobs["data/lines/in.csv"] = b"gone"
    status = batch.wait(60)
    assert status.outputs == {"output": f"{base}/out.jsonl"}
    made = azure.cloud_state.blobs["data/lines/out.jsonl"].splitlines()
    assert [json.loads(line)["output"] for line in made] == ["11", "22"]
    assert json.loads(made[0])["input"] == {"n": "1", "word": "a"}
    # Whoever looks later finds it done, and a second batch does not write over it.
    azure.cloud_state.blobs["data/lines/out.jsonl"] = b"moved on"
    assert client.attach(batch.id).status.state is State.SUCCEEDED
    assert azure.cloud_state.blobs["data/lines/out.jsonl"] == b"moved on"
    azure.cloud_state.blobs["data/lines/in.csv"] = b"n\n1\n"
    with pytest.raises(cloudai.Conflict, match="exists"):
        client.batch.submit(spec)
    # A local output of a remote input.
    here = cloudai.BatchTransform(
        model=spec.model, input=f"{base}/in.csv", output=str(tmp_path / "out.jsonl")
    )
    other = client.batch.submit(here)
    other.wait(60)
    assert (tmp_path / "out.jsonl").read_text() == '"11"\n'
    for one in (batch, other):
        one.delete()
    assert not [name for name in azure.cloud_state.blobs if name.startswith("data/cloudai/")]


def test_z13_where_a_blob_lies() -> None:
    """By the forms that Azure Storage's own documents give ("The Azure Blob Filesystem driver")."""
    address = _workspace.address
    blob = ("https://acme.blob.core.windows.net/lake", "a b/c.jsonl")
    for uri in (
        "abfss://lake@acme.dfs.core.windows.net/a%20b/c.jsonl",
        "wasbs://lake@acme.blob.core.windows.net/a b/c.jsonl",
        "https://acme.blob.core.windows.net/lake/a%20b/c.jsonl",
        "https://acme.dfs.core.windows.net/lake/a%20b/c.jsonl",
    ):
        assert address(uri) == blob
    from azure.storage.blob import BlobClient

    account, container = blob[0].rsplit("/", 1)
    made = BlobClient(account, container, blob[1])
    assert BlobClient.from_blob_url(made.url).blob_name == blob[1]
    for uri, told in (
        ("https://evil.example/lake/c.jsonl", "no blob of Azure Storage"),
        ("https://acme.blob.core.windows.net.evil.example/lake/c", "no blob of Azure Storage"),
        ("https://acme.blob.core.windows.net/lake", "no blob of Azure Storage"),
        ("https://acme.blob.core.windows.net/lake/c?sig=x", "signed address"),
    ):
        with pytest.raises(InvalidRequest, match=told) as caught:
            address(uri)
        assert "sig=x" not in str(caught.value)


def test_k19_what_azure_ml_installs_and_runs_in_has_a_version() -> None:
    from cloudai.providers.azure.ml import images, model_assets

    for name in (*model_assets.ONLINE, *model_assets.BATCH, *images.packages("pytorch", [])):
        assert re.search(r"==\d", name)
    for row in images.table().images:
        assert re.search(r":\d", row.name)


def test_z3_an_update_keeps_the_traffic(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    for name, scale in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text(json.dumps({"scale": scale}))
        (tmp_path / name / "handler.py").write_text(HANDLER)
    endpoint = client.endpoints.deploy([Variant(name="a", model=str(tmp_path / "a"))], name="kept")
    endpoint.update([Variant(name="b", model=str(tmp_path / "b"))], wait=False)
    assert endpoint.predict([1]) == [2]  # the old one answers until the new one is up
    endpoint.wait(60)
    assert endpoint.predict([1]) == [3]


def test_z4_the_log_of_several_machines(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    job = client.training.submit(
        TrainingJob(
            kind="container", image="mine:1", resources=Resources(nodes=2, nproc=1),
            command=("bash", "-c", "echo loss=0.5; exit 3"),
            metrics=(Metric(name="loss", regex=r"loss=([0-9.]+)"),),
        )
    )  # fmt: skip
    with pytest.raises(JobFailed):
        job.wait(60)
    assert "loss=0.5" in [line.text for line in job.logs()]
    status = job.status
    assert status.exit_code == 3
    assert [point.value for point in status.metrics["loss"]] == [0.5]


@pytest.mark.parametrize(
    ("code", "took", "state"),
    [(137, 0, State.FAILED), (124, 5, State.FAILED), (124, 60, State.TIMED_OUT),
     (137, 90, State.TIMED_OUT)],
)  # fmt: skip
def test_z5_a_killed_command_is_late_only_after_its_time(
    code: int, took: int, state: State
) -> None:
    job = {
        "name": "j",
        "properties": {"status": "Failed", "properties": {wire.TIMEOUT: "60"}},
    }
    found = wire.status(job, f"begin\ncloudai: exit code {code} after {took} s\n")
    assert found.state is state
    assert found.exit_code == (code if state is State.FAILED else None)


def test_z9_a_nan_costs_its_own_line(client: cloudai.Client, tmp_path: Path) -> None:
    handler = (
        "def load(place): return None\n"
        "def predict(model, inputs):\n"
        "    return [float('nan') if x == 2 else {'y': x} for x in inputs]\n"
    )
    batch = a_batch(client, tmp_path, handler, on_error="skip")
    with pytest.raises(JobPartial, match="1 of 3 lines failed"):
        batch.wait(60)
    assert (tmp_path / "out").read_text().splitlines() == ['{"y":1}', "null", '{"y":3}']
