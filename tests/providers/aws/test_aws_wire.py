"""What is sent, byte for byte, and what is read: golden requests, event streams, limits."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.eventstream import EventStreamBuffer

from cloudai.errors import ConnectionFailed, InvalidRequest, UnsupportedByProvider
from cloudai.formats import botocore_limits as limits
from cloudai.formats import eventstream
from cloudai.providers.aws.chat import converse, converse_reply, openai
from cloudai.providers.aws.embeddings import wire
from cloudai.types import (
    CachePoint,
    ChatRequest,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    Reasoning,
    ResponseSchema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

GOLDEN = Path(__file__).parent / "golden"
CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
OLD = "anthropic.claude-opus-4-1-20250805-v1:0"
TOOL = Tool(name="weather", description="Tells it.", parameters={"type": "object"}, strict=True)
SCHEMA = ResponseSchema(schema={"type": "object", "properties": {"a": {"type": "integer"}}})
HI = (Message("user", "Hi"),)

REQUESTS: dict[str, ChatRequest] = {
    "plain": ChatRequest(
        model=CLAUDE,
        messages=(Message("system", "Be brief."), *HI),
        temperature=0.5,
        top_p=0.9,
        max_tokens=50,
        stop=("END",),
    ),
    "parts": ChatRequest(
        model=CLAUDE,
        messages=(
            Message(
                "user",
                (
                    Text("Look"),
                    Image(data=b"\x89PNG", media_type="image/png"),
                    Image(url="s3://bucket/a.jpg", media_type="image/jpeg"),
                    Document(data=b"%PDF", name="My  report_1.pdf"),
                    CachePoint(),
                ),
            ),
        ),
    ),
    "tools": ChatRequest(
        model=CLAUDE,
        messages=(
            Message("user", "Weather?"),
            Message(
                "assistant",
                (
                    Reasoning("I think", "c2ln"),
                    Reasoning(redacted="eA=="),
                    ToolCall("t1", "weather", '{"city":"Rome"}'),
                    ToolCall("t2", "weather", '{"city":"Oslo"}'),
                ),
            ),
            Message("tool", (ToolResult("t1", {"sky": "clear"}),)),
            Message("tool", (ToolResult("t2", "no such city", error=True),)),
            Message("user", "Well?"),
        ),
        tools=(TOOL,),
        tool_choice="required",
    ),
    "schema": ChatRequest(model=CLAUDE, messages=HI, response_schema=SCHEMA),
    "schema_by_tool": ChatRequest(model=OLD, messages=HI, response_schema=SCHEMA),
    "reasoning": ChatRequest(
        model=CLAUDE, messages=HI, reasoning="low", max_tokens=4000,
        native={"guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1"},
                "additionalModelRequestFields": {"top_k": 5}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_golden_converse(name: str) -> None:
    request = REQUESTS[name]
    body = converse.encode(converse.body(request))
    golden = json.loads((GOLDEN / f"converse_{name}.json").read_text())
    assert json.loads(body) == golden
    shape = botocore.session.Session().get_service_model("bedrock-runtime")
    given = {**golden, "modelId": request.model}
    assert not list(limits.check(shape.operation_model("Converse").input_shape, given))


def test_golden_openai_format() -> None:
    asked = ChatRequest(
        model="sagemaker:x", messages=REQUESTS["tools"].messages, tools=(TOOL,),
        tool_choice="weather", seed=7, max_tokens=5, response_schema=SCHEMA,
    )  # fmt: skip
    golden = json.loads((GOLDEN / "openai_chat.json").read_text())
    assert json.loads(converse.encode(openai.chat_body(asked, "x", stream=True))) == golden


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"temperature": 1.5}, "temperature"),
        ({"tools": (Tool(name="bad name"),)}, "tools[0].name"),
        ({"reasoning": "high", "max_tokens": 100}, "max_tokens"),
        ({"model": "meta.llama3-3-70b-instruct-v1:0", "reasoning": "low"}, "reasoning"),
        ({"messages": (Message("user", (Image(url="https://x/a.png"),)),)}, "messages[0]"),
        (
            {"messages": (Message("user", (Image(data=b"x", media_type="image/bmp"),)),)},
            "media_type",
        ),
        ({"top_p": 0.0}, "top_p"),
        ({"reasoning": "low", "tools": (TOOL,), "tool_choice": "weather"}, "tool_choice"),
    ],
)
def test_what_is_refused_before_it_is_sent(about: dict[str, Any], field: str) -> None:
    given = {"model": CLAUDE, "messages": HI, **about}
    with pytest.raises(InvalidRequest) as caught:
        converse.body(ChatRequest(**given))
    assert field in str(caught.value)


def test_tools_that_are_off_after_calls_are_told_as_text() -> None:
    asked = ChatRequest(
        model=CLAUDE, messages=REQUESTS["tools"].messages, tools=(TOOL,), tool_choice="none"
    )
    body = converse.body(asked)
    assert "toolConfig" not in body
    assert "toolUse" not in json.dumps(body)
    assert "toolResult" not in json.dumps(body)
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert 'weather with {\\"city\\":\\"Oslo' in json.dumps(body)
    assert "failed and answered: no such city" in json.dumps(body)


def _reply(content: list[Any], **more: Any) -> bytes:
    body = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15},
        **more,
    }
    return json.dumps(body).encode()


def test_a_reply_with_everything() -> None:
    body = _reply(
        [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "c2ln"}}},
            {"reasoningContent": {"redactedContent": "eA=="}},
            {"text": "Hello"},
            {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Rome"}}},
        ],
        stopReason="tool_use",
        usage={"inputTokens": 3, "outputTokens": 5, "cacheReadInputTokens": 100,
               "cacheWriteInputTokens": 20},
    )  # fmt: skip
    reply = converse_reply.reply(body, CLAUDE, "r1", None)
    assert (reply.text, reply.finish_reason) == ("Hello", "tool_calls")
    assert reply.tool_calls[0].input == {"city": "Rome"}
    assert [one.signature for one in reply.reasoning] == ["c2ln", None]
    assert reply.reasoning[1].redacted == "eA=="
    usage = reply.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (
        123, 100, 20,
    )  # fmt: skip
    assert reply.raw["stopReason"] == "tool_use"


def test_a_schema_that_came_by_tool_is_text() -> None:
    body = _reply(
        [{"toolUse": {"toolUseId": "t", "name": "answer", "input": {"a": 1}}}],
        stopReason="tool_use",
    )
    reply = converse_reply.reply(body, OLD, None, "answer")
    assert (json.loads(reply.text), reply.finish_reason, reply.tool_calls) == ({"a": 1}, "stop", ())


@pytest.mark.parametrize("reason", sorted(converse_reply.FINISH))
def test_every_stop_reason_of_the_model_is_known(reason: str) -> None:
    model = botocore.session.Session().get_service_model("bedrock-runtime")
    assert set(model.shape_for("StopReason").enum) <= set(converse_reply.FINISH)
    assert converse_reply.reply(_reply([], stopReason=reason), CLAUDE, None, None).finish_reason


def test_event_streams_are_read_as_botocore_reads_them() -> None:
    written = b"".join(
        eventstream.event(f"kind{index}", b'{"n": %d}' % index) for index in range(50)
    )
    buffer = EventStreamBuffer()
    buffer.add_data(written)
    theirs = [(one.headers[":event-type"], one.payload) for one in buffer]
    for size in (1, 7, 64, len(written)):
        pieces = (written[at : at + size] for at in range(0, len(written), size))
        ours = [(h[b":event-type"].decode(), data) for h, data in eventstream.messages(pieces)]
        assert ours == theirs


def test_an_event_stream_that_breaks_off_ends_and_a_damaged_one_fails() -> None:
    written = eventstream.event("a", b"{}") * 2
    assert len(list(eventstream.messages([written[:-3]]))) == 1
    for place in (2, len(written) // 2 - 6):
        damaged = bytearray(written)
        damaged[place] ^= 0xFF
        with pytest.raises(ConnectionFailed, match="damaged"):
            list(eventstream.messages([bytes(damaged)]))


def test_headers_of_other_kinds_are_passed_over() -> None:
    import struct
    import zlib

    def header(name: bytes, kind: int, value: bytes) -> bytes:
        return bytes([len(name)]) + name + bytes([kind]) + value

    headers = (
        header(b"t", 0, b"") + header(b"i", 4, b"\0\0\0\1") + header(b"w", 8, b"\0" * 8)
        + header(b"b", 6, b"\0\3abc") + header(b":event-type", 7, b"\0\1x")
    )  # fmt: skip
    prelude = struct.pack("!II", 16 + len(headers) + 2, len(headers))
    whole = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + b"{}"
    whole += struct.pack("!I", zlib.crc32(whole))
    ((found, payload),) = eventstream.messages([whole])
    assert (found, payload) == ({b":event-type": b"x"}, b"{}")


@pytest.mark.parametrize(
    ("model", "about"),
    [
        ("amazon.titan-embed-text-v2:0", {"dimensions": 300}),
        ("amazon.titan-embed-text-v1", {"dimensions": 256}),
        ("amazon.titan-embed-text-v2:0", {"truncate": True}),
        ("anthropic.claude-opus-4-1-20250805-v1:0", {}),
    ],
)
def test_embeddings_that_a_model_cannot_make(model: str, about: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        wire.check(EmbeddingRequest(model=model, texts=("a",), **about))


def test_limits_of_a_service_model() -> None:
    model = botocore.session.Session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    body = {
        "TrainingJobName": "-" * 64,
        "RoleArn": "x",
        "OutputDataConfig": {},
        "HyperParameters": {str(n): "1" for n in range(101)},
        "ResourceConfig": {"InstanceType": "ml.nope", "InstanceCount": "1"},
        "Unknown": 1,
    }
    problems = {problem.path: problem.text for problem in limits.check(shape, body)}
    assert set(problems) == {
        "TrainingJobName", "RoleArn", "OutputDataConfig.S3OutputPath", "HyperParameters",
        "ResourceConfig.InstanceType", "ResourceConfig.InstanceCount", "Unknown",
    }  # fmt: skip
    assert "101" in problems["HyperParameters"]


def test_base64_stays_as_it_is() -> None:
    block = converse.body(REQUESTS["parts"])["messages"][0]["content"][1]
    assert base64.b64decode(block["image"]["source"]["bytes"]) == b"\x89PNG"


def test_unsupported_names_the_alternative() -> None:
    with pytest.raises(UnsupportedByProvider) as caught:
        converse.body(ChatRequest(model=CLAUDE, messages=HI, seed=3))
    assert "native" in caught.value.alternative
