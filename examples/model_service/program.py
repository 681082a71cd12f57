"""A model service and its monitoring: routes, metrics and warnings, and an image of it.

    python examples/model_service/program.py

It trains a small classifier, deploys it on this machine, talks to it as any HTTP client would,
reads what Prometheus would scrape, and writes the Dockerfile and the Kubernetes manifests.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import cloudai

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "text_classifier"))

import data  # noqa: E402 - the reviews of the neighbouring example

LIMITS = {"low_confidence": 0.6, "long_input": 1000}
"""Below and above these an answer counts as doubtful, and the log has a warning."""


def ask(url: str, path: str, body: object = None) -> tuple[int, str]:
    """The status and the text of an answer; a POST where there is a body."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url + path, data=content, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def talk(url: str) -> None:
    print(f"GET /health -> {ask(url, '/health')[0]}")
    status, answer = ask(url, "/predict", {"text": "The soup was superb."})
    label = json.loads(answer)["prediction"]["label"]
    print(f"POST /predict -> {status} {label}")
    print(f"POST /predict without a text -> {ask(url, '/predict', {'no': 'text'})[0]}")
    texts = ["This phone is useless.", "Lovely!", "It is what it is.", "superb " * 200]
    status, answer = ask(url, "/batch_predict", {"texts": texts})
    labels = [one["label"] for one in json.loads(answer)["predictions"]]
    print(f"POST /batch_predict -> {status} {', '.join(labels)}")


def watch(endpoint: cloudai.Endpoint, url: str) -> None:
    print("of GET /metrics:")
    counted = ("cloudai_http_requests_", "cloudai_predictions_", "cloudai_request_seconds_",
               "cloudai_low_", "cloudai_long_")  # fmt: skip
    for line in ask(url, "/metrics")[1].splitlines():
        if line.startswith(counted) and "_bucket" not in line:
            print(f"   {line}")
    print("warnings in the log:")
    for line in endpoint.logs():
        if '"level":"warning"' in line.text:
            print(f"   {line.text}")


def package(model: str, target: Path) -> None:
    """As ``cloudai package`` on a command line: nothing is built here."""
    command = [sys.executable, "-m", "cloudai.cli", "package", model, "--output", str(target)]
    command += ["--image", "registry.example.com/reviews:1", "--handler", str(HERE / "handler.py")]
    subprocess.run(command, check=True)


def run(client: cloudai.Client, folder: Path, cleanup: contextlib.ExitStack) -> None:
    data.write(folder)
    job = client.training.submit(
        cloudai.TrainingJob(
            source=str(HERE), entry="train.py", inputs={"train": str(folder / "train")}
        )
    )
    cleanup.callback(job.delete)
    job.wait(timeout=600)
    endpoint = client.endpoints.deploy(
        job.model,
        name=f"service-{job.native_id[-6:]}",
        handler=HERE / "handler.py",
        native={"local": LIMITS},
    )
    cleanup.callback(endpoint.delete)
    url = endpoint.url
    assert url is not None
    talk(url)
    watch(endpoint, url)
    package(job.model.uri, folder / "image")


def main() -> None:
    # The routes are the server's own, so that this program is for the local provider; what
    # `package` writes runs on each cloud.
    with cloudai.Client(provider="local") as client, contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="service-")))
        run(client, folder, cleanup)


if __name__ == "__main__":
    main()
