"""The image of `cloudai package`, run as its Dockerfile says: the files where it copies them, its
environment, its entry point and its health check. Only the installation is this machine's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="the namespace of /opt/ml is the AWS emulator's")

from cloudai.testing.emulators.aws import _container

pytestmark = pytest.mark.skipif(
    not _container.mounts(), reason="no folder can be mounted at /opt/ml here"
)

HANDLER = """
def load(model_dir):
    return int((model_dir / "model.txt").read_text())

def predict(model, inputs, params):
    return [model * value for value in inputs]
"""


def model(folder: Path, scale: int, handler: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.txt").write_text(str(scale))
    if handler is not None:
        (folder / "handler.py").write_text(handler)
    return folder


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context: a model of scale 2 without a handler, and a handler beside it."""
    handler = tmp_path / "mine.py"
    handler.write_text(HANDLER)
    target = tmp_path / "context"
    command = [sys.executable, "-m", "cloudai.cli", "package", str(model(tmp_path / "model", 2))]
    command += ["--image", "registry/scale:1", "--output", str(target), "--handler", str(handler)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@contextmanager
def container(context: Path, mounted: dict[str, Path], env: dict[str, str]) -> Generator[int]:
    """The port of a running container.

    Parameters
    ----------
    mounted: folders by what they are below /opt/ml; they hide what the image has there.
    env: what a platform tells it.
    """
    stage = (context / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    root = context.parent / "opt-ml"
    for text in re.findall(r"^COPY (\[.*\])$", stage, re.M):
        source, target = json.loads(text)
        inner = root / Path(target).relative_to("/opt/ml")
        inner.parent.mkdir(parents=True, exist_ok=True)
        if (context / source).is_dir():
            shutil.copytree(context / source, inner)
        else:
            shutil.copy2(context / source, inner)
    for name, folder in mounted.items():
        shutil.rmtree(root / name, ignore_errors=True)
        shutil.copytree(folder, root / name)
    (told,) = re.findall(r"^ENV (.*)$", stage, re.M)
    image = dict(word.split("=", 1) for word in shlex.split(told))
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", stage, re.M)
    (health,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", stage, re.M)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    around = {
        **image,
        "PATH": here,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "CLOUDAI_HOST": "127.0.0.1",
        # Where a platform tells the port, this is it.
        **{name: str(port) if text == "8080" else text for name, text in {**image, **env}.items()
           if name.endswith("PORT")},
        **{name: text for name, text in env.items() if not name.endswith("PORT")},
        "CLOUDAI_WORKERS": "1",
    }  # fmt: skip
    with (context.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            _container.command([*json.loads(entry), "serve"], root),
            env=around, cwd=root, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        # The health check that Docker runs in the container, which is this machine's network.
        check = json.loads(health)
        while subprocess.run(check, env=around, capture_output=True, check=False).returncode:
            said = (context.parent / "log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def settings(context: Path, platform: str) -> Any:
    return json.loads((context / "platforms.json").read_text())[platform]


def test_by_itself_it_serves_its_own_model(context: Path) -> None:
    with container(context, {}, {}) as port:
        assert ask(port, "/predict", {"inputs": [3]}) == {"outputs": [6]}
        assert ask(port, "/v1/models/scale:predict", {"instances": [3]}) == {"predictions": [6]}


def test_sagemaker_mounts_a_model_over_it(context: Path, tmp_path: Path) -> None:
    other = model(tmp_path / "other", 5)
    env = settings(context, "sagemaker")["Environment"]
    with container(context, {"model": other}, env) as port:
        assert ask(port, "/invocations", [3]) == [15]


def test_vertex_ai_names_a_model(context: Path, tmp_path: Path) -> None:
    other = model(tmp_path / "other", 5)
    told = settings(context, "vertex")
    env = {
        "AIP_STORAGE_URI": other.as_uri(),  # of a bucket there, which is fetched
        "AIP_HTTP_PORT": str(told["ports"][0]["containerPort"]),
        "AIP_PREDICT_ROUTE": told["predictRoute"],
        "AIP_HEALTH_ROUTE": told["healthRoute"],
    }
    with container(context, {}, env) as port:
        assert ask(port, told["predictRoute"], {"instances": [3]}) == {"predictions": [15]}


def test_azure_ml_mounts_a_model_further_down(context: Path, tmp_path: Path) -> None:
    told = settings(context, "azureml")
    mount = tmp_path / "mount"
    model(mount / "cloudai-0123" / "1" / "files", 5)
    env = {
        name: text.replace(told["model_mount_path"], str(mount))
        for name, text in told["environment_variables"].items()
    }
    env["AZUREML_MODEL_DIR"] = "/nowhere"
    config = told["inference_config"]
    with container(context, {}, env) as port:
        assert ask(port, config["scoring_route"]["path"], {"inputs": [3]}) == {"outputs": [15]}
        for name in ("liveness_route", "readiness_route"):
            url = f"http://127.0.0.1:{port}{config[name]['path']}"
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.status == 200


def test_a_deployment_s_handler_goes_before_the_image_s(context: Path, tmp_path: Path) -> None:
    other = model(tmp_path / "other", 5, HANDLER.replace("model * value", "model + value"))
    env = {**settings(context, "sagemaker")["Environment"], "CLOUDAI_HANDLER": "handler.py"}
    with container(context, {"model": other}, env) as port:
        assert ask(port, "/invocations", [3]) == [8]
