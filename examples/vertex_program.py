"""Train, deploy, predict, transform, chat and fine-tune on Vertex AI, in one program.

``python examples/vertex_program.py`` runs it offline, against the emulator. With ``--profile NAME``
it runs on a profile of your cloudai.toml, and costs money.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import cloudai
from cloudai import BatchTransform, TrainingJob

TRAIN = """
import json, os, pathlib
hyperparameters = json.loads(os.environ["CLOUDAI_HPS"])
print("loss=0.5", flush=True)
model = pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"])
model.mkdir(parents=True, exist_ok=True)
(model / "model.json").write_text(json.dumps(hyperparameters))
(model / "handler.py").write_bytes(pathlib.Path("handler.py").read_bytes())
"""

HANDLER = """
import json

def load(model_dir):
    return json.loads((model_dir / "model.json").read_text())

def predict(model, inputs, params):
    return [value * model["scale"] for value in inputs]
"""


def program(client: cloudai.Client, folder: Path) -> None:
    """All five capabilities; nothing is left at the end."""
    source = folder / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    (source / "handler.py").write_text(HANDLER)
    job = client.training.submit(
        TrainingJob(source=str(source), entry="train.py", hyperparameters={"scale": 3})
    )
    print("training:", job.wait(timeout=3600).state)
    endpoint = client.endpoints.deploy(job.model, name="example")
    print("endpoint:", endpoint.predict([1, 2, 3]))
    lines = folder / "in.jsonl"
    lines.write_text("".join(f"{json.dumps(value)}\n" for value in range(5)))
    batch = client.batch.submit(
        BatchTransform(model=job.model, input=str(lines), output=str(folder / "out.jsonl"))
    )
    batch.wait(timeout=3600)
    print("batch:", (folder / "out.jsonl").read_text().split())
    print("chat:", client.chat.create("Count to three.", model="gemini-3.5-flash").text)
    vectors = client.embeddings.create(["a cat", "a dog"], model="gemini-embedding-001")
    print("embeddings:", vectors.array.shape)
    examples = folder / "examples.jsonl"
    asked = {"role": "user", "content": "Who wrote the first program?"}
    answer = {"role": "assistant", "content": "Ada Lovelace."}
    examples.write_text(json.dumps({"messages": [asked, answer]}) + "\n")
    tuning = client.training.submit(
        TrainingJob(
            kind="finetune",
            base_model="gemini-3.5-flash",
            inputs={"train": str(examples)},
            hyperparameters={"epochs": 3},
        )
    )
    tuning.wait(timeout=4 * 3600)
    print("tuned:", client.chat.create(asked["content"], model=tuning.model.uri).text)
    for resource in (endpoint.id, batch.id, job.id, tuning.id):
        client.destroy(resource)
    print("left:", client.resources())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", help="a profile of cloudai.toml; absent: the emulator")
    profile = parser.parse_args().profile
    with tempfile.TemporaryDirectory() as folder:
        if profile is not None:
            with cloudai.Client(profile) as client:
                program(client, Path(folder))
            return
        from cloudai.testing.emulators.vertex import VertexEmulator

        with (
            VertexEmulator(execute=True) as cloud,
            cloudai.Client(provider="vertex", **cloud.keys()) as client,
        ):
            program(client, Path(folder))


if __name__ == "__main__":
    main()
