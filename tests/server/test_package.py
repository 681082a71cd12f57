"""What `cloudai package` writes."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from cloudai.errors import InvalidRequest
from cloudai.server.package import (
    Package,
    dockerfile,
    files,
    kubernetes,
    kubernetes_yaml,
    platforms,
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
    assert re.match(r"cloudai\[server\]==\S+\nnumpy==2.4.6\n\Z", requirements["requirements.txt"])


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


def test_what_the_adapters_deploy_fits_the_image() -> None:
    """The container that each adapter asks its platform for, with the image of this package."""
    from cloudai.providers.aws._wire import endpoints as aws
    from cloudai.providers.vertex._wire import endpoints as vertex
    from cloudai.server.config import model_dir_from, workers_from
    from cloudai.server.routes import table
    from cloudai.types import Deployment, Variant

    told = platforms(GIVEN)
    variant = Variant(model="models/digits")
    spec = Deployment(name="digits", variants=(variant,), image=GIVEN.image, workers=3)
    served = aws.Served(variant=variant, model="m", data="s3://b/m.tar.gz", image=GIVEN.image,
                        machine="ml.m5.large")  # fmt: skip
    place = aws.Place(role="arn:aws:iam::1:role/r", base="s3://b")
    primary = aws.model(spec, served, place, code=False)["PrimaryContainer"]
    assert primary["Image"] == told["sagemaker"]["Image"]
    assert workers_from(primary["Environment"]) == 3
    routes = table({})
    assert "POST" in routes["/invocations"]
    assert "GET" in routes["/ping"]

    made = vertex.model(spec, variant, "gs://b/m", "europe-west4", [])["model"]["containerSpec"]
    assert made["imageUri"] == told["vertex"]["imageUri"]
    assert made["ports"] == told["vertex"]["ports"]
    assert "POST" in routes[made["predictRoute"]]
    assert "GET" in routes[made["healthRoute"]]
    assert "command" not in made  # the image's own entry point starts the server
    for route in told["azureml"]["inference_config"].values():
        assert route["path"] in routes
        assert route["port"] == GIVEN.port
    # The image has its model: a URI that Vertex AI names beside it is not fetched.
    image_env = dict(re.findall(r'(\w+)="([^"]*)"', dockerfile(GIVEN)))
    assert model_dir_from({**image_env, "AIP_STORAGE_URI": "gs://b/m"}) == "/opt/ml/model"


def test_the_yaml_says_the_same() -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    assert list(yaml.safe_load_all(kubernetes_yaml(GIVEN))) == kubernetes(GIVEN)


def test_the_platforms_settings_are_json() -> None:
    told = json.loads(files(GIVEN)["platforms.json"])
    assert told["vertex"]["predictRoute"] == "/v1/models/digits:predict"


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
