"""Models and their handlers as assets: what online and batch endpoints deploy."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from cloudai._core.files import requirements as required
from cloudai._core.files.paths import local_path
from cloudai._core.files.tree import tree
from cloudai._core.handlers import container, portable
from cloudai._core.handlers.handler import find_handler, siblings, travelling
from cloudai.errors import InvalidRequest
from cloudai.protocols import Call
from cloudai.providers.azure.ml import images
from cloudai.providers.azure.ml.job_wire import environment_name
from cloudai.providers.azure.ml.workspace import Files, Workspace
from cloudai.types import BatchTransform, Deployment, Resources, Violation
from cloudai.types._base import invalid

SCRIPT: Final = "_cloudai_score.py"
ONLINE: Final = ("azureml-inference-server-http==1.5.1",)
BATCH: Final = ("azureml-core==1.61.0.post4", "azureml-dataset-runtime[fuse]==1.62.0.post1")
"""What the service's own part of a container needs: of an online deployment, and of a batch
deployment (the guide "Author scoring scripts for batch deployments", read 2026-11). By version and
not by hash: pip would then want the hashes of the user's requirements too."""
_REMOTE: Final = ("azureml://", "azureml:", "https://", "/subscriptions/")


def check(uri: str, handler: str | None, field: str, *, image: bool = False) -> None:
    """Raises InvalidRequest for a model or handler that is not there.

    Parameters
    ----------
    image: whether an image of one's own serves the model: it may do without a handler, and takes
        one only in the model's folder.
    """
    local = not uri.startswith(_REMOTE)
    path = Path() if not local else local_path(uri, field)
    if local and not path.is_dir():
        raise invalid(field, uri, "is not a directory", f"Looked at {path.absolute()}.")
    if local:
        tree(path, field=field)
    if handler is not None:
        if image and not local:
            raise invalid(
                "handler", handler, f"cannot be put beside {uri}, as an image needs it",
                "Put it into the model as handler.py, or give the model as a local directory.",
            )  # fmt: skip
        own = Path(handler).expanduser()
        find_handler(own.parent, own)
    elif local and not image:
        find_handler(path)


def upload_model(workspace: Workspace, uri: str, call: Call, handler: str | None = None) -> str:
    """The id of a model asset: of local files, of a job's output, or the one that is named.

    Parameters
    ----------
    handler: goes into local files as ``handler.py``.
    """
    if uri.startswith(("azureml:", "/subscriptions/")) and not uri.startswith("azureml://"):
        return workspace.named("models", uri)
    if uri.startswith(("azureml://", "https://")):
        body = {"properties": {"modelType": "custom_model", "modelUri": uri}}
        path = f"models/{environment_name(body)}/versions/1"
        if workspace.found(path, call) is None:
            workspace.send("PUT", path, call, body)
        return workspace.id_of(path)
    files = tree(local_path(uri, "model"), field="model").files
    if handler is not None:
        own = Path(handler).expanduser()
        files.update({**siblings(own), "handler.py": own})
    return workspace.upload("models", files, call)[0]


def upload_code(workspace: Workspace, handler: str | None, call: Call) -> str:
    """The id of the scoring script's code asset, with what it calls beside it."""
    files: Files = {
        SCRIPT: Path(__file__).with_name("score.py"),
        portable.MODULE: Path(portable.__file__),
    }
    if handler is not None:
        files.update(travelling(Path(handler).expanduser()))
    return workspace.upload("codes", files, call)[0]


def register_environment(
    workspace: Workspace,
    spec: BatchTransform | Deployment,
    resources: Resources,
    call: Call,
    needed: tuple[str, ...] = ONLINE,
) -> str:
    """The id of the environment that serves: an image with what Azure ML itself needs in it, the
    framework, and the handler's requirements."""
    own = [] if spec.requirements is None else required.lines(spec.requirements)
    framework = [] if spec.image is not None else images.packages(spec.framework, own)
    pip = "".join(f"      - {json.dumps(line)}\n" for line in (*needed, *framework, *own))
    body: dict[str, Any] = {
        "properties": {
            "image": spec.image or images.base(gpu=resources.accelerator is not None),
            "osType": "Linux",
            "condaFile": "name: cloudai\nchannels:\n  - conda-forge\ndependencies:\n"
            f"  - python=3.11\n  - pip\n  - pip:\n{pip}",
        }
    }
    return registered(workspace, body, call)


def violations(spec: BatchTransform | Deployment) -> list[Violation]:
    """What is wrong with the framework and the requirements of an environment that we make."""
    found = [] if spec.image is not None else images.violations(spec.framework)
    if spec.requirements is not None:
        try:
            required.lines(spec.requirements)
        except InvalidRequest as error:
            found.append(Violation("requirements", error.message, error.hint or ""))
    return found


def registered(workspace: Workspace, body: dict[str, Any], call: Call) -> str:
    """The id of an environment with this body, which is made where there is none yet."""
    path = environment_path(body)
    if workspace.found(path, call) is None:
        workspace.send("PUT", path, call, body)
    return workspace.id_of(path)


def environment_path(body: dict[str, Any]) -> str:
    """Where an environment with this body lies in the workspace."""
    return f"environments/{environment_name(body)}/versions/1"


def image_violations(image: str | None) -> list[Violation]:
    """What is wrong with the image that a scoring script is to run in."""
    if image is None or not container.is_folder(image):
        return []
    mend = "A batch runs a script of ours: name an image to run it in, or none."
    return [Violation("image", "is a package, which serves endpoints.", mend)]


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for what is made only to be uploaded."""
    return tempfile.TemporaryDirectory(prefix="cloudai-")
