"""Azure ML's online endpoints with an image of one's own, or a named environment."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cloudai
from cloudai.errors import (
    CloudAIError,
    HandlerError,
    InvalidRequest,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.testing.emulators.azure import AzureEmulator, LocalExecutor
from cloudai.types import Deployment, Variant

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


def sent(azure: AzureEmulator, part: str) -> list[Any]:
    return [json.loads(r.body) for r in azure.requests if r.method == "PUT" and part in r.path]


def scale(folder: Path, factor: int = 2) -> Path:
    """A model directory without a handler."""
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"scale": factor}))
    return folder


def test_an_image_of_one_s_own_is_planned_as_it_is_sent(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    handler = tmp_path / "given.py"
    handler.write_text(HANDLER)
    spec = Deployment(
        name="numbers",
        variants=(Variant(model=str(scale(tmp_path / "model"))),),
        handler=str(handler),
        image="lab.azurecr.io/numbers:1",
        env={"A": "1"},
        workers=2,
        max_queue=50,
        idempotency_key="k",
    )
    plan = client.endpoints.plan(spec)
    assert plan.ok, plan.violations
    endpoint = client.endpoints.deploy(spec)
    assert endpoint.predict([3]) == [6]
    (environment,) = sent(azure, "/environments/")
    (deployment,) = sent(azure, "/deployments/")
    assert sent(azure, "/codes/") == []
    assert environment == {
        "properties": {
            "image": "lab.azurecr.io/numbers:1",
            "osType": "Linux",
            "inferenceConfig": {
                "livenessRoute": {"port": 8080, "path": "/v2/health/live"},
                "readinessRoute": {"port": 8080, "path": "/v2/health/ready"},
                "scoringRoute": {"port": 8080, "path": "/score"},
            },
        }
    }
    properties = deployment["properties"]
    assert "codeConfiguration" not in properties
    assert properties["modelMountPath"] == "/var/cloudai/model"
    assert properties["environmentVariables"] == {
        "CLOUDAI_HOST": "0.0.0.0",
        "CLOUDAI_PORT": "8080",
        "CLOUDAI_MODEL_DIR": "/var/cloudai/model",
        "CLOUDAI_HANDLER": "handler.py",
        "CLOUDAI_WORKERS": "2",
        "CLOUDAI_MAX_QUEUE": "50",
        "A": "1",
    }
    assert properties["requestSettings"]["maxConcurrentRequestsPerInstance"] == 50
    first, _, last = plan.requests
    assert first.body == environment
    assert first.operation.split()[1].partition("?")[0] == properties["environmentId"]
    shown = last.body
    assert shown["properties"].pop("model") == "<the model's id>"
    properties.pop("model")
    assert {**shown, "location": deployment["location"]} == deployment


def test_azure_ai_ml_reads_the_environment_of_an_image(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    """The SDK's own Environment, made of a package's settings, is the one that is sent."""
    from azure.ai.ml.entities import Environment

    from cloudai._core.handlers.container import platforms

    told = json.loads(msgspec.json.encode(platforms("lab.azurecr.io/numbers:1").azureml))
    theirs = Environment(
        name="numbers", image=told["image"], inference_config=told["inference_config"]
    )._to_rest_object()
    model = scale(tmp_path / "model")
    (model / "handler.py").write_text(HANDLER)
    client.endpoints.deploy(str(model), name="numbers", image="lab.azurecr.io/numbers:1").delete()
    (environment,) = sent(azure, "/environments/")
    ours = environment["properties"]
    assert theirs.properties.as_dict()["inferenceConfig"] == ours["inferenceConfig"]
    assert theirs.properties.image == ours["image"]


def test_an_environment_by_name_runs_the_scoring_script(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    from cloudai.providers.azure.ml.workspace import Workspace

    model = scale(tmp_path / "model")
    (model / "handler.py").write_text(HANDLER)
    workspace, call = Workspace(client.profile), client.training._bound.caller.call()
    workspace.send("PUT", "environments/mine/versions/3", call, {"properties": {"image": "i"}})
    native = {"azure": {"environment": "azureml:mine:3"}}
    endpoint = client.endpoints.deploy(str(model), name="numbers", native=native)
    assert endpoint.predict([3]) == [6]
    (deployment,) = sent(azure, "/deployments/")
    assert deployment["properties"]["environmentId"].endswith("/environments/mine/versions/3")
    assert deployment["properties"]["codeConfiguration"]["scoringScript"] == "_cloudai_score.py"


@pytest.mark.parametrize(
    ("about", "field", "words"),
    [
        ({"requirements": "r.txt"}, "requirements", "cannot be put into an image"),
        ({"image": "./nowhere"}, "image", "no platforms.json"),
        ({"native": {"azure": {"environment": "e"}}}, "native.azure.environment", "image"),
        ({"variants": (Variant(model="azureml:m:1"),), "handler": __file__}, "handler", "beside"),
        ({"variants": (Variant(model="/nowhere"),)}, "variants.model", "not a directory"),
    ],
)
def test_bad_images(
    azure: AzureEmulator,
    client: cloudai.Client,
    tmp_path: Path,
    about: dict[str, Any],
    field: str,
    words: str,
) -> None:
    variants = (Variant(model=str(scale(tmp_path / "model"))),)
    spec = Deployment(**{"name": "numbers", "variants": variants, "image": "i:1", **about})
    plan = client.endpoints.plan(spec)
    assert [one.field for one in plan.violations] == [field]
    with pytest.raises(InvalidRequest, match=words):
        client.endpoints.deploy(spec)
    assert not azure.requests


def test_a_package_is_no_image_for_a_batch(client: cloudai.Client, tmp_path: Path) -> None:
    model = scale(tmp_path / "model")
    (model / "handler.py").write_text(HANDLER)
    lines = tmp_path / "in.jsonl"
    lines.write_text("1\n")
    spec = cloudai.BatchTransform(
        model=str(model), input=str(lines), output=str(tmp_path / "out"), image="./packed"
    )
    assert [one.field for one in client.batch.plan(spec).violations] == ["image"]


@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        ("422", HandlerError),
        ("500", HandlerError),
        ("400", InvalidRequest),
        ("429", RateLimited),
        ("503", ServiceUnavailable),
        ("", HandlerError),
    ],
)
def test_what_a_model_s_container_answers(inner: str, kind: type[CloudAIError]) -> None:
    from cloudai.providers.azure.ml.endpoint_wire import server_error

    headers = {"ms-azureml-model-error-statuscode": inner} if inner else {}
    headers["retry-after"] = "3"
    made = server_error(424, {"message": "why"}, headers)
    assert type(made) is kind
    assert made.message == "why"
    assert made.retry_after == (3 if kind is RateLimited else None)
    assert server_error(503, {}, headers) is None
