"""The life of a model: train a version, try it beside the one in service, promote it or roll
it back.

    python examples/lifecycle/program.py [--profile NAME]

Three versions of a digits classifier: the first is put into service, the second is better and
is promoted, the third is broken and is rolled back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import cloudai

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "digits"))

import data  # noqa: E402 - the digits of the neighbouring example
from registry import Registry, version_of  # noqa: E402

VERSIONS: tuple[dict[str, Any], ...] = (
    {"epochs": 5, "lr": 0.5},
    {"epochs": 200, "lr": 0.5},
    {"epochs": 5, "lr": -0.5},  # a wrong sign: it gets worse with each epoch
)
BETTER_BY = 0.01
"""How much more of the answers have to be right for a version to be promoted."""


def train(
    client: cloudai.Client,
    registry: Registry,
    folder: Path,
    hyperparameters: dict[str, Any],
    cleanup: contextlib.ExitStack,
) -> cloudai.Model:
    """The model of these hyperparameters, as a version; trained only if it is a new one."""
    code = [HERE / "train.py", HERE / "handler.py"]
    version = version_of(code, folder / "train", hyperparameters)
    known = registry.model(version)
    if known is not None:
        return known
    job = client.training.submit(
        cloudai.TrainingJob(
            source=str(HERE),
            entry="train.py",
            inputs={"train": str(folder / "train")},
            hyperparameters=hyperparameters,
            hyperparameter_args=False,
            metrics=(cloudai.Metric(name="accuracy", regex=r"accuracy=([0-9.]+)"),),
            tags={"version": version},
        )
    )
    cleanup.callback(job.delete)
    status = job.wait(timeout=3600)
    accuracy = status.metrics["accuracy"][-1].value
    registry.record(version, "trained", uri=job.model.uri, job=job.id, accuracy=accuracy)
    return cloudai.Model(uri=job.model.uri, version=version, job=job.id)


def variants(shares: dict[cloudai.Model, float]) -> list[cloudai.Variant]:
    """One variant a model, named after its version."""
    return [
        cloudai.Variant(model=model, name=f"v-{model.version}", weight=weight)
        for model, weight in shares.items()
    ]


def measure(
    endpoint: cloudai.Endpoint, images: list[Any], labels: list[str], group: int = 5
) -> dict[str, tuple[float, int]]:
    """Sends the images through the endpoint and counts by the variant that answered: the part
    that was right, and how many it got."""
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for start in range(0, len(images), group):
        answer = endpoint.invoke(images[start : start + group])
        name = answer.variant or "main"
        truth = labels[start : start + group]
        asked[name] += len(truth)
        right[name] += sum(
            one.get("label") == label for one, label in zip(answer.outputs, truth, strict=True)
        )
    return {name: (right[name] / count, count) for name, count in asked.items()}


def try_out(
    endpoint: cloudai.Endpoint,
    registry: Registry,
    champion: cloudai.Model,
    challenger: cloudai.Model,
    images: list[Any],
    labels: list[str],
) -> cloudai.Model:
    """Gives the challenger a part of the traffic, then all of it or none; gives who is left."""
    handler = str(HERE / "handler.py")
    endpoint.update(variants({champion: 2, challenger: 1}), handler=handler)
    found = measure(endpoint, images, labels)
    for name, (accuracy, count) in sorted(found.items()):
        print(f"   {name}: {accuracy:.2%} of {count} right")
    before = found[f"v-{champion.version}"][0]
    after = found.get(f"v-{challenger.version}", (0.0, 0))[0]
    won = after >= before + BETTER_BY
    registry.record(
        str(challenger.version), "promoted" if won else "rolled back", before=before, after=after
    )
    print(f"   {challenger.version} is {'promoted' if won else 'rolled back'}")
    left = challenger if won else champion
    endpoint.update(variants({left: 1}), handler=handler)
    return left


def run(client: cloudai.Client, folder: Path, cleanup: contextlib.ExitStack) -> Registry:
    data.write(folder)
    images = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    labels = json.loads((folder / "test_labels.json").read_text())
    registry = Registry(folder / "models.jsonl")
    models = [train(client, registry, folder, one, cleanup) for one in VERSIONS]
    assert train(client, registry, folder, VERSIONS[0], cleanup) == models[0], "trained twice"

    first = models[0]
    endpoint = client.endpoints.deploy(
        variants({first: 1}), name=f"digits-{first.version}", handler=HERE / "handler.py"
    )
    cleanup.callback(endpoint.delete)
    registry.record(str(first.version), "promoted")
    print(f"in service: {endpoint.id}, version {first.version}")
    champion = first
    for challenger in models[1:]:
        print(f"{champion.version} against {challenger.version}:")
        champion = try_out(endpoint, registry, champion, challenger, images, labels)
    [left] = endpoint.status.variants
    print(f"in service: version {champion.version}, {left.share:.0%} of the traffic")
    return registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="of the nearest cloudai.toml; without one: local")
    options = parser.parse_args()
    with cloudai.Client(options.profile) as client, contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="lifecycle-")))
        run(client, folder, cleanup)


if __name__ == "__main__":
    main()
