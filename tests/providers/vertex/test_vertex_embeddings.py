"""Embeddings over real sockets, against the emulator."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import replace
from vertextools import golden, sent

from cloudai import AsyncClient, Client
from cloudai.errors import ContextOverflow, InvalidRequest, NotFound, ProviderError
from cloudai.providers.vertex.embeddings import wire
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import EmbeddingRequest, EmbeddingTask

MODELS = ("text-embedding-005", "gemini-embedding-001", "gemini-embedding-2")


@pytest.mark.parametrize("model", MODELS)
def test_golden(model: str) -> None:
    request = EmbeddingRequest(
        model=model, texts=("a cat", "a dog"), dimensions=256, task="query", truncate=True
    )
    requests = [wire.encode(replace(request, texts=group)) for group in wire.groups(request)]
    golden(f"embeddings_{model}", [list(one) for one in requests])


@pytest.mark.parametrize("model", MODELS)
def test_one_vector_a_text_in_order(client: Client, cloud: VertexEmulator, model: str) -> None:
    texts = ["a cat sleeps", "a cat naps", "interest rates rose"]
    reply = client.embeddings.create(texts, model=model, dimensions=64)
    assert reply.array.shape == (3, 64)
    alone = [
        client.embeddings.create(text, model=model, dimensions=64).vectors[0] for text in texts
    ]
    for row, single in zip(reply.vectors, alone, strict=True):
        assert math.dist(row, single) < 1e-6
    assert reply.usage.input_tokens == 9
    near = math.dist(reply.vectors[0], reply.vectors[1])
    assert near < math.dist(reply.vectors[0], reply.vectors[2])


def test_gemini_embedding_2_gets_one_text_a_call(client: Client, cloud: VertexEmulator) -> None:
    client.embeddings.create([f"text {n}" for n in range(20)], model="gemini-embedding-2")
    bodies = sent(cloud, ":embedContent")
    assert len(bodies) == 20
    assert all(len(body["content"]["parts"]) == 1 for body in bodies)


def test_long_lists_are_split(client: Client, cloud: VertexEmulator) -> None:
    texts = [f"text {n}" for n in range(600)]
    reply = client.embeddings.create(texts, model="text-embedding-005", dimensions=8)
    assert len(reply) == 600
    sizes = [len(body["instances"]) for body in sent(cloud, ":predict")]
    assert sorted(sizes) == [100, 250, 250]
    big = EmbeddingRequest(model="text-embedding-005", texts=("x" * 40_000, "y" * 40_000))
    assert [len(group) for group in wire.groups(big)] == [1, 1]


def test_tasks_and_truncation(client: Client, cloud: VertexEmulator) -> None:
    client.embeddings.create("a", model="text-embedding-005", task="document")
    assert sent(cloud, ":predict")[0]["instances"][0]["task_type"] == "RETRIEVAL_DOCUMENT"
    long = "word " * 3000
    with pytest.raises(ContextOverflow):
        client.embeddings.create(long, model="text-embedding-005")
    reply = client.embeddings.create(long, model="text-embedding-005", truncate=True)
    assert reply.usage.input_tokens == 2048


def test_bad_requests(client: Client, cloud: VertexEmulator) -> None:
    with pytest.raises(InvalidRequest, match="dimensions"):
        client.embeddings.create("a", model="text-embedding-005", dimensions=1000)
    assert cloud.requests == []
    with pytest.raises(NotFound):
        client.embeddings.create("a", model="text-embedding-999")


@pytest.mark.parametrize(
    "body",
    [
        b'{"predictions": []}',
        b'{"predictions": [{"embeddings": {"values": [1.0]}}, {"embeddings": {"values": [1, 2]}}]}',
        b"<html>",
    ],
)
def test_answers_that_make_no_sense(body: bytes) -> None:
    with pytest.raises(ProviderError):
        wire.decode("predict", body, 2)


@pytest.mark.parametrize("model", MODELS)
async def test_async(aclient: AsyncClient, client: Client, model: str) -> None:
    texts = ["one", "two", "three"]
    theirs = await aclient.embeddings.create(texts, model=model, dimensions=16)
    assert theirs.data == client.embeddings.create(texts, model=model, dimensions=16).data
    with pytest.raises(NotFound):
        await aclient.embeddings.create(texts, model="no-embedding")


def test_same_request_as_google_genai(cloud: VertexEmulator, client: Client) -> None:
    genai: Any = pytest.importorskip("google.genai")
    from google.oauth2.credentials import Credentials

    theirs = genai.Client(
        vertexai=True,
        project=cloud.project,
        location=cloud.location,
        credentials=Credentials(cloud.identity.issue()["access_token"]),
        http_options=genai.types.HttpOptions(base_url=cloud.url, api_version="v1"),
    )
    for model, method in (
        ("text-embedding-005", ":predict"),
        ("gemini-embedding-2", ":embedContent"),
    ):
        before = len(cloud.requests)
        theirs.models.embed_content(
            model=model,
            contents="a cat",
            config=genai.types.EmbedContentConfig(
                task_type="RETRIEVAL_QUERY", output_dimensionality=64, auto_truncate=False
            ),
        )
        client.embeddings.create("a cat", model=model, dimensions=64, task="query")
        first, second = [one for one in cloud.requests[before:] if one.path.endswith(method)]
        assert first.path == second.path
        told = first.json
        told.get("content", {}).pop("role", None)
        if model == "gemini-embedding-2":  # which passes over it: E7
            del told["embedContentConfig"]["taskType"]
            told["content"]["parts"][0]["text"] = "task: search result | query: a cat"
        assert told == second.json
    theirs.close()


def test_e7_a_task_is_written_for_gemini_embedding_2(client: Client, cloud: VertexEmulator) -> None:
    """The forms of "Embeddings", ai.google.dev (read 2026-11-30)."""
    tasks: dict[EmbeddingTask, str] = {
        "query": "task: search result | query: a cat",
        "document": "title: none | text: a cat",
        "similarity": "task: sentence similarity | query: a cat",
        "classification": "task: classification | query: a cat",
        "clustering": "task: clustering | query: a cat",
    }
    model = "gemini-embedding-2"
    plain = client.embeddings.create("a cat", model=model).data
    for task, text in tasks.items():
        del cloud.requests[:]
        told = client.embeddings.create("a cat", model=model, task=task)
        (body,) = sent(cloud, ":embedContent")
        assert body["content"] == {"parts": [{"text": text}]}
        assert "taskType" not in body["embedContentConfig"]
        assert told.data != plain  # not without effect
    del cloud.requests[:]
    client.embeddings.create("a cat", model="gemini-embedding-001", task="query")
    (body,) = sent(cloud, ":predict")
    assert body["instances"] == [{"content": "a cat", "task_type": "RETRIEVAL_QUERY"}]


@pytest.mark.parametrize("kind", ["digits", "uuids", "prose", "Chinese"])
def test_e6_a_request_has_no_more_tokens_than_it_may(
    client: Client, cloud: VertexEmulator, kind: str
) -> None:
    one = {
        "digits": "1234567890" * 60,
        "uuids": "3f2504e0-4f89-41d3-9a0c-0305e82c3301 " * 16,
        "prose": "the quick brown fox jumps over the lazy dog " * 14,
        "Chinese": "\u4eca\u5929\u5929\u6c14\u5f88\u597d" * 33,
    }[kind]
    texts = [f"{one}{n}" for n in range(100)]  # 60,000 bytes
    assert len(client.embeddings.create(texts, model="text-embedding-005", dimensions=8)) == 100
    bodies = sent(cloud, ":predict")
    # No more than Google's limit, and not many more requests than needed.
    assert len(bodies) <= (5 if kind in {"digits", "uuids"} else 2)
    assert sum(len(body["instances"]) for body in bodies) == 100


def test_e6_a_group_that_is_refused_is_halved(
    client: Client, cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_TOKENS", 60_000)  # a guess that is wrong
    texts = [f"{'1234567890' * 60}{n}" for n in range(100)]
    assert len(client.embeddings.create(texts, model="text-embedding-005", dimensions=8)) == 100
    answered = [body for body in sent(cloud, ":predict") if len(body["instances"]) <= 33]
    assert sum(len(body["instances"]) for body in answered) == 100
    del cloud.requests[:]
    with pytest.raises(ContextOverflow, match="2048"):  # one text alone: nothing is halved
        client.embeddings.create(["a", "word " * 3000], model="text-embedding-005")
    assert len(sent(cloud, ":predict")) == 1


async def test_e6_a_group_that_is_refused_is_halved_async(
    aclient: AsyncClient, cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_TOKENS", 60_000)
    texts = ["1234567890" * 60] * 100
    assert len(await aclient.embeddings.create(texts, model="text-embedding-005")) == 100
    answered = [body for body in sent(cloud, ":predict") if len(body["instances"]) <= 33]
    assert sum(len(body["instances"]) for body in answered) == 100
