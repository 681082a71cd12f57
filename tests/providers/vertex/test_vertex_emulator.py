"""The emulator is what the vendor's own SDKs take it for, and as strict as the protos."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudai import BatchTransform, Client, Conflict, TrainingJob
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.vertex import VertexEmulator, _schema
from cloudai.testing.emulators.vertex._execute import LocalExecutor
from cloudai.types import State

SPECS = Path(__file__).parents[4] / "shared" / "specs" / "aiplatform.fds.binpb"


@pytest.fixture
def sdk(cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """google-cloud-aiplatform, pointed at the emulator."""
    import warnings

    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's own, at its import
        from google.cloud import aiplatform
        from google.oauth2.credentials import Credentials

        aiplatform.init(
            project=cloud.project,
            location=cloud.location,
            staging_bucket=f"gs://{cloud.bucket}",
            api_endpoint=cloud.url,
            api_transport="rest",
            credentials=Credentials(cloud.identity.issue()["access_token"]),
        )
        yield aiplatform
        aiplatform.initializer.global_pool.shutdown(wait=True)
        aiplatform.initializer.global_config._api_transport = None
        aiplatform.initializer.global_config._api_endpoint = None


def test_aiplatform_sdk_trains(sdk: Any, cloud: VertexEmulator) -> None:
    job = sdk.CustomJob(
        display_name="sdk",
        worker_pool_specs=[
            {
                "machine_spec": {"machine_type": "n1-standard-4"},
                "replica_count": 1,
                "container_spec": {"image_uri": "gcr.io/p/i"},
            }
        ],
    )
    job.submit()
    assert job.state.name in {"JOB_STATE_PENDING", "JOB_STATE_RUNNING"}
    cloud.clock.advance(10)
    assert job.state.name in {"JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"}
    cloud.clock.advance(10)
    assert job.state.name == "JOB_STATE_SUCCEEDED"
    assert [one.display_name for one in sdk.CustomJob.list()] == ["sdk"]
    job.delete()
    assert cloud.jobs.all == {}


def test_aiplatform_sdk_serves(sdk: Any, cloud: VertexEmulator) -> None:
    model = sdk.Model.upload(
        display_name="m",
        serving_container_image_uri="gcr.io/p/serve",
        artifact_uri=f"gs://{cloud.bucket}/m",
    )
    endpoint = sdk.Endpoint.create(display_name="e")
    endpoint.deploy(model, machine_type="n1-standard-4", traffic_percentage=100)
    assert endpoint.predict(instances=[1, {"a": "b"}]).predictions == [1, {"a": "b"}]
    endpoint.undeploy_all()
    endpoint.delete()
    model.delete()
    assert cloud.serving.endpoints == {}
    assert cloud.serving.models == {}


def test_v1_aiplatform_and_cloudai_see_each_others_work(
    sdk: Any, cloud: VertexEmulator, client: Client, tmp_path: Path
) -> None:
    """The SDK does the same work with the same files and containers, and gets the same answers; it
    finds what cloudai made, and cloudai what it made."""
    executor = LocalExecutor(cloud)
    cloud.serving.executor = cloud.jobs.executor = cloud.batches.executor = executor
    (tmp_path / "train.py").write_text(
        "import os, pathlib\n"
        "model = pathlib.Path(os.environ['CLOUDAI_MODEL_DIR'])\n"
        "(model / 'model.json').write_text('{\"scale\": 3}')\n"
        "print('trained')\n"
    )
    (tmp_path / "handler.py").write_text((ASSETS / "handler.py").read_text())
    (tmp_path / "in.jsonl").write_text("1\n2\n")
    try:
        both(sdk, cloud, client, tmp_path)
    finally:
        executor.close()


def both(sdk: Any, cloud: VertexEmulator, client: Client, tmp_path: Path) -> None:
    handler = str(tmp_path / "handler.py")
    job = client.training.submit(
        TrainingJob(source=str(tmp_path), entry="train.py", name="ours", tags={"team": "x"})
    )
    job.wait(60)
    (found,) = sdk.CustomJob.list(filter='labels.team="x"')
    assert (found.display_name, found.state.name) == ("ours", "JOB_STATE_SUCCEEDED")
    spec = found.gca_resource.job_spec
    theirs = sdk.CustomJob(
        display_name="theirs",
        worker_pool_specs=spec.worker_pool_specs,
        base_output_dir=f"gs://{cloud.bucket}/theirs",
    )
    theirs.submit()

    endpoint = client.endpoints.deploy(job.model, name="ours", handler=handler)
    (found,) = sdk.Endpoint.list()
    (deployed,) = found.list_models()
    # Ours is a dedicated endpoint: the SDK would ask its own host name, which leads to Google.
    assert found.gca_resource.dedicated_endpoint_enabled
    model = sdk.Model(deployed.model)
    container = model.gca_resource.container_spec
    again = sdk.Model.upload(
        display_name="again",
        artifact_uri=model.uri,
        serving_container_image_uri=container.image_uri,
        serving_container_command=list(container.command),
        serving_container_args=list(container.args),
        serving_container_predict_route=container.predict_route,
        serving_container_health_route=container.health_route,
        serving_container_ports=[port.container_port for port in container.ports],
    )
    other = sdk.Endpoint.create(display_name="theirs")
    other.deploy(again, machine_type="n1-standard-4", traffic_percentage=100)
    assert other.predict(instances=[1, 2]).predictions == endpoint.predict([1, 2]) == [3, 6]

    batch = client.batch.submit(
        BatchTransform(
            name="ours", model=job.model, handler=handler, input=str(tmp_path / "in.jsonl"),
            output=str(tmp_path / "out.jsonl"),
        )
    )  # fmt: skip
    batch.wait(60)
    assert (tmp_path / "out.jsonl").read_text().split() == ["3", "6"]
    (found,) = sdk.BatchPredictionJob.list()
    assert found.state.name == "JOB_STATE_SUCCEEDED"
    cloud.storage.put(f"gs://{cloud.bucket}/in.jsonl", "1\n2\n")
    asked = sdk.BatchPredictionJob.submit(
        model_name=again.resource_name,
        job_display_name="theirs",
        gcs_source=f"gs://{cloud.bucket}/in.jsonl",
        gcs_destination_prefix=f"gs://{cloud.bucket}/out",
        machine_type="n1-standard-4",
    )

    # And the other way; to look changes nothing.
    mine = client.training.attach(theirs.resource_name)
    assert mine.wait(60).state is State.SUCCEEDED
    assert "trained" in [line.text for line in mine.logs()]
    assert json.loads((mine.download(tmp_path / "t") / "model.json").read_text()) == {"scale": 3}
    served = client.endpoints.attach(other.resource_name)
    for _ in range(3):
        assert served.status.state is State.RUNNING
    assert served.predict([1, 2]) == [3, 6]
    transformed = client.batch.attach(asked.resource_name)
    assert transformed.wait(60).state is State.SUCCEEDED
    assert transformed.status.outputs["output"].startswith(f"gs://{cloud.bucket}/out/")
    for strange in (mine, served, transformed):
        with pytest.raises(Conflict, match="carries no tag of cloudai"):
            strange.delete()
    assert len(sdk.Endpoint.list()) == len(sdk.BatchPredictionJob.list()) == 2
    assert other.predict(instances=[1]).predictions == [3]


def test_aiplatform_sdk_batches(sdk: Any, cloud: VertexEmulator) -> None:
    cloud.storage.put(f"gs://{cloud.bucket}/in.jsonl", "1\n2\n")
    model = sdk.Model.upload(display_name="m", serving_container_image_uri="gcr.io/p/serve")
    job = sdk.BatchPredictionJob.submit(
        model_name=model.resource_name,
        job_display_name="b",
        gcs_source=f"gs://{cloud.bucket}/in.jsonl",
        gcs_destination_prefix=f"gs://{cloud.bucket}/out",
        machine_type="n1-standard-4",
    )
    for _ in range(200):
        cloud.clock.advance(1)
        if job.state.name == "JOB_STATE_SUCCEEDED":
            break
    assert job.state.name == "JOB_STATE_SUCCEEDED"
    assert len(cloud.storage.names(f"gs://{cloud.bucket}/out/")) == 3


def test_aiplatform_sdk_is_refused_as_by_the_service(sdk: Any) -> None:
    from google.api_core.exceptions import BadRequest, NotFound

    with pytest.raises(NotFound):
        sdk.CustomJob.get("123")
    job = sdk.CustomJob(
        display_name="sdk",
        worker_pool_specs=[{"machine_spec": {"machine_type": "n1-standard-4"}, "replica_count": 1}],
    )
    with pytest.raises(BadRequest, match="container_spec"):
        job.submit()


def test_google_genai(cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    from google import genai

    with genai.Client(
        vertexai=True,
        project=cloud.project,
        location=cloud.location,
        http_options=genai.types.HttpOptions(base_url=cloud.url),
    ) as client:
        reply = client.models.generate_content(model="gemini-3.5-flash", contents="Count.")
        assert reply.text == "Count."
        chunks = list(
            client.models.generate_content_stream(model="gemini-3.5-flash", contents="Count.")
        )
        assert "".join(chunk.text or "" for chunk in chunks) == reply.text
        counted = client.models.count_tokens(model="gemini-3.5-flash", contents="Count.")
        assert counted.total_tokens
        cloud.storage.put(
            f"gs://{cloud.bucket}/in.jsonl",
            '{"request": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}}\n',
        )
        job = client.batches.create(
            model="gemini-3.5-flash",
            src=f"gs://{cloud.bucket}/in.jsonl",
            config={"dest": f"gs://{cloud.bucket}/out"},
        )
        assert job.name is not None
        assert client.batches.get(name=job.name).state


def test_cloud_storage(cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.url)
    from google.api_core.exceptions import NotFound, PreconditionFailed
    from google.cloud import storage

    client = storage.Client(project=cloud.project)
    bucket = client.create_bucket("sdk-bucket", location="europe-west4")
    big = os.urandom(9 << 20)  # more than one piece of a resumable upload
    blob = bucket.blob("a/b c/ü.bin")
    blob.chunk_size = 1 << 20
    blob.upload_from_string(big)
    assert bucket.blob("a/b c/ü.bin").download_as_bytes() == big
    assert bucket.blob("a/b c/ü.bin").download_as_bytes(start=5, end=9) == big[5:10]
    small = bucket.blob("a/small")
    small.upload_from_string("x", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        small.upload_from_string("y", if_generation_match=0)
    listing = client.list_blobs(bucket, prefix="a/", delimiter="/")
    assert [one.name for one in listing] == ["a/small"]
    assert listing.prefixes == {"a/b c/"}
    bucket.copy_blob(small, bucket, "copied")
    assert bucket.blob("copied").download_as_text() == "x"
    small.delete()
    with pytest.raises(NotFound):
        bucket.blob("a/small").download_as_bytes()
    client.close()


def post(cloud: VertexEmulator, collection: str, body: Any, version: str = "v1") -> Any:
    """The status and the JSON of a POST, without any SDK."""
    import urllib3

    token = cloud.identity.issue()["access_token"]
    path = f"/{version}/projects/{cloud.project}/locations/{cloud.location}/{collection}"
    with urllib3.PoolManager(retries=False) as http:
        answer = http.request(
            "POST", cloud.url + path, json=body, headers={"Authorization": f"Bearer {token}"}
        )
        return answer.status, answer.json()


GOOD = {
    "displayName": "j",
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": "n1-standard-4"},
                "replicaCount": "1",
                "containerSpec": {"imageUri": "i"},
            }
        ]
    },
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"displayName": ""}, "display_name"),
        ({"jobSpec": {"workerPoolSpecs": []}}, "worker_pool_specs"),
        ({"jobspec": {}}, "Unknown name"),
        ({"jobSpec": {"workerPoolSpecs": [{"machine": 1}]}}, "Unknown name"),
        ({"labels": {"Upper": "x"}}, "label"),
        ({"jobSpec": {**GOOD["jobSpec"], "network": "my-vpc"}}, "projects/*/global/networks/*"),  # type: ignore[dict-item]
        ({"displayName": 5}, "display"),
        ({"jobSpec": {**GOOD["jobSpec"], "scheduling": {"strategy": "NO"}}}, "strategy"),  # type: ignore[dict-item]
    ],
)
def test_requests_that_break_the_protos(
    cloud: VertexEmulator, change: dict[str, Any], word: str
) -> None:
    status, answer = post(cloud, "customJobs", {**GOOD, **change})
    assert status == 400
    assert answer["error"]["status"] == "INVALID_ARGUMENT"
    assert word.lower() in answer["error"]["message"].lower()
    assert cloud.jobs.all == {}


def test_what_only_the_service_sets_is_ignored(cloud: VertexEmulator) -> None:
    status, answer = post(
        cloud, "customJobs", {**GOOD, "state": "JOB_STATE_SUCCEEDED", "createTime": "x"}
    )
    assert status == 200
    assert answer["state"] == "JOB_STATE_PENDING"
    assert cloud.ignored == ["state", "create_time"]


def test_strangers_and_other_projects_are_refused(cloud: VertexEmulator) -> None:
    import urllib3

    with urllib3.PoolManager(retries=False) as http:
        url = f"{cloud.url}/v1/projects/{cloud.project}/locations/{cloud.location}/customJobs"
        assert http.request("GET", url).status == 401
        token = cloud.identity.issue()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        other = url.replace(cloud.project, "other")
        assert http.request("GET", other, headers=headers).status == 403
        where = url.replace(cloud.location, "mars-north1")
        assert http.request("GET", where, headers=headers).status == 400


@pytest.mark.skipif(not SPECS.exists(), reason="the published descriptor set is not there")
def test_field_behaviour_is_that_of_the_protos() -> None:
    """What is read from docstrings, against the published protos' field_behavior."""
    from google.api import field_behavior_pb2
    from google.protobuf import descriptor_pb2

    published = descriptor_pb2.FileDescriptorSet.FromString(SPECS.read_bytes())
    required, output = field_behavior_pb2.REQUIRED, field_behavior_pb2.OUTPUT_ONLY
    ours = set(_schema.names("v1"))
    compared = differing = 0

    def walk(message: Any, prefix: str) -> None:
        nonlocal compared, differing
        name = f"{prefix}.{message.name}"
        if name in ours:
            about = _schema.behaviour("v1", name)
            for field in message.field:
                said = field.options.Extensions[field_behavior_pb2.field_behavior]
                compared += 1
                read = (field.name in about.required, field.name in about.output_only)
                differing += read != (required in said, output in said)
        for inner in message.nested_type:
            walk(inner, name)

    for file in published.file:
        if file.package == "google.cloud.aiplatform.v1":
            for message in file.message_type:
                walk(message, file.package)
    assert compared > 2000
    # The two are of different months, and some docstrings leave the word out.
    assert differing <= compared * 0.02, f"{differing} of {compared}"


