"""What `cloudai package` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudai.errors import InvalidRequest
from cloudai.server.package import (
    Package,
    dockerfile,
    files,
    kubernetes,
    kubernetes_yaml,
)

GIVEN = Package(name="digits", image="registry.example/digits:1.2", token_secret="digits-token")


def test_the_dockerfile() -> None:
    text = dockerfile(GIVEN)
    assert text.count("\nFROM ") + text.startswith("FROM ") == 2
    assert re.search(r"^USER \d+$", text, re.M)
    assert "HEALTHCHECK" in text
    assert text.rstrip().endswith('ENTRYPOINT ["python", "-m", "cloudai.server"]')
    with_handler = dockerfile(Package(name="m", image="m:1", handler="my handler.py"))
    assert 'COPY ["my handler.py", "/opt/ml/code/handler.py"]' in with_handler
    assert "CLOUDAI_HANDLER" in with_handler
    requirements = files(Package(name="m", image="m:1", requirements=("numpy==2.4.6",)))
    lines = requirements["requirements.txt"].splitlines()
    assert re.match(r"cloudai\[server\]==\S+\Z", lines[0])
    assert re.match(r"google-cloud-storage==\S+\Z", lines[1])  # Vertex AI's model is fetched
    assert lines[2:] == ["numpy==2.4.6"]


def test_the_manifests() -> None:
    objects = {one["kind"]: one for one in kubernetes(GIVEN)}
    assert set(objects) == {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"
    }  # fmt: skip
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4096Mi"}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "digits-token"
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert objects["Service"]["spec"]["selector"].items() <= labels
    fixed = kubernetes(Package(name="m", image="m:1", replicas=2, max_replicas=2, gpus=1))
    assert "HorizontalPodAutoscaler" not in {one["kind"] for one in fixed}


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_manifests_fit_the_published_schemas(gpus: int) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is a dev tool")
    objects = kubernetes(msgspec.structs.replace(GIVEN, gpus=gpus))
    assert len(objects) == 4
    for version in ("1.29", schemas.latest_version()):
        for one in objects:
            schemas.validate(one, version, strict=True)
    broken = json.loads(json.dumps(objects[0]))
    broken["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(schemas.ValidationError, match="readinessProb"):
        schemas.validate(broken, schemas.latest_version(), strict=True)


def test_the_settings_fit_the_server() -> None:
    """Each route that a platform is told is one of the server's, at the port where it listens."""
    from cloudai.server.app import table
    from cloudai.server.config import ModelConfig, ServerConfig, VariantConfig, host_from, port_from

    given = msgspec.structs.replace(GIVEN, port=9000)
    told = json.loads(files(given)["platforms.json"])
    image = dict(re.findall(r'(\w+)="([^"]*)"', dockerfile(given)))
    models = (ModelConfig(name="m", variants=(VariantConfig(path="/models/m"),)),)
    routes = table({}, ServerConfig(models=models))[0].paths
    assert {told["sagemaker"]["Image"], told["vertex"]["imageUri"], told["azureml"]["image"]} == {
        GIVEN.image
    }
    container = {**image, **told["sagemaker"]["Environment"]}
    assert (host_from(container), port_from(container)) == ("0.0.0.0", 8080)
    assert "POST" in routes["/invocations"]
    assert "GET" in routes["/ping"]

    vertex = told["vertex"]
    assert vertex["ports"] == [{"containerPort": 9000}]
    assert "POST" in routes[vertex["predictRoute"]]
    assert "GET" in routes[vertex["healthRoute"]]

    azure = told["azureml"]
    container = {**image, **azure["environment_variables"]}
    assert host_from(container) == "0.0.0.0"
    config = azure["inference_config"]
    for name, method in (("liveness", "GET"), ("readiness", "GET"), ("scoring", "POST")):
        route = config[f"{name}_route"]
        assert method in routes[route["path"]]
        assert route["port"] == port_from(container) == 9000


def test_the_model_that_is_served(tmp_path: Path) -> None:
    """The image's own, unless a platform names one."""
    from cloudai.server.config import handler_from, model_dir_from, model_folder

    image = dict(re.findall(r'(\w+)="([^"]*)"', dockerfile(GIVEN)))
    assert model_dir_from(image) == "/opt/ml/model"
    assert model_dir_from({**image, "AIP_STORAGE_URI": "gs://b/m"}) == "gs://b/m"
    mount = json.loads(files(GIVEN)["platforms.json"])["azureml"]["model_mount_path"]
    azure = json.loads(files(GIVEN)["platforms.json"])["azureml"]["environment_variables"]
    assert model_dir_from({**image, **azure, "AZUREML_MODEL_DIR": "/x"}) == mount

    model = tmp_path / "digits" / "1" / "files"
    (model / "weights").mkdir(parents=True)
    (tmp_path / "digits" / ".amlignore").touch()
    (model / "weights" / "model.bin").touch()
    assert model_folder(tmp_path) == model / "weights"
    (model / "handler.py").touch()
    assert model_folder(tmp_path) == model
    assert model_folder(tmp_path / "nowhere") == tmp_path / "nowhere"
    sagemaker = tmp_path / "sagemaker"
    (sagemaker / "code").mkdir(parents=True)
    (sagemaker / "code" / "inference.py").touch()
    assert model_folder(sagemaker) == sagemaker

    assert handler_from({}, str(model)) is None
    assert handler_from({"CLOUDAI_HANDLER": "handler.py"}, str(model)) == str(model / "handler.py")
    assert handler_from({"CLOUDAI_HANDLER": "/opt/h.py"}, str(model)) == "/opt/h.py"


