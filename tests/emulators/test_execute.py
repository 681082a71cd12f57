"""Emulators that run: the local models answer, and scripts of the vendors' own contracts train."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.testing import EmulatedCloud

for name in ("torch", "transformers", "moto", "openai", "google.genai"):
    pytest.importorskip(name)

CHAT = {
    "aws": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "azure": "gpt-5.1",
    "vertex": "gemini-3.5-flash",
}
EMBED = {
    "aws": ("cohere.embed-v4:0", 1024),
    "azure": ("text-embedding-3-small", 1536),
    "vertex": ("text-embedding-005", 768),
}
pytestmark = [pytest.mark.cloudai_emulated(execute=True)]


@pytest.fixture(scope="session", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The embedded chat model, converted at most once."""
    from cloudai.engine import catalog, gguf
    from cloudai.errors import ConfigError
    from cloudai.testing.emulators.common.local_models import shared

    try:
        found = catalog.find("chat", "", home=Path("nowhere"))
    except ConfigError as error:
        pytest.skip(str(error))
    local = shared()
    if not gguf.ready(found.key, local._home / "models"):
        local._home = tmp_path_factory.mktemp("models")


@pytest.fixture(params=list(CHAT))
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


def test_the_local_models_answer(cloud: EmulatedCloud) -> None:
    client = cloudai.Client(cloud.name)
    model = CHAT[cloud.name]
    reply = client.chat.create("What is the capital of France?", model=model, temperature=0)
    assert "Paris" in reply.text
    assert 5 < reply.usage.output_tokens < 40
    pieces = list(client.chat.stream("What is the capital of Italy?", model=model, temperature=0))
    assert "Rome" in "".join(piece.text for piece in pieces)
    assert sum(bool(piece.text) for piece in pieces) > 3
    name, size = EMBED[cloud.name]
    array = client.embeddings.create(["a cat", "a kitten", "interest rates"], model=name).array
    assert array.shape == (3, size)
    near, far = array[0] @ array[1], array[0] @ array[2]
    assert near > 0.6 > 0.3 > far


SCRIPT = """
import json, os, sys
from google.cloud import storage

assert sys.argv[1:] == ["--scale", "3"]
place = os.environ["AIP_MODEL_DIR"]
bucket, _, base = place.removeprefix("gs://").partition("/")
files = {
    "model.json": json.dumps({"scale": int(sys.argv[2])}),
    "handler.py": '''
import json

def load(model_dir):
    return json.loads((model_dir / "model.json").read_text())

def predict(model, inputs, params):
    return [value * model["scale"] for value in inputs]
''',
}
held = storage.Client().bucket(bucket)
for name, text in files.items():
    held.blob(base + name).upload_from_string(text)
os.makedirs(os.path.dirname(os.environ["NOTE"]), exist_ok=True)  # as Cloud Storage FUSE wants
with open(os.environ["NOTE"], "a") as file:
    file.write(json.loads(os.environ["CLUSTER_SPEC"])["task"]["type"])
print("trained in", os.environ["CLOUD_ML_PROJECT_ID"])
"""


def package(name: str, text: str) -> bytes:
    """A source distribution with the module ``trainer.task``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in ((f"{name}/trainer/__init__.py", ""),
                              (f"{name}/trainer/task.py", text)):  # fmt: skip
            about = tarfile.TarInfo(path)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content.encode()))
    return packed.getvalue()


def ended(look: Any) -> str:
    deadline = time.monotonic() + 120
    while (state := look())["state"] in {"JOB_STATE_PENDING", "JOB_STATE_RUNNING"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return state["state"]


def test_a_custom_job_and_an_endpoint_by_vertex_s_contract(
    emulated_vertex: EmulatedCloud,
) -> None:
    import google.auth
    import google.auth.transport.requests as transport

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    with transport.AuthorizedSession(credentials) as http:
        at = (
            f"{emulated_vertex.url}/v1/projects/{os.environ['GOOGLE_CLOUD_PROJECT']}"
            f"/locations/{os.environ['GOOGLE_CLOUD_LOCATION']}"
        )
        cloud = emulated_vertex.emulator
        base = f"gs://{cloud.bucket}/jobs"
        cloud.storage.put(f"{base}/trainer-0.1.tar.gz", package("trainer-0.1", SCRIPT))
        note = [{"name": "NOTE", "value": f"/gcs/{cloud.bucket}/notes/note.txt"}]
        pool = {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": "1"}
        of_package = {
            "executorImageUri": "us-docker.pkg.dev/vertex-ai/training/pytorch-cpu.2-6:latest",
            "packageUris": [f"{base}/trainer-0.1.tar.gz"],
            "pythonModule": "trainer.task",
            "args": ["--scale", "3"],
            "env": note,
        }

        def run(spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            made = http.post(f"{at}/customJobs", json={
                "displayName": "plain",
                "jobSpec": {
                    "workerPoolSpecs": [{**pool, **spec}],
                    "baseOutputDirectory": {"outputUriPrefix": base},
                },
            }).json()  # fmt: skip
            url = f"{emulated_vertex.url}/v1/{made['name']}"
            return ended(lambda: http.get(url).json()), http.get(url).json()

        state, job = run({"pythonPackageSpec": of_package})
        assert state == "JOB_STATE_SUCCEEDED", job
        assert cloud.storage.get(f"gs://{cloud.bucket}/notes/note.txt") == b"workerpool0"
        state, _ = run({"containerSpec": {"imageUri": "i", "command": ["sh", "-c", "exit 0"]}})
        assert state == "JOB_STATE_SUCCEEDED"
        state, job = run({"containerSpec": {"imageUri": "gcr.io/mine/image"}})
        assert state == "JOB_STATE_FAILED"
        assert "pulls no image, such as gcr.io/mine/image" in job["error"]["message"]

    with cloudai.Client("vertex") as client:
        endpoint = client.endpoints.deploy(f"{base}/model", name="plain")
        assert endpoint.predict([1, 2]) == [3, 6]
        endpoint.delete()


TRAIN = """
import os, pathlib, sys
scale, data, out = sys.argv[1:]
assert pathlib.Path(data, "in.txt").read_text() == "data"
assert os.environ["AZUREML_RUN_ID"] == "plain"
assert os.environ["AZUREML_ARM_WORKSPACE_NAME"]
pathlib.Path(out, "model.txt").write_text(scale)
"""
SCORE = """
import json, os, pathlib

