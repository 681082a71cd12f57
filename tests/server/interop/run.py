"""The real kserve client and the real Azure ML inference server against the endpoint server.

    python tests/server/interop/run.py [--environments DIR]

Makes an environment for each in DIR, where it is not there yet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "witnesses")]

from environments import clean_env, python_of  # noqa: E402
from running_server import launch, model  # noqa: E402
from toolkits import free_port  # noqa: E402

# A handler that the adapters and the server take alike.
HANDLER = """
def load(model_dir):
    return 2

def predict(model, inputs, params):
    if params.get("echo"):
        return inputs
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in inputs):
        raise ValueError("not a number")
    return [x * model for x in inputs]
"""

SAGEMAKER = """
def model_fn(model_dir):
    return 2

def predict_fn(data, model):
    return [x * model for x in data]
"""

ASKED: tuple[dict[str, Any], ...] = (
    {"inputs": [1, 2.5, -3]},
    {"inputs": []},
    {"inputs": ["é", {"a": [None, True]}], "params": {"echo": True}},
)


def kserve(environments: Path) -> int:
    """Runs kserve_checks.py; the number of failures (1 for any)."""
    with tempfile.TemporaryDirectory() as folder:
        server = launch(
            Path(folder, "log"), "--model", f"m={model(Path(folder, 'm'), HANDLER)}",
            "--workers", "1",
        )  # fmt: skip
        try:
            server.wait()
            url = f"http://127.0.0.1:{server.port}"
            program = [str(python_of(environments, "kserve")), str(HERE / "kserve_checks.py")]
            return subprocess.run([*program, url, "m"], check=False, env=clean_env()).returncode
        finally:
            server.stop()


def azureml(environments: Path, source: str, name: str) -> int:
    """The scoring script that the azure provider deploys, in Azure ML's own server, and the same
    handler in ours: the same answers to the same requests."""
    from cloudai._core.handlers.handler import travelling
    from cloudai.providers.azure.ml import model_assets

    python = python_of(environments, "azureml")
    failures = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        served = model(folder / "m", source)
        code = folder / "code"
        code.mkdir()
        script = Path(model_assets.__file__).with_name("score.py")
        shutil.copy(script, code / model_assets.SCRIPT)
        for inner, path in travelling(served / "handler.py").items():
            (code / inner).parent.mkdir(exist_ok=True)
            shutil.copy(path, code / inner)
        port = free_port()
        health = free_port(port + 1)
        with (folder / "azureml.log").open("wb") as log:
            theirs = subprocess.Popen(
                [str(python.parent / "azmlinfsrv"), "--entry_script",
                 str(code / model_assets.SCRIPT),
                 "--model_dir", str(served), "--port", str(port), "--health_port", str(health)],
                stdout=log, stderr=log, cwd=code, env=clean_env(),
            )  # fmt: skip
        ours = launch(folder / "log", "--model", f"m={served}", "--workers", "1")
        try:
            ours.wait()
            http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
            end = time.monotonic() + 60
            while True:
                try:
                    if http.get("/").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert theirs.poll() is None, (folder / "azureml.log").read_text()
                assert time.monotonic() < end, (folder / "azureml.log").read_text()
                time.sleep(0.1)
            asked = ASKED if source is HANDLER else ASKED[:1]
            path = "/score" if source is HANDLER else "/predict"
            for body in asked:
                given = http.post("/score", json=body)
                own = ours.http.post(path, json=body)
                good = given.status_code == own.status_code == 200 and given.json() == own.json()
                failures += not good
                told = "" if good else f"{given.status_code} {given.text} / {own.text}"
                print(f"{'ok  ' if good else 'FAIL'} azureml {name} {json.dumps(body)} {told}")
            for asking in (http, ours.http):
                about = {"x-ms-client-request-id": "c-1", "x-request-id": "r-1"}
                answer = asking.post("/score", json=ASKED[0], headers=about)
                good = answer.headers.get("x-request-id") == "r-1"
                good = good and answer.headers.get("x-ms-client-request-id") == "c-1"
                failures += not good
                print(f"{'ok  ' if good else 'FAIL'} azureml {name} request ids")
            http.close()
        finally:
            ours.stop()
            theirs.terminate()
            theirs.wait(30)
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "cloudai-witnesses"
    parser.add_argument("--environments", type=Path, default=default)
    options = parser.parse_args()
    codes = [
        kserve(options.environments),
        azureml(options.environments, HANDLER, "load and predict"),
        azureml(options.environments, SAGEMAKER, "model_fn and predict_fn"),
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
