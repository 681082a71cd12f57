"""Chat, embed, fine-tune, deploy and transform on Azure OpenAI, in one program.

``python examples/azure_program.py`` runs it offline, against the emulator. With ``--profile NAME``
it runs on a profile of your cloudai.toml, and costs money.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import cloudai
from cloudai import BatchTransform, TrainingJob


def program(client: cloudai.Client, folder: Path) -> None:
    """All five capabilities; nothing is left at the end but the fine-tuned model."""
    print(client.chat.create("Why is the sky blue?", model="smart").text)
    for chunk in client.chat.stream("And the sunset?", model="smart"):
        print(chunk.text, end="")
    print()
    vectors = client.embeddings.create(["a cat", "a dog"], model="embed")
    print("vectors:", vectors.array.shape)

    examples = folder / "train.jsonl"
    examples.write_text(
        "".join(f'{{"prompt": "Is {n} a number?", "completion": "Yes."}}\n' for n in range(10))
    )
    job = client.training.submit(
        TrainingJob(
            kind="finetune",
            base_model="gpt-4.1-nano-2025-04-14",
            inputs={"train": str(examples)},
            hyperparameters={"epochs": 1},
        )
    )
    job.wait(24 * 3600)
    print("tuned:", job.model.uri)
    endpoint = client.endpoints.deploy(job.model, name="tuned")
    print("answer:", endpoint.predict(["Is 7 a number?"])[0]["text"])
    endpoint.delete()
    job.delete()

    lines = folder / "prompts.jsonl"
    lines.write_text("".join(f"{json.dumps(f'Count to {n}.')}\n" for n in range(5)))
    batch = client.batch.submit(
        BatchTransform(chat="smart", input=str(lines), output=str(folder / "answers.jsonl"))
    )
    batch.wait(24 * 3600)
    print("batch:", Path(batch.output).read_text().count("\n"), "lines")
    batch.delete()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", help="of your cloudai.toml; without one: the emulator")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.profile:
            program(cloudai.Client(given.profile), Path(folder))
            return
        from cloudai.testing.emulators.azure import AzureEmulator

        with AzureEmulator(speed=20) as azure:
            azure.deploy("smart", model="gpt-5.1")
            azure.deploy("embed", model="text-embedding-3-small")
            os.environ.update({**azure.env, "CLOUDAI_HOME": folder})
            with cloudai.Client(provider="azure", api_key=azure.key) as client:
                program(client, Path(folder))


if __name__ == "__main__":
    main()
