"""A model directory as a container: the Dockerfile, the Kubernetes manifests, and what SageMaker,
Vertex AI and Azure ML have to be told to run the image. Pure functions from a spec to texts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from cloudai import _version
from cloudai._core.handlers import container
from cloudai.server.config import DEFAULT_PORT
from cloudai.types._base import check_name, check_positive, invalid

_PIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[^\s;,=]+\Z")
_IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?\Z")
_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*\Z")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})

GCS: Final = "google-cloud-storage==3.17.1"
"""Fetches the model that Vertex AI names in ``AIP_STORAGE_URI`` (read 2026-11)."""

USER: Final = 10001
"""The user that the server runs as; any that is not root would do."""


class Package(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is packaged.

    Parameters
    ----------
    name: of the image's model and of the Kubernetes objects.
    image: where the built image goes, with its tag.
    base: the Python image to build on; give ``…@sha256:…`` to pin it to the byte.
    model: the model directory, relative to the build context. handler: a Python file there
        too; None where the model directory has its own.
    requirements: what the handler needs, each pinned as ``name==version``.
    extras: of cloudai: ``local`` brings torch and the text models, ``server`` neither.
    cpus, memory: of one replica: cores, GiB. gpus: of one replica.
    replicas, max_replicas: at least and at most; equal: no autoscaler.
    port: where it listens.
    token_secret: the Kubernetes Secret whose key ``token`` holds the bearer token; None: none.
    """

    name: str
    image: str
    base: str = "python:3.11-slim-bookworm"
    model: str = "model"
    handler: str | None = None
    requirements: tuple[str, ...] = ()
    extras: tuple[str, ...] = ("server",)
    cpus: int = 2
    memory: float = 4.0
    gpus: int = 0
    replicas: int = 3
    max_replicas: int = 10
    port: int = DEFAULT_PORT
    token_secret: str | None = None

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.name != self.name.lower():
            raise invalid("name", self.name, "has capitals, which Kubernetes takes in no name")
        for field in ("cpus", "memory", "replicas", "port"):
            check_positive(field, getattr(self, field))
        if self.max_replicas < self.replicas:
            raise invalid("max_replicas", self.max_replicas, f"is below replicas={self.replicas}")
        for field in ("image", "base"):
            if not _IMAGE.match(getattr(self, field)):
                raise invalid(field, getattr(self, field), "is not the name of an image")
        for requirement in self.requirements:
            if not _PIN.match(requirement):
                raise invalid("requirements", requirement, "is not pinned", "Write name==version.")
        for field in ("model", "handler"):
            path = getattr(self, field)
            if path is not None and (
                path.startswith("/") or ".." in path.split("/") or not path.isprintable()
            ):
                raise invalid(field, path, "does not lie in the build context")


def files(package: Package) -> dict[str, str]:
    """The files to write, by name."""
    return {
        "Dockerfile": dockerfile(package),
        ".dockerignore": "**/__pycache__\n**/.git\n**/*.pyc\n",
        "requirements.txt": "".join(f"{line}\n" for line in _requirements(package)),
        "kubernetes.yaml": kubernetes_yaml(package),
        container.FILE: platforms(package),
    }


def dockerfile(package: Package) -> str:
    """Two stages: the first installs into a virtual environment, the second has neither pip's
    cache nor compilers, runs as a user that is not root, and asks its own health."""
    lines = [
        f"FROM {package.base} AS build",
        "ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1",
        "RUN python -m venv /opt/venv",
        "COPY requirements.txt /tmp/requirements.txt",
        "RUN /opt/venv/bin/pip install --requirement /tmp/requirements.txt",
        "",
        f"FROM {package.base}",
        f"RUN useradd --uid {USER} --no-create-home --shell /usr/sbin/nologin server",
        "COPY --from=build /opt/venv /opt/venv",
        f"COPY {json.dumps([package.model + '/', container.MODEL_DIR + '/'])}",
    ]
    env = {
        "PATH": "/opt/venv/bin:$PATH",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",  # noqa: S108 (the only folder that the container may write)
        "CLOUDAI_HOST": "0.0.0.0",  # noqa: S104 (a container is asked from outside)
        "CLOUDAI_PORT": str(package.port),
        # No CLOUDAI_MODEL_DIR: a model that a platform names goes before the one in the image,
        # where SageMaker mounts its own over this one.
        "CLOUDAI_MODEL_NAME": package.name,
    }
    if package.handler is not None:
        lines.append(f"COPY {json.dumps([package.handler, '/opt/ml/code/handler.py'])}")
        env["CLOUDAI_HANDLER"] = "/opt/ml/code/handler.py"
    lines.append("ENV " + " ".join(f'{name}="{value}"' for name, value in env.items()))
    health = (
        "import os, urllib.request as r; "
        "p = os.environ.get('SAGEMAKER_BIND_TO_PORT') or os.environ.get('AIP_HTTP_PORT') "
        "or os.environ['CLOUDAI_PORT']; "
        "r.urlopen('http://127.0.0.1:' + p + '/ping', timeout=2)"
    )
    lines += [
        # SageMaker routes only to containers that say so (multi-model and pipeline hosting).
        "LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true",
        f"EXPOSE {package.port}",
        f"USER {USER}",
        f"HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD {_exec(health)}",
        # SageMaker appends `serve`, which the server takes.
        'ENTRYPOINT ["python", "-m", "cloudai.server"]',
        "",
    ]
    return "\n".join(lines)


