"""What runs first inside a Vertex AI job: lays out the source, fetches inputs and secrets, and
hands over to the bootstrap, which becomes the user's script.

Standard library only, and no import of cloudai: this file travels with the source, beside
``bootstrap.py``. It is told by variables of the job:

=====================  ======================================================================
CLOUDAI_VERTEX_COPY    JSON: names of inputs that are copied to the disk before the start
CLOUDAI_VERTEX_SECRETS JSON: environment variable → Secret Manager version to fetch into it
CLOUDAI_REQUIREMENTS   a requirements file of the source, installed before the start
=====================  ======================================================================
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request


def main(argv: list[str]) -> None:
    """``argv``: the script, then its arguments."""
    here = os.path.dirname(os.path.abspath(__file__))
    bootstrap = _bootstrap(os.path.join(here, "bootstrap.py"))
    work = tempfile.mkdtemp(prefix="cloudai-")
    source = os.path.join(work, "source")
    # The installed copy may be read-only, and scripts write beside themselves.
    shutil.copytree(os.path.join(here, "source"), source)
    os.chdir(source)
    environment = os.environ
    environment.update(bootstrap.derive(environment))
    for name in json.loads(environment.pop("CLOUDAI_VERTEX_COPY", "[]")):
        variable = bootstrap.variable("CLOUDAI_INPUT_", name)
        environment[variable] = copied(environment[variable], os.path.join(work, "inputs", name))
    for name, version in json.loads(environment.pop("CLOUDAI_VERTEX_SECRETS", "{}")).items():
        environment[name] = secret(version)
    requirements = environment.pop("CLOUDAI_REQUIREMENTS", None)
    if requirements:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "-r", requirements]
        subprocess.run(command, check=True)
    bootstrap.main(argv)


def _bootstrap(path: str):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("cloudai_bootstrap", path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copied(place: str, target: str) -> str:
    """Copies a mounted directory or file to the disk; gives where it is now."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(place):
        shutil.copytree(place, target)
        return target
    os.makedirs(target)
    return shutil.copy(place, target)


def secret(version: str) -> str:
    """The value of ``projects/P/secrets/NAME/versions/V``, fetched as the job's own account."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    ask = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token",
        headers={"Metadata-Flavor": "Google"},
    )
    with urllib.request.urlopen(ask, timeout=30) as answer:  # noqa: S310
        token = json.load(answer)["access_token"]
    base = os.environ.get(
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER", "https://secretmanager.googleapis.com"
    ).rstrip("/")
    ask = urllib.request.Request(  # noqa: S310
        f"{base}/v1/{version}:access", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(ask, timeout=30) as answer:  # noqa: S310
        return base64.b64decode(json.load(answer)["payload"]["data"]).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
