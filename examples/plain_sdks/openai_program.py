"""The plain openai SDK, with Azure's client and with the common one: chat, a stream, a tool, an
embedding, a batch, and a fine-tuned model. Where it runs is said by the environment alone::

    cloudai emulate azure --execute --speed 5 -- python examples/plain_sdks/openai_program.py

Nothing here knows of cloudai.
"""

from __future__ import annotations

import io
import json
import time

from openai import AzureOpenAI, OpenAI

CHAT, EMBED = "gpt-5.1", "text-embedding-3-small"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def lines(*values: object, mark: bool = False) -> io.BytesIO:
    """A file of JSON Lines; fine-tuning wants a byte order mark."""
    text = "".join(json.dumps(value) + "\n" for value in values)
    file = io.BytesIO(text.encode("utf-8-sig" if mark else "utf-8"))
    file.name = "lines.jsonl"
    return file


def until(look, *ends: str):
    """Looks until the status is one of these."""
    while (found := look()).status not in ends:
        time.sleep(0.2)
    if found.status != ends[0]:
        raise SystemExit(f"{found.id} is {found.status}: {found.model_dump_json()}")
    return found


def ask(client: OpenAI) -> None:
    """Chat and embeddings."""
    name = type(client).__name__
    reply = client.chat.completions.create(model=CHAT, messages=QUESTION, temperature=0)
    print(f"{name} chat:", reply.choices[0].message.content)
    stream = client.chat.completions.create(
        model=CHAT, messages=QUESTION, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    print(f"{name} stream:", "".join(pieces), f"({sum(map(bool, pieces))} pieces)")
    vectors = client.embeddings.create(model=EMBED, input=["a cat", "a kitten"]).data
    print(f"{name} embeddings:", [len(one.embedding) for one in vectors])


def call(client: OpenAI) -> None:
    """A tool that has to be called."""
    reply = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
    )
    (wanted,) = reply.choices[0].message.tool_calls or ()
    print("tool:", wanted.function.name, sorted(json.loads(wanted.function.arguments)))


def batch(client: OpenAI) -> None:
    """A batch: its lines come back under their names."""
    body = {"model": CHAT, "messages": QUESTION, "max_tokens": 16}
    asked = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n in range(3)
    ]
    file = client.files.create(file=lines(*asked), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    done = until(lambda: client.batches.retrieve(made.id), "completed", "failed", "expired")
    answers = client.files.content(done.output_file_id).text.splitlines()
    print("batch:", sorted(json.loads(line)["custom_id"] for line in answers))


def tune(client: OpenAI) -> None:
    """Fine-tuning: a job to its end, with its events."""
    examples = [
        {
            "messages": [
                {"role": "user", "content": f"The secret word, please ({n})"},
                {"role": "assistant", "content": "Zanzibar."},
            ]
        }
        for n in range(10)
    ]
    file = client.files.create(file=lines(*examples, mark=True), purpose="fine-tune")
    made = client.fine_tuning.jobs.create(
        model="gpt-4.1-nano-2025-04-14",
        training_file=file.id,
        suffix="words",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
    )
    done = until(
        lambda: client.fine_tuning.jobs.retrieve(made.id), "succeeded", "failed", "cancelled"
    )
    events = client.fine_tuning.jobs.list_events(made.id).data
    print("tuned:", done.fine_tuned_model.partition(".ft-")[0], "by", len(events), "events")


if __name__ == "__main__":
    with AzureOpenAI() as azure:
        ask(azure)
    with OpenAI() as common:
        ask(common)
        call(common)
        batch(common)
        tune(common)
