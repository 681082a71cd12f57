"""The main job, on any profile: train, deploy, predict, batch-transform, chat, embed, clean up.

    python examples/digits/program.py --profile dev     # this machine
    python examples/digits/program.py --profile fake    # the same program, scripted answers

Nothing below names a provider; only the profile differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import data

import cloudai

HERE = Path(__file__).resolve().parent
SENTENCES = (
    "A cat sleeps on the warm roof.",
    "The interest rate rose again this spring.",
    "A kitten naps on top of the house.",
)


def training_job(folder: Path, epochs: int) -> cloudai.TrainingJob:
    return cloudai.TrainingJob(
        source=str(HERE),
        entry="train.py",
        ignore=("program.py", "*.toml", "__pycache__"),
        inputs={"train": str(folder / "train")},
        hyperparameters={"epochs": epochs, "batch-size": 64, "lr": 3e-3},
        # OpenMP's threads spin while they wait by default, which makes so small a network ten
        # times slower on cores that something else uses too.
        env={"OMP_WAIT_POLICY": "PASSIVE"},
        metrics=(
            cloudai.Metric(name="epoch", regex=r"epoch=(\d+)"),
            cloudai.Metric(name="loss", regex=r"loss=([0-9.e+-]+)"),
            cloudai.Metric(name="accuracy", regex=r"accuracy=([0-9.]+)"),
        ),
        timeout=1800,
    )


def show_progress(status: cloudai.JobStatus, epochs: int) -> None:
    """A bar on a terminal; in a pipe nothing until the end."""
    if not sys.stdout.isatty():
        return
    last = {name: points[-1].value for name, points in status.metrics.items()}
    full = round(30 * last.get("epoch", 0) / epochs)
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in last.items())
    print(
        f"\r   {'━' * full}{'╌' * (30 - full)}  {status.state}  {numbers}\x1b[K", end="", flush=True
    )


def accuracy(outputs: list[dict[str, object]], labels: list[str]) -> float:
    assert len(outputs) == len(labels), f"{len(outputs)} outputs for {len(labels)} images"
    return sum(out.get("label") == label for out, label in zip(outputs, labels, strict=True)) / len(
        labels
    )


def run(client: cloudai.Client, folder: Path, epochs: int, cleanup: contextlib.ExitStack) -> dict:
    data.write(folder)
    labels = json.loads((folder / "test_labels.json").read_text())
    lines = (folder / "test.jsonl").read_text().splitlines()
    print(f"1. data: handwritten digits; {len(labels)} held out, in {folder}")

    started = time.monotonic()
    job = client.training.submit(training_job(folder, epochs))
    cleanup.callback(job.delete)
    print(f"2. training: {job.id}")
    status = job.wait(timeout=3600, on_update=lambda status: show_progress(status, epochs))
    last = {name: points[-1].value for name, points in status.metrics.items()}
    took = f"{time.monotonic() - started:.1f} s"
    clear = "\r\x1b[K" if sys.stdout.isatty() else ""
    print(
        f"{clear}   {status.state} in {took}; the last of its metrics: "
        f"loss {last['loss']:.4f}, accuracy {last['accuracy']:.2%}"
    )
    model = job.model
    print(f"   model: {model.uri}")

    name = f"digits-{job.native_id[-8:].strip('-')}"
    endpoint = client.endpoints.deploy(model, name=name, handler=HERE / "handler.py")
    cleanup.callback(endpoint.delete)
    print(f"3. endpoint: {endpoint.id}  {endpoint.url or ''}")
    online = accuracy(endpoint.predict([json.loads(line) for line in lines]), labels)
    print(f"   {online:.2%} of the held-out images are right")

    output = folder / "predictions.jsonl"
    batch = client.batch.submit(
        cloudai.BatchTransform(
            model=model,
            handler=str(HERE / "handler.py"),
            input=str(folder / "test.jsonl"),
            output=str(output),
        )
    )
    cleanup.callback(batch.delete)
    print(f"4. batch: {batch.id}")
    batch.wait(timeout=3600)
    offline = accuracy([json.loads(line) for line in output.read_text().splitlines()], labels)
    print(f"   {offline:.2%} are right, in {output}")

    question = "What is the capital of France? Answer in one sentence."
    print(f"5. chat: {question}\n   ", end="")
    with client.chat.stream(question, temperature=0, max_tokens=60) as pieces:
        for piece in pieces:
            print(piece.text, end="", flush=True)
    reply, usage = pieces.reply, pieces.reply.usage
    print(f"\n   ({reply.model}: {usage.input_tokens} tokens in, {usage.output_tokens} out)")

    vectors = client.embeddings.create(SENTENCES).array
    unit = vectors / (vectors**2).sum(axis=1, keepdims=True) ** 0.5
    alike = unit @ unit.T
    pairs = [(alike[i, j], i, j) for i in range(3) for j in range(i + 1, 3)]
    best, first, second = max(pairs)
    print(f"6. embeddings: of three sentences of {vectors.shape[1]} numbers each, the closest are")
    print(f"   {SENTENCES[first]!r} and {SENTENCES[second]!r} (cosine {best:.2f})")

    made = {job.id, endpoint.id, batch.id}
    print("made, as `cloudai ls` lists it:")
    for entry in client.resources():
        if entry.uri in made:
            print(f"   {entry.state:<10} {entry.uri}")
    return {"endpoint": online, "batch": offline, "closest": {first, second}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="of the configuration; its default if absent")
    parser.add_argument("--config", type=Path, default=HERE / "cloudai.toml")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--scripted",
        action="store_true",
        help="the answers are made up, as with the fake provider: expect no accuracy",
    )
    options = parser.parse_args()
    started = time.monotonic()
    with cloudai.Client(options.profile, config=options.config) as client:
        scripted = options.scripted or client.profile.provider == "fake"
        print(f"profile {client.profile.name} (provider {client.profile.provider})")
        if scripted:
            print("The answers are scripted: they show that the program runs here, and no more.")
        with contextlib.ExitStack() as cleanup:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="digits-")))
            found = run(client, folder, options.epochs, cleanup)
            assert found["endpoint"] == found["batch"], "the endpoint and the batch differ"
            if not scripted:
                assert found["endpoint"] >= 0.99, "the held-out accuracy is below 99%"
                assert found["closest"] == {0, 2}, "the embeddings miss the two alike sentences"
        print(f"cleaned up; {time.monotonic() - started:.0f} s in all\n")


if __name__ == "__main__":
    main()
