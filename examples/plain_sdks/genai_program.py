"""The plain google-genai SDK: chat, a stream, a structured answer, embeddings; by an API key, and
as Vertex AI, there with a batch. Where it runs is said by the environment alone::

    cloudai emulate vertex --execute -- python examples/plain_sdks/genai_program.py

Nothing here knows of cloudai.
"""

from __future__ import annotations

import json
import os
import time

from google import genai
from google.cloud import storage
from google.genai import types

CHAT, EMBED = "gemini-3.5-flash", "text-embedding-005"
QUESTION = "What is the capital of France?"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
}


def ask(client: genai.Client, name: str) -> None:
    """Chat and embeddings."""
    plain = types.GenerateContentConfig(temperature=0)
    reply = client.models.generate_content(model=CHAT, contents=QUESTION, config=plain)
    print(f"{name} chat:", reply.text)
    stream = client.models.generate_content_stream(model=CHAT, contents=QUESTION, config=plain)
    pieces = [piece.text or "" for piece in stream]
    print(f"{name} stream:", "".join(pieces), f"({sum(map(bool, pieces))} pieces)")
    formed = client.models.generate_content(
        model=CHAT,
        contents="Name a city in Italy.",
        config=types.GenerateContentConfig(
            temperature=0, response_mime_type="application/json", response_json_schema=CITY
        ),
    )
    print(f"{name} structured:", sorted(json.loads(formed.text)))
    vectors = client.models.embed_content(model=EMBED, contents=["a cat", "a kitten"]).embeddings
    print(f"{name} embeddings:", [len(one.values) for one in vectors])


def batch(client: genai.Client) -> None:
    """A batch, from a bucket into a bucket."""
    bucket = storage.Client().create_bucket("plain-genai")
    request = {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}]}
    text = "".join(json.dumps({"request": request}) + "\n" for _ in range(3))
    bucket.blob("in.jsonl").upload_from_string(text)
    job = client.batches.create(
        model=CHAT, src="gs://plain-genai/in.jsonl", config={"dest": "gs://plain-genai/out"}
    )
    while not (job := client.batches.get(name=job.name)).done:
        time.sleep(0.2)
    found = [
        line
        for blob in bucket.list_blobs(prefix="out/")
        if "prediction.results" in blob.name
        for line in blob.download_as_text().splitlines()
    ]
    print("batch:", job.state.name, len(found), "answers")


if __name__ == "__main__":
    with genai.Client() as client:
        ask(client, "Gemini API")
    with genai.Client(
        vertexai=True,
        project=os.environ["GOOGLE_CLOUD_PROJECT"],
        location=os.environ["GOOGLE_CLOUD_LOCATION"],
    ) as client:
        ask(client, "Vertex AI")
        batch(client)