def test_a_container_is_told_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudai._core.handlers.container import environment
    from cloudai.errors import ConfigError
    from cloudai.server.__main__ import config_from, parser
    from cloudai.types import Deployment, Variant

    spec = Deployment(
        name="digits", variants=(Variant(model="m"),), workers=3, max_batch=7, max_queue=9,
        env={"CLOUDAI_WORKERS": "2"},
    )  # fmt: skip
    (tmp_path / "handler.py").touch()
    monkeypatch.setenv("CLOUDAI_MODEL_DIR", str(tmp_path))
    for name, value in environment(spec, "handler.py").items():
        monkeypatch.setenv(name, value)
    made = config_from(parser().parse_args([]))
    assert (made.workers, made.limits.batch, made.limits.queue) == (2, 7, 9)
    assert made.models[0].variants[0].handler == str(tmp_path / "handler.py")
    assert config_from(parser().parse_args(["--max-batch", "5"])).limits.batch == 5
    plain = Deployment(name="digits", variants=(Variant(model="m"),))
    assert environment(plain) == {}
    monkeypatch.setenv("CLOUDAI_MAX_QUEUE", "many")
    with pytest.raises(ConfigError, match="CLOUDAI_MAX_QUEUE='many' is not a number"):
        config_from(parser().parse_args([]))


def write(folder: Path, package: Package = GIVEN) -> Path:
    for name, text in files(package).items():
        (folder / name).write_text(text)
    return folder


def test_the_adapters_read_what_package_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudai._core.handlers.container import platforms, settings

    folder = write(tmp_path, msgspec.structs.replace(GIVEN, port=9000))
    assert settings(str(folder)) == settings(f"file://{folder}") == platforms(GIVEN.image, 9000)
    assert settings(GIVEN.image) == platforms(GIVEN.image)
    told = json.loads((folder / "platforms.json").read_text())
    told["vertex"]["healthRoute"] = "/livez"
    (folder / "platforms.json").write_text(json.dumps(told))
    assert settings(str(folder)).vertex.health_route == "/livez"
    monkeypatch.chdir(folder.parent)
    assert settings(f"./{folder.name}").vertex.health_route == "/livez"
    with pytest.raises(InvalidRequest, match="is an image's name, and a package's folder too"):
        settings(folder.name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, r"has no platforms\.json that can be read \(No such file"),
        ("{", "is no JSON"),
        ({"vertex": {"healthRoute": "ping"}}, r"matching regex .*\$\.vertex\.healthRoute"),
        ({"vertex": {"ports": []}}, r"length >= 1.*\$\.vertex\.ports"),
        ({"azureml": {"port": 1}}, r"unknown field `port`.*\$\.azureml"),
        ({"azureml": {"model_mount_path": "model"}}, r"\$\.azureml\.model_mount_path"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, change: Any, words: str) -> None:
    from cloudai._core.handlers.container import settings

    file = write(tmp_path) / "platforms.json"
    if change is None:
        file.unlink()
    elif isinstance(change, str):
        file.write_text(change)
    else:
        told = json.loads(file.read_text())
        for platform, fields in change.items():
            told[platform].update(fields)
        file.write_text(json.dumps(told))
    with pytest.raises(InvalidRequest, match=words) as caught:
        settings(str(tmp_path))
    assert caught.value.field == "image"


def test_the_yaml_says_the_same() -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    assert list(yaml.safe_load_all(kubernetes_yaml(GIVEN))) == kubernetes(GIVEN)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Digits"}, "has capitals"),
        ({"image": "a b"}, "is not the name of an image"),
        ({"image": "x:1\nRUN rm"}, "is not the name of an image"),
        ({"requirements": ("numpy>=2",)}, "is not pinned"),
        ({"requirements": ("numpy==2\n--index-url x",)}, "is not pinned"),
        ({"model": "../secrets"}, "does not lie in the build context"),
        ({"handler": "/etc/passwd"}, "does not lie in the build context"),
        ({"replicas": 5, "max_replicas": 4}, "is below replicas=5"),
        ({"cpus": 0}, "is not positive"),
    ],
)
def test_what_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Package(**{"name": "m", "image": "m:1", **fields})  # type: ignore[arg-type]
