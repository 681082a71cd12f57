"""Chat and embeddings: what is sent, what comes back, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import (
    AuthenticationError,
    ConfigError,
    ContentFiltered,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    StreamTruncated,
    UnsupportedByProvider,
)
from cloudai.formats import openai
from cloudai.providers.azure.openai.wire import chat as wire
from cloudai.providers.azure.openai.wire import chat_reply
from cloudai.providers.azure.openai.wire import embeddings as embeddings_wire
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.types import (
    ChatRequest,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    ResponseSchema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

GOLDEN = Path(__file__).parent / "golden"

REQUESTS: dict[str, ChatRequest] = {
    "chat_plain": ChatRequest(model="m", messages=(Message("user", "hello"),)),
    "chat_everything": ChatRequest(
        model="m",
        messages=(
            Message("system", "Be brief."),
            Message(
                "user",
                (
                    Text("What is this?"),
                    Image(data=b"\x89PNG", media_type="image/png"),
                    Image(url="https://example.com/a.png"),
                    Document(data=b"%PDF", name="paper"),
                ),
            ),
            Message("assistant", (Text("Let me see."), ToolCall("c1", "look", '{"x":1}'))),
            Message("tool", (ToolResult("c1", {"sky": "clear"}), ToolResult("c2", "no", True))),
            Message("user", "And?", "ada"),
        ),
        temperature=0.5,
        top_p=0.9,
        seed=7,
        max_tokens=100,
        stop=("END",),
        tools=(Tool(name="look", description="Looks.", strict=True),),
        tool_choice="look",
        response_schema=ResponseSchema(
            schema={
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "required": ["a"],
                "additionalProperties": False,
            }
        ),
        reasoning="low",
        native={"user": "u1"},
    ),
    "chat_optional_fields": ChatRequest(
        model="m",
        messages=(Message("user", "hello"),),
        response_schema=ResponseSchema(
            name="my answer",
            schema={"type": "object", "properties": {"a": {"type": "string"}}},
        ),
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_golden(name: str) -> None:
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert json.loads(wire.encode(REQUESTS[name])) == expected


def test_old_versions_get_what_they_know() -> None:
    request = ChatRequest(model="m", messages=(Message("user", "x"),), max_tokens=5)
    body = json.loads(wire.encode(request, modern=False, stream=True))
    assert body["max_tokens"] == 5
    assert "stream_options" not in body


@pytest.mark.parametrize(
    ("about", "error", "field"),
    [
        ({"stop": tuple("abcde")}, InvalidRequest, "stop"),
        ({"tools": (Tool(name="no spaces"),)}, InvalidRequest, "tools.name"),
        (
            {"messages": (Message("user", (Image(url="gs://b/x.png"),)),)},
            UnsupportedByProvider,
            "inline",
        ),
        (
            {"messages": (Message("user", (Document(url="s3://b/x.pdf"),)),)},
            UnsupportedByProvider,
            "inline",
        ),
        ({"messages": (Message("user", (ToolResult("x", "y"),)),)}, InvalidRequest, "messages"),
    ],
)
def test_what_is_refused_here(about: dict[str, Any], error: type[Exception], field: str) -> None:
    request = ChatRequest(**{"model": "m", "messages": (Message("user", "x"),), **about})
    with pytest.raises(error, match=field):
        wire.encode(request)


def test_the_sdk_sends_the_same(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client]
) -> None:
    import openai

    messages: Any = [{"role": "user", "content": "hi"}]
    sdks: list[tuple[Any, dict[str, Any]]] = [
        (openai.OpenAI(base_url=f"{azure.url}/openai/v1/", api_key=azure.key), {}),
        (
            openai.AzureOpenAI(
                azure_endpoint=azure.url, api_version="2024-10-21", api_key=azure.key
            ),
            {"api_version": "2024-10-21"},
        ),
    ]
    for sdk, keys in sdks:
        with sdk:
            sdk.chat.completions.create(model="smart", messages=messages)
            sdk.embeddings.create(model="embed", input=["a"])
        ours = connect(api_key=azure.key, **keys)
        ours.chat.create("hi", model="smart")
        ours.embeddings.create(["a"], model="embed")
        *_, a, b, c, d = azure.requests
        for theirs, mine in ((a, c), (b, d)):
            assert (theirs.method, theirs.path, theirs.query) == (
                mine.method,
                mine.path,
                mine.query,
            )
            assert json.loads(theirs.body) == json.loads(mine.body)
            for header in ("authorization", "api-key", "content-type", "accept"):
                assert theirs.headers.get(header) == mine.headers.get(header)


def test_a_forced_tool_and_a_refusal(azure: AzureEmulator, client: cloudai.Client) -> None:
    tool = Tool(name="look", parameters={"type": "object", "properties": {}})
    for choice in ("look", "required"):
        reply = client.chat.create("x", model="smart", tools=[tool], tool_choice=choice)
        assert reply.finish_reason == "tool_calls"
        stream = client.chat.stream("x", model="smart", tools=[tool], tool_choice=choice)
        list(stream)
        assert stream.reply.finish_reason == "tool_calls"
        assert stream.reply.tool_calls == reply.tool_calls
    azure.executor.replies = [{"content": None, "refusal": "I will not."}]
    refused = client.chat.create("x", model="smart")
    assert (refused.text, refused.finish_reason) == ("I will not.", "content_filter")


def test_usage_cost_and_raw(azure: AzureEmulator, client: cloudai.Client) -> None:
    reply = client.chat.create("a b c", model="smart", reasoning="low")
    usage = reply.usage
    assert usage.reasoning_tokens == 7
    assert usage.cached_input_tokens > 0
    fresh = usage.input_tokens - usage.cached_input_tokens
    expected = (
        1.25 * fresh + 0.125 * usage.cached_input_tokens + 10 * usage.output_tokens
    ) / 1_000_000
    assert reply.cost == pytest.approx(expected)
    assert reply.raw["id"] == reply.id
    assert reply.request_id


def test_a_stream_costs_what_a_whole_answer_does(client: cloudai.Client) -> None:
    stream = client.chat.stream("a b c", model="smart")
    list(stream)
    whole = client.chat.create("a b c", model="smart")
    assert stream.reply.usage == whole.usage
    assert stream.reply.cost == whole.cost is not None


@pytest.mark.parametrize("version", ["preview", "v1", "2024-10-21", "2024-02-01"])
def test_versions_get_what_they_know(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client], version: str
) -> None:
    client = connect(api_key=azure.key, api_version=version)
    assert client.chat.create("a b c", model="smart", max_tokens=2).text == "a b"
    stream = client.chat.stream("a b", model="smart", max_tokens=9)
    assert "".join(chunk.text for chunk in stream) == "a b"
    asked = azure.requests[-1]
    assert asked.query.get("api-version") == (None if version == "v1" else version)
    if version == "2024-02-01":
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        with pytest.raises(InvalidRequest, match="2024-08-01-preview and later"):
            client.chat.create("x", model="smart", response_type=schema)


def test_a_filtered_prompt(client: cloudai.Client) -> None:
    with pytest.raises(ContentFiltered, match="violence") as caught:
        client.chat.create("trigger-content-filter", model="smart")
    assert caught.value.code == "ResponsibleAIPolicyViolation"


def test_too_long_a_prompt(client: cloudai.Client) -> None:
    with pytest.raises(ContextOverflow) as caught:
        client.chat.create("word " * 20_000, model="smart")
    assert caught.value.limit == 16_000
    assert caught.value.tokens is not None
    assert caught.value.tokens > 20_000


def test_unknown_deployment_names_those_that_exist(
    azure: AzureEmulator, client: cloudai.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="embed, smart"):
        client.chat.create("x", model="nope")
    with pytest.raises(NotFound, match="embed, smart"):
        list(client.chat.stream("x", model="nope"))
    with pytest.raises(NotFound, match="embed, smart"):
        client.embeddings.create("x", model="nope")

    async def ask() -> None:
        async with cloudai.AsyncClient(provider="azure", api_key=azure.key) as other:
            await other.chat.create("x", model="nope")

    with pytest.raises(NotFound, match="embed, smart"):
        asyncio.run(ask())
    monkeypatch.delenv("CLOUDAI_ACCOUNT")
    with (
        cloudai.Client(provider="azure", api_key=azure.key, models={"a": "smart"}) as blind,
        pytest.raises(NotFound, match="name: smart.*account"),
    ):
        blind.chat.create("x", model="nope")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"endpoint": "http://acme.openai.azure.com"}, "plain http"),
        ({"endpoint": "https://acme.openai.azure.com/openai/v1"}, "path"),
        ({"endpoint": "https://acme.openai.azure.com?x=1"}, "query"),
        ({"endpoint": "acme.openai.azure.com"}, "not an https address"),
        ({"endpoint": "https://user:pw@acme.openai.azure.com"}, "password"),
        ({"api_version": "latest"}, "YYYY-MM-DD"),
        ({"credential": "magic"}, "managed-identity"),
    ],
)
def test_bad_profiles(
    azure: AzureEmulator,
    connect: Callable[..., cloudai.Client],
    keys: dict[str, Any],
    message: str,
) -> None:
    given = {} if "credential" in keys else {"api_key": azure.key}
    with pytest.raises(ConfigError, match=message) as caught:
        connect(**given, **keys).chat.create("x", model="smart")
    assert "pw@" not in str(caught.value)
    assert not azure.requests


def test_a_version_that_does_not_exist(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client]
) -> None:
    client = connect(api_key=azure.key, api_version="2031-01-01")
    with pytest.raises(NotFound, match="api_version=2031-01-01"):
        client.chat.create("x", model="smart")


def test_a_wrong_key(azure: AzureEmulator, connect: Callable[..., cloudai.Client]) -> None:
    with pytest.raises(AuthenticationError, match="api_key") as caught:
        connect(api_key="0123456789abcdef0123456789abcdef").chat.create("x", model="smart")
    assert "0123456789abcdef" not in str(caught.value)
    with pytest.raises(AuthenticationError, match="line end"):
        connect(api_key=f"{azure.key}\n").chat.create("x", model="smart")


def test_a_cut_stream_is_told(azure: AzureEmulator, client: cloudai.Client) -> None:
    azure.executor.replies = ["one two three four five"] * 4
    whole = client.chat.stream("x", model="smart")
    list(whole)
    assert whole.reply.usage.output_tokens == 5
    assert whole.reply.finish_reason == "stop"
    azure.faults.add("cut", "chat/completions", after=1500)
    cut = client.chat.stream("x", model="smart")
    with pytest.raises(StreamTruncated) as caught:
        list(cut)
    assert "one two three four five".startswith(caught.value.text)

    async def ask() -> str:
        azure.faults.add("cut", "chat/completions", after=1500)
        async with cloudai.AsyncClient(provider="azure", api_key=azure.key) as other:
            stream = other.chat.stream("x", model="smart")
            with pytest.raises(StreamTruncated) as caught:
                async for _ in stream:
                    pass
            return caught.value.text

    assert "one two three four five".startswith(asyncio.run(ask()))


def test_a_stream_without_done_is_not_whole() -> None:
    chunks = openai.Chunks(chat_reply.service({}, "m"))
    event = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    chunk = chunks.read(json.dumps(event).encode())
    assert chunk is not None
    assert chunk.finish_reason is None
    end = chunks.read(b"[DONE]")
    assert end is not None
    assert end.finish_reason == "stop"


def test_an_error_inside_a_stream() -> None:
    from cloudai.errors import RateLimited

    with pytest.raises(RateLimited):
        openai.Chunks(chat_reply.service({}, "m")).read(
            b'{"error": {"code": "rate_limit_exceeded", "message": "slow"}}'
        )


def test_garbage_is_no_json_error(azure: AzureEmulator) -> None:
    from cloudai.errors import ProviderError

    for body in (b"<html>", b"{}", b'{"choices": []}', b"\xff"):
        with pytest.raises(ProviderError, match="no chat completion"):
            chat_reply.decode(body, {}, "m")
        with pytest.raises(ProviderError, match="no embeddings"):
            embeddings_wire.decode(body, {}, 1)


def test_many_event_loops(azure: AzureEmulator) -> None:
    client = cloudai.AsyncClient(provider="azure", api_key=azure.key)

    async def ask() -> str:
        return (await client.chat.create("hi", model="smart")).text

    counts: list[int] = []
    for _ in range(150):
        assert asyncio.run(ask()) == "hi"
        counts.append(len(os.listdir("/proc/self/fd")))
    assert max(counts[10:]) <= counts[10] + 4, counts
    asyncio.run(client.close())


def test_embeddings_are_split_and_keep_their_order(
    azure: AzureEmulator, client: cloudai.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings_wire, "MAX_TEXTS", 7)
    texts = [f"text {n}" for n in range(20)]
    reply = client.embeddings.create(texts, model="embed", dimensions=8)
    assert reply.array.shape == (20, 8)
    assert len([r for r in azure.requests if r.path.endswith("/embeddings")]) == 3
    for index in (0, 6, 7, 19):
        alone = client.embeddings.create(texts[index], model="embed", dimensions=8)
        assert (reply.array[index] == alone.array[0]).all()
    assert reply.usage.input_tokens == 40
    assert reply.cost is not None


def test_too_many_tokens_are_halved(azure: AzureEmulator, client: cloudai.Client) -> None:
    # Few bytes, many tokens: the service says so, and the texts go in two halves.
    texts = ["a " * 7000 for _ in range(50)]
    reply = client.embeddings.create(texts, model="embed")
    assert len(reply) == 50


def test_embedding_limits() -> None:
    parts = list(embeddings_wire.split(tuple("x" * 300_000 for _ in range(7))))
    assert [len(part) for part in parts] == [3, 3, 1]
    request = EmbeddingRequest(model="m", texts=("a",), truncate=True)
    with pytest.raises(UnsupportedByProvider, match="vertex"):
        embeddings_wire.encode(request)
    listed = b'{"data": [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]}'
    assert embeddings_wire.decode(listed, {}, 2).data == b"\0\0\0@\0\0\x80?"
