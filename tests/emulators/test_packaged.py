"""From `cloudai package` to an endpoint on each cloud, whose emulator runs the image's server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import cloudai
from cloudai.errors import EndpointError, HandlerError, InvalidRequest
from cloudai.testing import EmulatedCloud
from cloudai.types import Deployment, Variant

for name in ("moto", "azure.ai.ml", "google.cloud.storage", "starlette", "uvicorn"):
    pytest.importorskip(name)

pytestmark = [pytest.mark.cloudai_emulated(execute=True, speed=20)]

HANDLER = """
import json, os

def load(model_dir):
    return json.loads((model_dir / "model.json").read_text())["scale"]

def predict(model, inputs, params):
    if "boom" in inputs:
        raise ValueError("no boom here")
    if "env" in inputs:
        return [{name: os.environ.get(name) for name in one} if isinstance(one, list) else one
                for one in inputs]
    return [model * value + params.get("plus", 0) for value in inputs]
"""
IMAGES = {
    "aws": "123456789012.dkr.ecr.us-east-1.amazonaws.com/scale:1",
    "azure": "lab.azurecr.io/scale:1",
    "vertex": "europe-docker.pkg.dev/p/r/scale:1",
}


@pytest.fixture(params=list(IMAGES))
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory with a handler of its own."""
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (folder / "model.json").write_text('{"scale": 3}')
    (folder / "data" / "more.txt").write_text("more")
    (folder / "handler.py").write_text(HANDLER)
    return folder


