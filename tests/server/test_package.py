"""What `cloudai package` writes."""

from __future__ import annotations

import json
import re

import pytest

from cloudai.errors import InvalidRequest
from cloudai.server.package import Package, dockerfile, files, kubernetes, kubernetes_yaml

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
