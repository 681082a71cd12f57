"""What SageMaker, Vertex AI and Azure ML have to be told to run an image of the endpoint server:
the one place that ``cloudai package`` writes from and that the adapters read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec

from cloudai._core.files.paths import local_path
from cloudai.types import Deployment
from cloudai.types._base import invalid, met
from cloudai.types.endpoints import MAX_QUEUE

PORT: Final = 8080
"""Where the server listens; the only port that SageMaker asks (its page on inference containers,
read 2026-11)."""
MODEL_DIR: Final = "/opt/ml/model"
"""Where the image has its own model. SageMaker mounts over it; Vertex AI and Azure ML name
another place."""
MOUNT: Final = "/var/cloudai/model"
"""Where Azure ML is asked to mount the model, one or more folders further down. It is no part of
``MODEL_DIR``, so that the two models never mix."""
FILE: Final = "platforms.json"
"""The settings in a package's folder."""

_FOLDER: Final = ("/", "./", "../", "~", "file://")

_Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Path: TypeAlias = Annotated[str, msgspec.Meta(pattern="^/")]


class SageMaker(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"image": "Image", "environment": "Environment"},
):
    """Of CreateModel's PrimaryContainer. Routes and port are SageMaker's own: ``/ping`` and
    ``/invocations`` on 8080."""

    image: str
    environment: dict[str, str] = {}


class Port(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    container_port: _Port


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    value: str


class Vertex(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename="camel",
    omit_defaults=True,
):
    """Vertex AI's ModelContainerSpec. It tells the container the model, the routes and the port
    in ``AIP_*``."""

    image_uri: str
    predict_route: _Path
    health_route: _Path
    ports: Annotated[tuple[Port, ...], msgspec.Meta(min_length=1)]
    env: tuple[Variable, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: _Port
    path: _Path


class InferenceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    liveness_route: Route
    readiness_route: Route
    scoring_route: Route


class AzureML(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In azure-ai-ml's words: ``image`` and ``inference_config`` are the Environment's, the rest
    the ManagedOnlineDeployment's."""

    image: str
    inference_config: InferenceConfig
    model_mount_path: _Path
    environment_variables: dict[str, str] = {}


class Platforms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one image, in each platform's own words."""

    sagemaker: SageMaker
    vertex: Vertex
    azureml: AzureML


def platforms(image: str, port: int = PORT) -> Platforms:
    """The settings of an image with the endpoint server in it.

    Parameters
    ----------
    image: its reference. port: where it listens unless told otherwise.
    """
    # What an image from elsewhere has no use for does it no harm.
    outside = {"CLOUDAI_HOST": "0.0.0.0"}  # noqa: S104 (a container is asked from outside)
    return Platforms(
        sagemaker=SageMaker(
            image=image, environment={**outside, "CLOUDAI_PORT": str(PORT)}
        ),
        vertex=Vertex(
            image_uri=image,
            predict_route="/predict",
            health_route="/ping",
            ports=(Port(container_port=port),),
        ),
        azureml=AzureML(
            image=image,
            inference_config=InferenceConfig(
                liveness_route=Route(port=port, path="/v2/health/live"),
                readiness_route=Route(port=port, path="/v2/health/ready"),
                scoring_route=Route(port=port, path="/score"),
            ),
            model_mount_path=MOUNT,
            environment_variables={
                **outside, "CLOUDAI_PORT": str(port), "CLOUDAI_MODEL_DIR": MOUNT,
            },
        ),
    )  # fmt: skip


def is_folder(image: str) -> bool:
    """Whether an image of a spec is a package's folder, by how it begins."""
    return image.startswith(_FOLDER)


def settings(image: str, field: str = "image") -> Platforms:
    """The settings of what a spec calls its image.

    Parameters
    ----------
    image: a reference such as ``registry/name:tag``; or a folder that ``cloudai package`` wrote,
        which begins with ``/``, ``./``, ``../``, ``~`` or ``file://`` and whose ``platforms.json``
        is taken as it stands.

    Raises InvalidRequest for a folder that is none of a package, and for a name that could be
    either.
    """
    if not is_folder(image):
        if (Path(image) / FILE).is_file():
            raise invalid(
                field, image, "is an image's name, and a package's folder too",
                f"Write ./{image} for the folder, or give the whole reference with its tag.",
            )  # fmt: skip
        return platforms(image)
    file = local_path(image, field) / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=met(Platforms))
    except OSError as error:
        raise invalid(
            field, image, f"has no {FILE} that can be read ({error.strerror})",
            "Give the folder that `cloudai package` wrote, or the reference of an image.",
        ) from None  # fmt: skip
    except msgspec.ValidationError as error:
        raise invalid(
            field, image, f"has a {FILE} that does not fit: {error}",
            "Write it anew with `cloudai package`.",
        ) from None  # fmt: skip
    except msgspec.DecodeError as error:
        raise invalid(field, image, f"has a {FILE} that is no JSON ({error})") from None


def environment(spec: Deployment, handler: str | None = None) -> dict[str, str]:
    """What the server in an image has to be told of a deployment, and the deployment's own
    variables.

    Parameters
    ----------
    handler: where the deployment's own handler lies in the model; None where it has none.
    """
    asked = {
        "CLOUDAI_HANDLER": handler,
        "CLOUDAI_WORKERS": spec.workers,
        "CLOUDAI_MAX_BATCH": spec.max_batch,
        "CLOUDAI_MAX_QUEUE": spec.max_queue if spec.max_queue != MAX_QUEUE else None,
    }
    return {
        **{name: str(value) for name, value in asked.items() if value is not None},
        **spec.env,
    }
