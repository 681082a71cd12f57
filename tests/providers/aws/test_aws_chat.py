"""Chat and embeddings through the client: what Bedrock has beyond what is common."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from cloudai import AsyncClient, Client
from cloudai.errors import InvalidRequest, NotFound, UnsupportedByProvider
from cloudai.testing.emulators.aws import AwsEmulator
from cloudai.types import CachePoint, Document, Image, Message, Text, Tool, ToolResult

CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
OLD = "anthropic.claude-opus-4-1-20250805-v1:0"
TOOL = Tool(
    name="weather",
    description="Tells it.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
)


@dataclass
class Person:
    name: str
    age: int


def test_a_guardrail_that_steps_in(aws: AwsEmulator, client: Client) -> None:
    aws.cloud_state.guardrails["g1"] = ("forbidden",)
    about: dict[str, Any] = {
        "model": CLAUDE,
        "native": {"guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1"}},
    }
    assert client.chat.create("Hello", **about).finish_reason == "stop"
    reply = client.chat.create("something FORBIDDEN", **about)
    assert reply.finish_reason == "content_filter"
    assert reply.raw["stopReason"] == "guardrail_intervened"
    stream = client.chat.stream("something forbidden", **about)
    assert "".join(chunk.text for chunk in stream) == reply.text
    assert stream.reply.finish_reason == "content_filter"
    about["native"]["guardrailConfig"]["guardrailIdentifier"] = "none"
    with pytest.raises(NotFound, match="guardrail"):
        client.chat.create("Hello", **about)


def test_a_prompt_that_is_cached(client: Client) -> None:
    """Written once, read afterwards, and paid for as that."""
    system = Message("system", (Text("rule " * 2000), CachePoint()))

    def ask(text: str) -> Any:
        return client.chat.create([system, Message("user", text)], model=CLAUDE)

    first, second = ask("one"), ask("two")
    assert (first.usage.cache_write_tokens, first.usage.cached_input_tokens) == (2000, 0)
    assert (second.usage.cache_write_tokens, second.usage.cached_input_tokens) == (0, 2000)
    assert first.usage.input_tokens == second.usage.input_tokens == 2001
    # 3 dollars a million tokens, 3.75 to write, 0.3 to read, 15 for the answer's one.
    assert first.cost == pytest.approx((3 + 2000 * 3.75 + 15) / 1e6)
    assert second.cost == pytest.approx((3 + 2000 * 0.3 + 15) / 1e6)
    stream = client.chat.stream([system, Message("user", "three")], model=CLAUDE)
    list(stream)
    assert stream.reply.usage.cached_input_tokens == 2000


@pytest.mark.parametrize("model", [CLAUDE, OLD], ids=["by schema", "by tool"])
def test_a_structured_answer(aws: AwsEmulator, client: Client, keys: Any, model: str) -> None:
    assert isinstance(client.chat.create("Ada", model=model, response_type=Person).parsed, Person)
    stream = client.chat.stream("Ada", model=model, response_type=Person)
    list(stream)
    assert isinstance(stream.reply.parsed, Person)

    async def later() -> Any:
        async with AsyncClient(**keys) as other:
            return (await other.chat.create("Ada", model=model, response_type=Person)).parsed

    assert isinstance(asyncio.run(later()), Person)
    bodies = [one.json for one in aws.sent("/converse")]
    assert all(("outputConfig" in body) == (model == CLAUDE) for body in bodies)


def test_images_documents_tools_and_reasoning_in_one_conversation(
    aws: AwsEmulator, client: Client
) -> None:
    given = (Text("Look"), Image(data=b"\x89PNG", media_type="image/png"),
             Document(data=b"%PDF", name="a.pdf"), Document(url="s3://bucket/c.csv", name="c",
             media_type="text/csv"))  # fmt: skip
    about: dict[str, Any] = {"model": CLAUDE, "tools": [TOOL], "max_tokens": 4000}
    talk = [Message("user", given)]
    thought = client.chat.create(talk, reasoning="low", **about)
    assert thought.reasoning[0].signature
    reply = client.chat.create(talk, tool_choice="required", **about)
    assert reply.finish_reason == "tool_calls"
    talk += [
        Message("assistant", (*thought.reasoning, *reply.tool_calls)),
        Message("tool", tuple(ToolResult(c.id, {"sky": "clear"}) for c in reply.tool_calls)),
    ]
    stream = client.chat.stream(talk, reasoning="low", **about)
    list(stream)
    assert stream.reply.text == '{"sky":"clear"}'
    assert stream.reply.reasoning[0].text
    first, second = aws.sent("/converse")[0].json, aws.sent("/converse-stream")[0].json
    assert [next(iter(block)) for block in first["messages"][0]["content"]] == [
        "text", "image", "document", "document",
    ]  # fmt: skip
    assert second["messages"][1]["content"][0]["reasoningContent"]["reasoningText"]["signature"]


def test_what_is_told_of_a_model_that_is_not_there(client: Client) -> None:
    with pytest.raises(NotFound, match="identifier"):
        client.chat.create("Hi", model="nobody.model-v1:0")
    with pytest.raises(UnsupportedByProvider, match="S3"):
        image = Image(url="https://example.com/a.png")
        client.chat.create([Message("user", (image,))], model=CLAUDE)
    with pytest.raises(InvalidRequest, match="eu-west-1"):
        profile = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-lite"
        client.chat.create("Hi", model=profile)
    with pytest.raises(InvalidRequest, match="dimensions"):
        client.embeddings.create("a", model="cohere.embed-v4:0", dimensions=300)


def test_text_that_documents_are_cited_for() -> None:
    from cloudai.providers.aws.chat import converse_reply

    body = (
        b'{"output":{"message":{"role":"assistant","content":[{"text":"It says: "},'
        b'{"citationsContent":{"content":[{"text":"four"}],"citations":[{"title":"a"}]}}]}},'
        b'"stopReason":"end_turn","usage":{"inputTokens":1,"outputTokens":1,"totalTokens":2}}'
    )
    assert converse_reply.reply(body, CLAUDE, None, None).text == "It says: four"


def test_embeddings_over_many_requests(aws: AwsEmulator, client: Client) -> None:
    """Cohere takes 96 texts a request, Titan one; the order is the texts'."""
    texts = [f"text number {n}" for n in range(200)]
    whole = client.embeddings.create(texts, model="cohere.embed-v4:0", dimensions=256)
    assert whole.array.shape == (200, 256)
    assert sorted(len(one.json["texts"]) for one in aws.sent("/invoke")) == [8, 96, 96]
    assert whole.usage.input_tokens == 600
    assert whole.cost == pytest.approx(600 * 0.12 / 1e6)
    titan = client.embeddings.create(texts[:40], model="amazon.titan-embed-text-v2:0")
    alone = client.embeddings.create(texts[31], model="amazon.titan-embed-text-v2:0")
    assert titan.vectors[31] == pytest.approx(alone.vectors[0])


def test_e5_cohere_v3_takes_2048_characters(aws: AwsEmulator, client: Client) -> None:
    model, long = "cohere.embed-english-v3", "word " * 1000
    with pytest.raises(InvalidRequest, match=r"texts\[1\].*2048") as caught:
        client.embeddings.create(["a", long], model=model)
    assert caught.value.field == "texts[1]"
    assert client.embeddings.create(["a", long], model=model, truncate=True).dim == 1024
    (asked,) = [one.json for one in aws.requests if one.path.endswith("/invoke")]
    assert asked["texts"] == ["a", long[:2048]]
    import boto3

    with pytest.raises(Exception, match="expected maxLength: 2048"):
        boto3.client("bedrock-runtime", endpoint_url=aws.url).invoke_model(
            modelId=model, body=json.dumps({"texts": [long], "input_type": "search_query"})
        )