def init():
    global scale
    (file,) = pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).rglob("model.txt")
    scale = int(file.read_text())

def run(text):
    return [value * scale for value in json.loads(text)["data"]]
"""


def test_a_command_job_and_a_deployment_by_azure_ml_s_contract(
    emulated_azure: EmulatedCloud,
) -> None:
    import requests
    from azure.identity import DefaultAzureCredential

    azure = emulated_azure.emulator
    base = azure.cloud_state.workspace_id
    home = azure.secure_url
    with DefaultAzureCredential() as credential, requests.Session() as http:
        token = credential.get_token("https://management.azure.com/.default").token
        http.headers["Authorization"] = f"Bearer {token}"

        def send(method: str, path: str, body: Any = None) -> Any:
            answer = http.request(
                method, f"{home}{base}/{path}", json=body, params={"api-version": "2025-09-01"}
            )
            assert answer.status_code < 300, answer.text
            return answer.json() if answer.content else None

        def asset(kind: str, name: str, field: str, files: dict[str, str], **more: Any) -> str:
            for file, text in files.items():
                azure.cloud_state.blobs[f"data/{name}/{file}"] = text.encode()
            uri = f"azureml://datastores/workspaceblobstore/paths/{name}"
            made = send("PUT", f"{kind}/{name}/versions/1", {"properties": {field: uri, **more}})
            return made["id"]

        code = asset("codes", "train", "codeUri", {"train.py": TRAIN})
        score = asset("codes", "score", "codeUri", {"score.py": SCORE})
        image = send("PUT", "environments/e/versions/1", {"properties": {"image": "python"}})["id"]
        azure.cloud_state.blobs["data/input/in.txt"] = b"data"
        store = "azureml://datastores/workspaceblobstore/paths"
        send("PUT", "jobs/plain", {
            "properties": {
                "jobType": "Command",
                "command": "python train.py ${{inputs.scale}} ${{inputs.data}} "
                "$[[--more ${{inputs.more}}]] ${{outputs.model}}",
                "codeId": code,
                "environmentId": image,
                "resources": {"instanceType": "Standard_DS3_v2"},
                "inputs": {
                    "scale": {"jobInputType": "literal", "value": "4"},
                    "data": {"jobInputType": "uri_folder", "uri": f"{store}/input"},
                },
                "outputs": {"model": {"jobOutputType": "uri_folder", "uri": f"{store}/made"}},
            }
        })  # fmt: skip
        deadline = time.monotonic() + 120
        while send("GET", "jobs/plain")["properties"]["status"] not in {"Completed", "Failed"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        log = azure.cloud_state.blobs.get(
            "artifacts/ExperimentRun/dcid.plain/user_logs/std_log.txt", b""
        )
        assert azure.cloud_state.blobs["data/made/model.txt"] == b"4", log.decode()

        model = send("PUT", "models/m/versions/1", {"properties": {"modelUri": f"{store}/made"}})
        at = "onlineEndpoints/plain"
        about: dict[str, Any] = {"location": "westeurope", "properties": {"authMode": "Key"}}
        made = send("PUT", at, about)
        send("PUT", f"{at}/deployments/blue", {
            "location": "westeurope",
            "properties": {
                "endpointComputeType": "Managed",
                "model": model["id"],
                "codeConfiguration": {"codeId": score, "scoringScript": "score.py"},
                "environmentId": image,
                "instanceType": "Standard_DS3_v2",
            },
            "sku": {"name": "Default", "capacity": 1},
        })  # fmt: skip
        send("PUT", at, {**about, "properties": {"authMode": "Key", "traffic": {"blue": 100}}})
        key = send("POST", f"{at}/listKeys")["primaryKey"]
        answer = http.post(
            made["properties"]["scoringUri"],
            json={"data": [1, 2]},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.json() == [4, 8], answer.text
