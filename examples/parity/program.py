"""Trains the digits CNN, deploys it, transforms a file with it, chats and embeds, on any profile.

    python examples/parity/program.py --profile local

Nothing below names a provider. ``parity.py`` runs it on all four profiles and compares.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import cloudai

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "digits"
sys.path.insert(0, str(DIGITS))
import data  # noqa: E402 - of the digits example

QUESTION = "What is the capital of France? Answer in one sentence."
SENTENCES = (
    "A cat sleeps on the warm roof.",
    "The interest rate rose again this spring.",
    "A cat naps on the warm roof.",
)


def training_job(train: Path, epochs: int) -> cloudai.TrainingJob:
    return cloudai.TrainingJob(
        source=str(DIGITS),
        entry="train.py",
        ignore=("program.py", "*.toml", "__pycache__"),
        inputs={"train": str(train)},
        hyperparameters={"epochs": epochs, "batch-size": 64, "lr": 3e-3, "seed": 0},
        # One thread, so that sums are added up in one order: the same weights everywhere.
        env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        metrics=(
            cloudai.Metric(name="epoch", regex=r"epoch=(\d+)"),
            cloudai.Metric(name="loss", regex=r"loss=([0-9.e+-]+)"),
        ),
        timeout=1800,
    )


def right(outputs: list[dict[str, object]], labels: list[str]) -> float:
    """The part of the labels that the outputs have right."""
    pairs = zip(outputs, labels, strict=True)
    return sum(output["label"] == label for output, label in pairs) / len(labels)


def closest(vectors: object) -> tuple[int, int]:
    """Which two of three vectors have the smallest angle between them."""
    unit = vectors / (vectors**2).sum(axis=1, keepdims=True) ** 0.5
    alike = unit @ unit.T
    return max((alike[i, j], (i, j)) for i in range(3) for j in range(i + 1, 3))[1]


def weights(model_dir: Path) -> str:
    """A digest of the trained weights. The file itself holds more than they."""
    import torch

    state = torch.load(model_dir / "model.pt", map_location="cpu", weights_only=True)
    made = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        made.update(name.encode())
        made.update(tensor.contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


def run(client: cloudai.Client, folder: Path, epochs: int, made: contextlib.ExitStack) -> dict:
    """All five capabilities; what was made is removed when ``made`` is left."""
    data.write(folder)
    labels = json.loads((folder / "test_labels.json").read_text())
    images = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]

    job = client.training.submit(training_job(folder / "train", epochs))
    made.callback(job.delete)
    status = job.wait(timeout=1800)
    loss = status.metrics["loss"][-1].value
    print(f"  trained   {job.id}: loss {loss:.4f}", flush=True)
    trained = job.download(folder / "model")

    name = f"parity-{job.native_id[-8:].strip('-').lower()}"
    endpoint = client.endpoints.deploy(job.model, name=name, handler=DIGITS / "handler.py")
    made.callback(endpoint.delete)
    answers = endpoint.predict(images)
    print(f"  deployed  {endpoint.id}: {right(answers, labels):.4%}", flush=True)

    output = folder / "predictions.jsonl"
    batch = client.batch.submit(
        cloudai.BatchTransform(
            model=job.model,
            handler=str(DIGITS / "handler.py"),
            input=str(folder / "test.jsonl"),
            output=str(output),
        )
    )
    made.callback(batch.delete)
    batch.wait(timeout=1800)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    print(f"  batch     {batch.id}: {right(lines, labels):.4%}", flush=True)

    with client.chat.stream(QUESTION, model="smart", temperature=0, max_tokens=40) as pieces:
        reply = "".join(piece.text for piece in pieces)
    print(f"  chat      {pieces.reply.model}: {reply}", flush=True)
    vectors = client.embeddings.create(SENTENCES, model="embed").array
    print(f"  embedded  {vectors.shape[1]} numbers each; closest: {closest(vectors)}", flush=True)
    return {
        "profile": client.profile.name,
        "provider": client.profile.provider,
        "loss": loss,
        "endpoint": right(answers, labels),
        "batch": right(lines, labels),
        "weights": weights(trained),
        "labels": hashlib.sha256(
            "".join(str(one["label"]) for one in [*answers, *lines]).encode()
        ).hexdigest()[:16],
        "chat": reply,
        "dimensions": vectors.shape[1],
        "closest": closest(vectors),
        "made": [job.id, endpoint.id, batch.id],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="of the configuration; its default if absent")
    parser.add_argument("--config", type=Path, default=HERE / "cloudai.toml")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--result", type=Path, help="where to write what came out, as JSON")
    options = parser.parse_args()
    started = time.monotonic()
    with cloudai.Client(options.profile, config=options.config) as client:
        print(f"{client.profile.name} (provider {client.profile.provider})", flush=True)
        with contextlib.ExitStack() as made:
            folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="parity-")))
            found = run(client, folder, options.epochs, made)
        left = [entry.uri for entry in client.resources() if entry.uri in found["made"]]
    found |= {"seconds": time.monotonic() - started, "left": left}
    print(f"  cleaned up; {found['seconds']:.0f} s in all", flush=True)
    if options.result:
        options.result.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