@pytest.fixture
def package(cloud: EmulatedCloud, tmp_path: Path) -> Callable[..., Path]:
    """Runs `cloudai package`; the folder that it wrote."""

    def run(model: Path, *more: str) -> Path:
        target = tmp_path / "packed"
        command = [sys.executable, "-m", "cloudai.cli", "package", str(model)]
        command += ["--image", IMAGES[cloud.name], "--output", str(target), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return target

    return run


def left(cloud: EmulatedCloud) -> list[str]:
    """What the cloud still has of an endpoint."""
    emulator: Any = cloud.emulator
    if cloud.name == "aws":
        return emulator.cloud_state.left("Model", "EndpointConfig", "Endpoint")
    if cloud.name == "vertex":
        serving = emulator.serving
        files = emulator.storage.names(f"gs://{emulator.bucket}/cloudai/")
        return [*serving.models, *serving.endpoints, *files]
    return [key for key in emulator.cloud_state.ml if key.startswith("onlineEndpoints/")]


def servers() -> int:
    """The endpoint servers that this process has started."""
    count = 0
    for one in psutil.Process().children():
        try:
            count += "cloudai.server" in one.cmdline() and one.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            continue
    return count


def told(cloud: EmulatedCloud) -> dict[str, Any]:
    """The container that the cloud was asked for, as it came."""
    emulator: Any = cloud.emulator
    for one in emulator.requests:
        body = json.loads(one.body) if one.body[:1] == b"{" else {}
        if cloud.name == "aws" and "PrimaryContainer" in body:
            return body["PrimaryContainer"]
        if cloud.name == "vertex" and "containerSpec" in body.get("model", {}):
            return body["model"]["containerSpec"]
        if "inferenceConfig" in body.get("properties", {}):
            return body["properties"]
    raise AssertionError(f"nobody asked {cloud.name} for a container")


def test_package_deploy_predict_delete(
    cloud: EmulatedCloud, package: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    package(model)
    with cloudai.Client("local", home=str(tmp_path / "home")) as here:
        local = here.endpoints.deploy(model, name="scale")
        wanted = local.predict([1, 2.5], params={"plus": 1})
        local.delete()
    before = servers()
    with cloudai.Client(cloud.name) as client:
        spec = Deployment(
            name="scale", variants=(Variant(model=str(model)),), image=IMAGES[cloud.name]
        )
        plan = client.endpoints.plan(spec)
        assert plan.ok, plan.violations
        endpoint = client.endpoints.deploy(spec)
        assert servers() == before + 1
        assert endpoint.predict([1, 2.5], params={"plus": 1}) == wanted == [4, 8.5]
        with pytest.raises(HandlerError, match="no boom here"):
            endpoint.predict(["boom"])
        asked = told(cloud)
        assert IMAGES[cloud.name] in asked.values()
        assert not {"command", "args"} & set(asked)
        endpoint.delete()
        assert client.resources() == []
    assert left(cloud) == []
    assert servers() == before


def test_a_package_s_folder_and_a_handler_beside_the_model(
    cloud: EmulatedCloud, package: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    """The folder's settings are what the cloud is told, and the given handler goes before the
    model's own."""
    folder = package(model)
    settings = json.loads((folder / "platforms.json").read_text())
    settings["sagemaker"]["Environment"]["FROM"] = "package"
    settings["vertex"] |= {"healthRoute": "/v2/health/ready"}
    settings["vertex"]["env"] = [{"name": "FROM", "value": "package"}]
    settings["azureml"]["environment_variables"]["FROM"] = "package"
    settings["azureml"]["inference_config"]["scoring_route"]["path"] = "/predict"
    (folder / "platforms.json").write_text(json.dumps(settings))
    handler = tmp_path / "other.py"
    handler.write_text(HANDLER.replace("model * value", "model * value * 10"))
    with cloudai.Client(cloud.name) as client:
        endpoint = client.endpoints.deploy(
            model, name="scale", image=folder, handler=handler, workers=2, max_batch=5,
            env={"MINE": "1"},
        )  # fmt: skip
        assert endpoint.predict([2]) == [60]
        names = ["FROM", "MINE", "CLOUDAI_WORKERS", "CLOUDAI_MAX_BATCH"]
        env, _ = endpoint.predict([names, "env"])
        assert env == {
            "FROM": "package", "MINE": "1", "CLOUDAI_WORKERS": "2", "CLOUDAI_MAX_BATCH": "5",
        }  # fmt: skip
        asked = told(cloud)
        if cloud.name == "vertex":
            assert asked["healthRoute"] == "/v2/health/ready"
        if cloud.name == "azure":
            assert asked["inferenceConfig"]["scoringRoute"] == {"port": 8080, "path": "/predict"}
        endpoint.delete()
    assert left(cloud) == []


@pytest.mark.parametrize("cloud", ["aws", "vertex"], indirect=True)
def test_a_batch_by_a_package(
    cloud: EmulatedCloud, package: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    lines, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines.write_text("1\n2\n3\n")
    before = servers()
    with cloudai.Client(cloud.name) as client:
        job = client.batch.submit(
            cloudai.BatchTransform(
                model=str(model), input=str(lines), output=str(output), image=str(package(model)),
                name="scale",
            )
        )  # fmt: skip
        assert job.wait(120).state is cloudai.State.SUCCEEDED
        assert [json.loads(line) for line in output.read_text().splitlines()] == [3, 6, 9]
        job.delete()
    assert servers() == before


def test_a_container_that_does_not_fit(
    cloud: EmulatedCloud, package: Callable[..., Path], model: Path
) -> None:
    """Settings that the server does not answer end as they would at the cloud, with its log."""
    folder = package(model)
    settings = json.loads((folder / "platforms.json").read_text())
    settings["sagemaker"]["Environment"]["CLOUDAI_PORT"] = "9000"
    # Vertex AI tells a container its port and routes, and the server follows.
    settings["vertex"] |= {"healthRoute": "/alive", "ports": [{"containerPort": 9000}]}
    settings["vertex"]["env"] = [{"name": "CLOUDAI_HANDLER", "value": "missing.py"}]
    settings["azureml"]["environment_variables"]["CLOUDAI_PORT"] = "9000"
    (folder / "platforms.json").write_text(json.dumps(settings))
    before = servers()
    with cloudai.Client(cloud.name) as client:
        words = "missing.py" if cloud.name == "vertex" else "listens on port 9000"
        with pytest.raises(EndpointError) as caught:
            client.endpoints.deploy(model, name="scale", image=str(folder))
        seen = "\n".join([str(caught.value), *caught.value.log_tail])
        assert words in seen
        assert client.resources() == []
        (folder / "platforms.json").unlink()
        with pytest.raises(InvalidRequest, match=r"has no platforms\.json"):
            client.endpoints.deploy(model, name="scale", image=str(folder))
        plan = client.endpoints.plan(model, name="scale", image=str(folder))
        assert [one.field for one in plan.violations] == ["image"]
    assert left(cloud) == []
    assert servers() == before
