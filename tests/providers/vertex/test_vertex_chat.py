"""Chat over real sockets, against the emulator; golden requests; google-genai as the measure."""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass
from typing import Any

import pytest
from vertextools import golden, sent

from cloudai import AsyncClient, Client
from cloudai.errors import (
    ConnectionFailed,
    ContentFiltered,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    RateLimited,
    StreamTruncated,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.vertex.chat import wire
from cloudai.providers.vertex.chat.adapter import count_tokens
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import (
    ChatRequest,
    Document,
    Image,
    Message,
    Reasoning,
    ResponseSchema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

FLASH = "gemini-3.5-flash"
COUNT = (
    "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, "
    "fourteen, fifteen, sixteen, seventeen, eighteen, nineteen, twenty"
)
"""What the emulated models say again, in twenty pieces."""
WEATHER = Tool(
    name="weather",
    description="The weather in a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
)


REQUESTS: dict[str, ChatRequest] = {
    "chat_plain": ChatRequest(model=FLASH, messages=(Message("user", "Why is the sky blue?"),)),
    "chat_everything": ChatRequest(
        model=FLASH,
        messages=(
            Message("system", "Be brief."),
            Message(
                "user",
                (
                    Text("What is this?"),
                    Image(data=b"\x89PNG", media_type="image/png"),
                    Image(url="gs://b/cat.jpg", media_type="image/jpeg"),
                    Document(data=b"%PDF", name="paper"),
                ),
            ),
        ),
        temperature=0.5,
        top_p=0.9,
        seed=7,
        max_tokens=100,
        stop=("END",),
        reasoning="medium",
        response_schema=ResponseSchema(
            schema={"type": "object", "properties": {"a": {"type": "integer"}}}
        ),
        native={"generationConfig": {"topK": 40}, "labels": {"team": "x"}},
    ),
    "chat_tools": ChatRequest(
        model="gemini-3-pro-preview",
        messages=(
            Message("user", "Weather in Paris and Rome?"),
            Message(
                "assistant",
                (
                    Reasoning("Two calls.", "c2ln"),
                    Text("Let me see."),
                    ToolCall("1", "weather", '{"city": "Paris"}', "c2lnMQ=="),
                    ToolCall("2", "weather", '{"city": "Rome"}'),
                ),
            ),
            Message("tool", (ToolResult("1", "sunny"),)),
            Message("tool", (ToolResult("2", {"sky": "grey"}, error=True),)),
        ),
        tools=(WEATHER,),
        tool_choice="weather",
        reasoning="high",
    ),
    "chat_foreign_turn": ChatRequest(
        model="gemini-3-pro-preview",
        messages=(
            Message("user", "The weather?"),
            Message("assistant", (ToolCall("x", "weather", "{}"),)),
            Message("tool", (ToolResult("x", ["rain"]),)),
        ),
        tools=(WEATHER,),
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_golden(name: str) -> None:
    golden(name, wire.encode(REQUESTS[name]))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_service_takes_what_is_sent(name: str, client: Client, cloud: VertexEmulator) -> None:
    adapter = client._runtime.binding("chat").adapter
    cloud.gemini.signatures |= {"c2ln", "c2lnMQ=="}
    reply = adapter.create(REQUESTS[name], Call())
    assert reply.finish_reason in {"stop", "tool_calls"}
    assert sent(cloud, ":generateContent") == [wire.encode(REQUESTS[name])]


def test_same_request_as_google_genai(cloud: VertexEmulator, client: Client) -> None:
    """google-genai itself, asked the same, sends the same."""
    genai = pytest.importorskip("google.genai")
    from google.oauth2.credentials import Credentials

    token = cloud.identity.issue()["access_token"]
    theirs = genai.Client(
        vertexai=True,
        project=cloud.project,
        location=cloud.location,
        credentials=Credentials(token),
        http_options=genai.types.HttpOptions(base_url=cloud.url, api_version="v1"),
    )
    answer = theirs.models.generate_content(
        model=FLASH,
        contents=[genai.types.Content(role="user", parts=[genai.types.Part(text="Hello")])],
        config=genai.types.GenerateContentConfig(
            system_instruction=[genai.types.Part(text="Be brief.")],
            temperature=0.5,
            top_p=0.9,
            seed=7,
            max_output_tokens=100,
            stop_sequences=["END"],
            tools=[
                genai.types.Tool(
                    function_declarations=[
                        genai.types.FunctionDeclaration(
                            name="weather",
                            description="The weather in a city.",
                            parameters_json_schema=WEATHER.parameters,
                        )
                    ]
                )
            ],
            tool_config=genai.types.ToolConfig(
                function_calling_config=genai.types.FunctionCallingConfig(
                    mode="ANY", allowed_function_names=["weather"]
                )
            ),
            thinking_config=genai.types.ThinkingConfig(include_thoughts=True, thinking_level="LOW"),
        ),
    )
    assert answer.function_calls[0].name == "weather"
    client.chat.create(
        "Hello",
        system="Be brief.",
        model=FLASH,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        max_tokens=100,
        stop="END",
        tools=[WEATHER],
        tool_choice="weather",
        reasoning="low",
    )
    first, second = [one for one in cloud.requests if one.path.endswith(":generateContent")]
    assert first.path == second.path
    theirs_sent, ours_sent = _as_proto(first.json), _as_proto(second.json)
    theirs_sent["systemInstruction"].pop("role", None)
    assert theirs_sent == ours_sent
    theirs.close()


def _as_proto(body: dict[str, Any]) -> dict[str, Any]:
    """google-genai writes some names with underscores, which the service takes for the same."""
    from google.cloud.aiplatform_v1 import GenerateContentRequest
    from google.protobuf import json_format

    message = json_format.ParseDict(body, GenerateContentRequest.pb()())
    return json_format.MessageToDict(message)


def test_reply(client: Client) -> None:
    reply = client.chat.create(COUNT, model=FLASH)
    assert reply.text.startswith("one, two, three,")
    assert reply.finish_reason == "stop"
    assert reply.usage.output_tokens == 20
    assert reply.provider == "vertex"
    assert reply.cost == pytest.approx((reply.usage.input_tokens * 1.5 + 20 * 9) / 1e6)
    assert reply.raw["modelVersion"] == FLASH
    assert reply.request_id


def test_thoughts_and_signatures_come_back(client: Client, cloud: VertexEmulator) -> None:
    asked = client.chat.create("The weather?", model="gemini-3-pro-preview", tools=[WEATHER])
    assert asked.finish_reason == "tool_calls"
    (call,) = asked.tool_calls
    assert call.signature == "c2lnbmVk"
    assert call.input == {"city": "city"}
    told = client.chat.create(
        [
            Message("user", "The weather?"),
            asked.message,
            Message("tool", (ToolResult(call.id, "sunny"),)),
        ],
        model="gemini-3-pro-preview",
        tools=[WEATHER],
    )
    assert told.text == '{"result":"sunny"}'
    part = sent(cloud, ":generateContent")[-1]["contents"][1]["parts"][0]
    assert part["thoughtSignature"] == "c2lnbmVk"


def test_signature_of_a_text_is_kept(client: Client, cloud: VertexEmulator) -> None:
    cloud.gemini.script(
        {
            "candidates": [
                {
                    "content": {
                        "parts": [
                            {"text": "Hm.", "thought": True},
                            {"text": "Yes.", "thoughtSignature": "YWJj"},
                        ]
                    },
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {
                "promptTokenCount": 3,
                "candidatesTokenCount": 1,
                "thoughtsTokenCount": 5,
                "cachedContentTokenCount": 2,
            },
        }
    )
    reply = client.chat.create("Sure?", model=FLASH)
    assert reply.reasoning == (Reasoning("Hm.", "YWJj", None, "vertex", "gemini"),)
    assert reply.usage.output_tokens == 6
    assert reply.usage.reasoning_tokens == 5
    assert reply.usage.cached_input_tokens == 2
    client.chat.create(
        [Message("user", "Sure?"), reply.message, Message("user", "Why?")], model=FLASH
    )
    parts = sent(cloud, ":generateContent")[-1]["contents"][1]["parts"]
    assert parts == [
        {"text": "Hm.", "thought": True},
        {"text": "Yes.", "thoughtSignature": "YWJj"},
    ]


def test_stream(client: Client) -> None:
    stream = client.chat.stream(COUNT, model=FLASH, reasoning="low")
    chunks = list(stream)
    assert sum(bool(chunk.text) for chunk in chunks) == 20
    assert stream.reply.text == client.chat.create(COUNT, model=FLASH).text
    assert stream.reply.reasoning[0].text == "Thinking it over."
    assert stream.reply.usage.reasoning_tokens == 3


def test_stream_of_parallel_calls(client: Client, cloud: VertexEmulator) -> None:
    piece = {"content": {"parts": [{"functionCall": {"name": "weather", "args": {"city": "A"}}}]}}
    second = {
        "content": {
            "parts": [
                {
                    "functionCall": {"name": "weather", "args": {"city": "B"}},
                    "thoughtSignature": "cw==",
                }
            ]
        },
        "finishReason": "STOP",
    }
    cloud.gemini.script({"stream": [{"candidates": [piece]}, {"candidates": [second]}]})
    stream = client.chat.stream("Weather?", model=FLASH, tools=[WEATHER])
    list(stream)
    assert stream.reply.finish_reason == "tool_calls"
    assert [call.input["city"] for call in stream.reply.tool_calls] == ["A", "B"]
    assert len({call.id for call in stream.reply.tool_calls}) == 2
    assert stream.reply.tool_calls[1].signature == "cw=="


@dataclass
class Person:
    name: str
    age: int


def test_structured_output(client: Client) -> None:
    reply = client.chat.create("Ada, 36", model=FLASH, response_type=Person)
    assert isinstance(reply.parsed, Person)


def test_blocked_prompt(client: Client, cloud: VertexEmulator) -> None:
    blocked = {
        "promptFeedback": {
            "blockReason": "SAFETY",
            "safetyRatings": [
                {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True}
            ],
        }
    }
    cloud.gemini.script(blocked, {"stream": [blocked]})
    with pytest.raises(ContentFiltered, match="HARASSMENT"):
        client.chat.create("…", model=FLASH)
    with pytest.raises(ContentFiltered):
        list(client.chat.stream("…", model=FLASH))


@pytest.mark.parametrize(
    ("native", "neutral"),
    [
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("A_REASON_OF_NEXT_YEAR", "error"),
    ],
)
def test_finish_reasons(client: Client, cloud: VertexEmulator, native: str, neutral: str) -> None:
    cloud.gemini.script(
        {"candidates": [{"content": {"parts": [{"text": "so f"}]}, "finishReason": native}]}
    )
    reply = client.chat.create("…", model=FLASH)
    assert (reply.finish_reason, reply.text) == (neutral, "so f")


def test_every_finish_reason_of_the_proto_is_known() -> None:
    from google.cloud import aiplatform_v1, aiplatform_v1beta1

    for module in (aiplatform_v1, aiplatform_v1beta1):
        names = {reason.name for reason in module.Candidate.FinishReason}
        assert names - {"FINISH_REASON_UNSPECIFIED"} <= set(wire.FINISH)


def test_count_tokens(client: Client, cloud: VertexEmulator) -> None:
    # The role counts, as the emulator counts.
    assert count_tokens(client, "one two three", model=FLASH) == 4
    assert count_tokens(client, "one two three", model=FLASH, tools=[WEATHER]) > 4
    assert sent(cloud, ":generateContent") == []
    with pytest.raises(UnsupportedByProvider, match="openai:x"):
        count_tokens(client, "Hi", model="openai:x")
    with Client(provider="fake") as fake, pytest.raises(UnsupportedByProvider):
        count_tokens(fake, "Hi", model="m")


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"stop": list("abcdef")}, "stop"),
        ({"seed": 2**40}, "seed"),
        ({"model": "a?b"}, "model"),
        ({"model": "../x"}, "model"),
        ({"messages": [Message("user", (Image(url="s3://b/x.png"),))]}, "url"),
        ({"messages": [Message("tool", (ToolResult("9", "x"),))]}, "9"),
        ({"messages": [Message("system", "alone")]}, "messages"),
        (
            {"messages": [Message("assistant", (ToolCall("1", "f", "[1]"),))]},
            "arguments",
        ),
    ],
)
def test_bad_requests_are_not_sent(
    client: Client, cloud: VertexEmulator, about: dict[str, Any], word: str
) -> None:
    about = {"messages": "Hi", "model": FLASH, **about}
    with pytest.raises(InvalidRequest, match=word):
        client.chat.create(**about)
    assert cloud.requests == []


@pytest.mark.parametrize(
    ("model", "effort"), [("gemini-3.1-pro", "none"), ("gemini-2.0-flash", "high")]
)
def test_what_a_model_cannot_do(client: Client, model: str, effort: Any) -> None:
    with pytest.raises(UnsupportedByProvider) as caught:
        client.chat.create("Hi", model=model, reasoning=effort)
    assert caught.value.alternative


def test_vendor_errors(client: Client, cloud: VertexEmulator) -> None:
    with pytest.raises(NotFound):
        client.chat.create("Hi", model="gemini-9")
    with pytest.raises(InvalidRequest, match="temprature"):
        client.chat.create("Hi", model=FLASH, native={"temprature": 1})
    with pytest.raises(ContextOverflow) as caught:
        client.chat.create("word " * 1_048_600, model=FLASH)
    assert caught.value.limit == 1_048_576
    assert caught.value.tokens == 1_048_601


def test_retry_after_is_honoured(client: Client, cloud: VertexEmulator) -> None:
    cloud.faults.add("throttle", ":generateContent", retry_after=0.05, times=2)
    assert client.chat.create("Hi", model=FLASH).text
    cloud.faults.add("throttle", ":generateContent", retry_after=30, times=None)
    with pytest.raises(RateLimited) as caught:
        client.chat.create("Hi", model=FLASH, timeout=5)
    assert caught.value.retry_after == 30
    assert caught.value.provider == "vertex"


def test_cut_stream(client: Client, cloud: VertexEmulator) -> None:
    cloud.faults.add("cut", "streamGenerateContent", after=600)
    stream = client.chat.stream(COUNT, model=FLASH)
    with pytest.raises(StreamTruncated) as caught:
        list(stream)
    assert caught.value.text.startswith("one, two")
    cloud.gemini.script({"stream": [{"candidates": [{"content": {"parts": [{"text": "so"}]}}]}]})
    with pytest.raises(StreamTruncated):  # it ends well, without its terminator
        list(client.chat.stream(COUNT, model=FLASH))
    assert client.chat.create("Hi", model=FLASH).text


async def test_async(aclient: AsyncClient, cloud: VertexEmulator) -> None:
    reply = await aclient.chat.create(COUNT, model=FLASH)
    stream = aclient.chat.stream(COUNT, model=FLASH)
    texts = [chunk.text async for chunk in stream]
    assert "".join(texts) == reply.text
    many = await asyncio.gather(*(aclient.chat.create("Hi", model=FLASH) for _ in range(20)))
    assert {one.text for one in many} == {"Hi"}
    with pytest.raises(NotFound):
        await aclient.chat.create("Hi", model="gemini-9")
    cloud.faults.add("cut", "streamGenerateContent", after=600)
    with pytest.raises(StreamTruncated):
        [chunk async for chunk in aclient.chat.stream(COUNT, model=FLASH)]
    cloud.faults.add("reset", ":generateContent", times=None)
    with pytest.raises(ConnectionFailed):
        await aclient.chat.create("Hi", model=FLASH, timeout=5.0)


async def test_stream_left_early(aclient: AsyncClient) -> None:
    stream = aclient.chat.stream(COUNT, model=FLASH)
    async for _ in stream:
        break
    await stream.close()
    assert (await aclient.chat.create("Hi", model=FLASH)).text


def test_many_event_loops(aclient: AsyncClient) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def one() -> str:
        return (await aclient.chat.create("Hi", model=FLASH)).text

    assert asyncio.run(one())
    before = descriptors()
    for _ in range(150):
        assert asyncio.run(one())
    assert descriptors() <= before + 2


def test_inline_bytes_are_base64() -> None:
    body = wire.encode(REQUESTS["chat_everything"])
    data = body["contents"][0]["parts"][1]["inlineData"]["data"]
    assert base64.b64decode(data) == b"\x89PNG"