def kubernetes(package: Package) -> list[dict[str, Any]]:
    """A Deployment, a Service, a disruption budget and, where there is room, an autoscaler."""
    labels = {"app.kubernetes.io/name": package.name, "app.kubernetes.io/managed-by": "cloudai"}
    selector = {"app.kubernetes.io/name": package.name}
    meta = {"name": package.name, "labels": labels}
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": package.replicas,
                "selector": {"matchLabels": selector},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
                },
                "template": {"metadata": {"labels": labels}, "spec": _pod(package, selector)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {
                "selector": selector,
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            },
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
        },
    ]
    if package.max_replicas > package.replicas:
        objects.append(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": meta,
                "spec": {
                    "scaleTargetRef": {
                        "apiVersion": "apps/v1",
                        "kind": "Deployment",
                        "name": package.name,
                    },
                    "minReplicas": package.replicas,
                    "maxReplicas": package.max_replicas,
                    "metrics": [
                        {
                            "type": "Resource",
                            "resource": {
                                "name": "cpu",
                                "target": {"type": "Utilization", "averageUtilization": 70},
                            },
                        }
                    ],
                },
            }
        )
    return objects


def _pod(package: Package, selector: dict[str, str]) -> dict[str, Any]:
    memory = f"{math.ceil(package.memory * 1024)}Mi"
    amounts: dict[str, Any] = {"cpu": str(package.cpus), "memory": memory}
    if package.gpus:
        amounts["nvidia.com/gpu"] = str(package.gpus)
    ready = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}
    live = {"httpGet": {"path": "/v2/health/live", "port": "http"}}
    container: dict[str, Any] = {
        "name": "server",
        "image": package.image,
        "ports": [{"name": "http", "containerPort": package.port, "protocol": "TCP"}],
        "resources": {"requests": amounts, "limits": amounts},
        # Loading may take minutes; liveness begins once it has ended.
        "startupProbe": {**ready, "periodSeconds": 5, "failureThreshold": 120},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 2},
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5},
        # Requests still come for a moment after the pod was taken out of the service.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 (in the container)
    }
    if package.token_secret is not None:
        container["env"] = [
            {
                "name": "CLOUDAI_SERVER_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": package.token_secret, "key": "token"}},
            }
        ]
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 45,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
        ],
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def platforms(package: Package) -> str:
    """What each platform has to be told to run the image: the adapters read the same."""
    told = container.platforms(package.image, package.port)
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode() + "\n"


def kubernetes_yaml(package: Package) -> str:
    """The manifests as one YAML file."""
    return "---\n".join("\n".join(_yaml(one)) + "\n" for one in kubernetes(package))


def _yaml(value: Any, indent: int = 0) -> Iterator[str]:
    """Block YAML of plain values; texts that YAML might read as something else are quoted."""
    space = " " * indent
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                yield f"{space}{_scalar(key)}:"
                yield from _yaml(inner, indent + 2)
            else:
                yield f"{space}{_scalar(key)}: {_scalar(inner)}"
    else:
        for inner in value:
            if isinstance(inner, dict) and inner:
                first, *rest = _yaml(inner, indent + 2)
                yield f"{space}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{space}- {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value)


def _requirements(package: Package) -> Sequence[str]:
    extras = ",".join(package.extras)
    needed = [f"cloudai[{extras}]=={_version.__version__}"]
    if not any(line.startswith("google-cloud-storage") for line in package.requirements):
        needed.append(GCS)
    return (*needed, *package.requirements)


def _exec(code: str) -> str:
    return json.dumps(["python", "-c", code])
