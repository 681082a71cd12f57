"""What `deploy` and `batch` hand to SageMaker, served by AWS's own toolkits.

    python tests/witnesses/sagemaker_toolkits.py [--environments DIR] [--lines N] [--rate R]

The client asks the emulated account as ever; its containers are AWS's inference toolkits under
their own servers (PyPI), on a Java of the system's. The same handlers on the local provider have to
give the same answers. Last, a transform job of N lines whose model does R lines a second.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from toolkits import Toolkits, java  # noqa: E402

from cloudai.client import Client  # noqa: E402
from cloudai.errors import CloudAIError, HandlerError, JobError, JobPartial  # noqa: E402
from cloudai.testing.emulators.aws import BUCKET, ROLE, AwsEmulator  # noqa: E402
from cloudai.types import BatchTransform, Resources  # noqa: E402

PLAIN = """
from __future__ import annotations
from dataclasses import dataclass
from beside import FACTOR

@dataclass
class Model:
    factor: int

def load(model_dir):
    return Model(FACTOR)

def predict(model, inputs, params):
    if "bad" in inputs:
        raise ValueError("a bad input")
    if params.get("as") == "numpy":
        import numpy
        return [{"y": numpy.float32(x * model.factor)} for x in inputs]
    if params.get("as") == "nan":
        return [float("nan") for _ in inputs]
    return [x * model.factor for x in inputs]

def stream(model, value, params):
    for i in range(value):
        yield i * model.factor
"""
FAMILY = """
import json
from beside import FACTOR

def model_fn(model_dir):
    return FACTOR

def input_fn(body, content_type):
    if content_type == "text/csv":
        return [float(x) for x in body.split(",")]
    return json.loads(body)

def predict_fn(data, model):
    if isinstance(data, dict):
        return {"mine": data}
    return [{"y": x * model} for x in data]

def output_fn(prediction, accept):
    return json.dumps(prediction)
"""
TRANSFORM = """
import json

def model_fn(model_dir):
    return 3

def transform_fn(model, body, content_type, accept):
    return json.dumps([x + model for x in json.loads(body)]), accept
"""
SLOW = """
import os, time

def load(model_dir):
    return 1.0 / float(os.environ["LINES_A_SECOND"])

def predict(model, inputs, params):
    time.sleep(model * len(inputs))
    return [x + 1 for x in inputs]
"""


class Checks:
    def __init__(self) -> None:
        self.failures = 0

    def same(self, what: str, found: Any, wanted: Any) -> None:
        good = found == wanted
        self.failures += not good
        told = "" if good else f": {found!r:.600}, not {wanted!r:.600}"
        print(f"{'ok  ' if good else 'FAIL'} {what}{told}", flush=True)


def told(action: Callable[[], Any]) -> Any:
    """What an action gives; of an error its class and code."""
    try:
        return action()
    except HandlerError as error:
        return ("HandlerError", "NotFinite" if error.code == "NotFinite" else "")
    except CloudAIError as error:
        return (type(error).__name__, str(error)[:400])


def model(folder: Path, source: str) -> tuple[Path, Path]:
    """A model's directory and a handler with a file beside it."""
    place = folder / "model"
    place.mkdir(parents=True, exist_ok=True)
    (place / "weights.json").write_text("{}")
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "beside.py").write_text("FACTOR = 3\n")
    (code / "serve.py").write_text(source)
    return place, code / "serve.py"


MACHINE = Resources(instance_type="ml.m5.large")

ASKED: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
    "load and predict": [
        ("two inputs", lambda e: e.predict([7, 8])),
        ("one input", lambda e: e.predict([7])),
        ("none", lambda e: e.predict([])),
        ("NumPy inside a dict", lambda e: e.predict([1, 2], params={"as": "numpy"})),
        ("NaN", lambda e: e.predict([1], params={"as": "nan"})),
        ("what raises", lambda e: e.predict(["bad"])),
        ("a stream", lambda e: b"".join(e.stream([3]))),
    ],
    "input_fn, predict_fn, output_fn": [
        ("two inputs", lambda e: e.predict([7, 8])),
        ("one input", lambda e: e.predict([7])),
    ],
    "transform_fn": [("three inputs", lambda e: e.predict([1, 2, 3]))],
}
SOURCES = {
    "load and predict": PLAIN,
    "input_fn, predict_fn, output_fn": FAMILY,
    "transform_fn": TRANSFORM,
}