@pytest.mark.skipif(not SPECS.exists(), reason="the published descriptor set is not there")
def test_names_of_resources_are_those_of_the_protos() -> None:
    from google.api import resource_pb2
    from google.protobuf import descriptor_pb2

    published = descriptor_pb2.FileDescriptorSet.FromString(SPECS.read_bytes())
    patterns: dict[str, set[str]] = {
        "locations.googleapis.com/Location": {"projects/{}/locations/{}"}
    }
    references: dict[str, str] = {}

    def learn(kind: Any) -> None:
        if kind.type:
            patterns[kind.type] = {re.sub(r"{\w+}", "{}", one) for one in kind.pattern}

    for file in published.file:
        for kind in file.options.Extensions[resource_pb2.resource_definition]:
            learn(kind)
        for message in file.message_type:
            learn(message.options.Extensions[resource_pb2.resource])
            for field in message.field:
                found = field.options.Extensions[resource_pb2.resource_reference]
                if file.package == "google.cloud.aiplatform.v1" and found.type:
                    references[f"{message.name}.{field.name}"] = found.type
    compared = 0
    for name, ours in _schema.REFERENCES.items():
        kind = references[name]
        if kind in patterns:
            assert set(ours) == patterns[kind], name
            compared += 1
    assert compared > 8


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("message", "bodies"),
    [
        ("CustomJob", lambda name, body: [body] if name.startswith("training_") else []),
        (
            "TuningJob",
            lambda name, body: [body] if name in {"tuning_everything", "tuning_goes_on"} else [],
        ),
        ("BatchPredictionJob", lambda name, body: [body["job"]] if name[:6] == "batch_" else []),
        ("Endpoint", lambda name, body: [body["endpoint"]] if name[:9] == "endpoint_" else []),
        (
            "UploadModelRequest",
            lambda name, body: (
                [{**one, "parent": "projects/p/locations/l"} for one in body["models"]]
                if name.startswith("endpoint_")
                else []
            ),
        ),
        (
            "DeployModelRequest",
            lambda name, body: (
                [
                    {**one, "endpoint": "projects/p/locations/l/endpoints/e"}
                    for one in body["deploy"]
                ]
                if name.startswith("endpoint_")
                else []
            ),
        ),
        (
            "GenerateContentRequest",
            lambda name, body: [{**body, "model": "m"}] if name.startswith("chat_") else [],
        ),
    ],
)
def test_golden_requests_are_whole_by_the_protos(message: str, bodies: Any) -> None:
    found = 0
    for path in sorted(GOLDEN.glob("*.json")):
        for body in bodies(path.stem, json.loads(path.read_text())):
            ignored: list[str] = []
            _schema.checked("v1", message, body, ignored=ignored)
            assert ignored == []
            found += 1
    assert found