def parity(folder: Path, aws: AwsEmulator, clients: tuple[Client, Client], checks: Checks) -> None:
    local, cloud = clients
    runtime = boto3.client("sagemaker-runtime", endpoint_url=aws.url, region_name=aws.region)
    lines = folder / "lines.jsonl"
    lines.write_text('7\n"bad"\n8\n')
    for number, (family, asked) in enumerate(ASKED.items()):
        place, handler = model(folder / f"m{number}", SOURCES[family])
        about: dict[str, Any] = {"handler": handler, "name": f"m{number}"}
        here = local.endpoints.deploy(place, **about)
        wanted = [told(functools.partial(ask, here)) for _, ask in asked]
        here.delete()
        for framework in ("pytorch", "huggingface"):
            about["name"] = f"m{number}-{framework}"
            there = cloud.endpoints.deploy(place, framework=framework, **about)
            for (what, ask), right in zip(asked, wanted, strict=True):
                checks.same(
                    f"{framework}, {family}: {what}", told(functools.partial(ask, there)), right
                )
            if family.startswith("input_fn"):
                for body, kind, right in (
                    (b'{"instances": [1]}', "application/json", {"mine": {"instances": [1]}}),
                    (b"1,2", "text/csv", [{"y": 3.0}, {"y": 6.0}]),
                ):
                    answer = runtime.invoke_endpoint(
                        EndpointName=about["name"], Body=body, ContentType=kind
                    )
                    found = json.loads(answer["Body"].read())
                    checks.same(f"{framework}, boto3's {kind} as it came", found, right)
            there.delete()
            if family != "transform_fn":
                output = folder / f"{about['name']}.jsonl"
                job = cloud.batch.submit(
                    BatchTransform(
                        name=about["name"], model=str(place), handler=str(handler),
                        framework=framework, input=str(lines), output=str(output),
                        resources=MACHINE, on_error="skip",
                    )
                )  # fmt: skip
                with contextlib.suppress(JobPartial):
                    job.wait()
                plain = family == "load and predict"
                state = "PARTIAL" if plain else "SUCCEEDED"
                checks.same(f"{framework}, {family}: batch", str(job.state), state)
                rows = output.read_text().splitlines() if output.exists() else []
                found = [json.loads(row) for row in rows]
                expected: list[Any] = [21, None, 24]
                if not plain:
                    expected = [{"y": 21}, {"y": "badbadbad"}, {"y": 24}]
                checks.same(f"{framework}, {family}: the batch's lines", found, expected)


def slow(folder: Path, cloud: Client, checks: Checks, count: int, rate: float) -> None:
    """A transform job whose model is slow."""
    place, handler = model(folder / "slow", SLOW)
    source, output = folder / "slow.jsonl", folder / "slow.out.jsonl"
    source.write_text("".join(f"{n}\n" for n in range(count)))
    began = time.monotonic()
    job = cloud.batch.submit(
        BatchTransform(
            name="slow", model=str(place), handler=str(handler), framework="pytorch",
            input=str(source), output=str(output), env={"LINES_A_SECOND": str(rate)},
            resources=MACHINE,
        )
    )  # fmt: skip
    with contextlib.suppress(JobError):
        job.wait(timeout=count / rate * 2 + 120)
    status = job.status
    what = f"{count} lines at {rate:g} a second, in {time.monotonic() - began:.0f} s"
    checks.same(what, (str(status.state), status.reason), ("SUCCEEDED", None))
    found = (
        [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    )
    checks.same(f"{what}: its answers", found, [n + 1 for n in range(count)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(tempfile.gettempdir()) / "cloudai-witnesses"
    parser.add_argument("--environments", type=Path, default=default)
    parser.add_argument("--lines", type=int, default=5600)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--only", choices=("parity", "slow"))
    options = parser.parse_args()
    if java() is None:
        print("skipped: there is no Java, on which TorchServe and multi-model-server run")
        return 0
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        aws = AwsEmulator()
        aws.start(Toolkits(folder / "emulated", options.environments))
        try:
            os.environ["CLOUDAI_HOME"] = str(folder / "home")
            os.environ.update({k: v for k, v in aws.env.items() if k != "AWS_ENDPOINT_URL"})
            with (
                Client(provider="local", home=folder / "local") as local,
                Client(
                    provider="aws", region=aws.region, endpoint_url=aws.url, role=ROLE,
                    bucket=BUCKET,
                ) as cloud,
            ):  # fmt: skip
                if options.only != "slow":
                    parity(folder, aws, (local, cloud), checks)
                if options.only != "parity":
                    slow(folder, cloud, checks, options.lines, options.rate)
        finally:
            aws.stop()
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())
