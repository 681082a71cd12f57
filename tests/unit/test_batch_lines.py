"""Batch lines in OpenAI's dicts, as each service gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cloudai._core.batches import transforms
from cloudai.client._messages import messages
from cloudai.errors import InvalidRequest
from cloudai.providers.aws.batch import wire as aws
from cloudai.providers.aws.chat import converse
from cloudai.providers.azure.openai.wire import batch as azure
from cloudai.providers.azure.openai.wire import chat
from cloudai.providers.vertex.batch import wire as vertex
from cloudai.providers.vertex.chat import wire as gemini
from cloudai.types import BatchTransform, ChatReply, ChatRequest, ToolCall, ToolResult, Usage

TURNS: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "The weather in Rome?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
]
MODELS = {
    "aws": "amazon.nova-lite-v1:0",
    "azure": "gpt-4.1-nano",
    "vertex": "gemini-2.5-flash",
    "client": "m",
}


def spec(provider: str) -> BatchTransform:
    return BatchTransform(input="in.jsonl", output="out.jsonl", chat=MODELS[provider])


def of_aws(record: Any) -> Any:
    return aws.model_input(spec("aws"), record)


def of_azure(record: Any) -> Any:
    request = transforms.chat_request(MODELS["azure"], {})
    return msgspec.json.decode(azure.line(request, record, 0, "/chat/completions", True))["body"]


def of_vertex(record: Any) -> Any:
    made = msgspec.json.decode(vertex.line(spec("vertex"), 0, record, objects=False))["request"]
    made.pop("labels")
    return made


def on_the_clients_side(record: Any) -> Any:
    """Local batches, and those of aws and azure that no service runs."""
    asked: list[ChatRequest] = []

    def create(request: ChatRequest, call: Any) -> ChatReply:
        asked.append(request)
        return ChatReply(text="", finish_reason="stop", usage=Usage(), model="m", provider="p")

    transforms.chat(create, "m", {})([record])
    return asked[0]


@pytest.mark.parametrize(
    ("provider", "sent", "encode"),
    [
        ("aws", of_aws, converse.body),
        ("azure", of_azure, lambda request: chat.body(request, modern=True)),
        ("vertex", of_vertex, gemini.encode),
        ("client", on_the_clients_side, lambda request: request),
    ],
)
def test_t7_a_batch_line_is_the_conversation_that_chat_reads(
    provider: str, sent: Callable[[Any], Any], encode: Callable[[ChatRequest], Any]
) -> None:
    request = ChatRequest(model=MODELS[provider], messages=messages(TURNS))
    assert request.messages[2].content == (ToolCall("call_1", "weather", '{"city":"Rome"}'),)
    assert request.messages[3].content == (ToolResult("call_1", "sunny"),)
    assert sent({"messages": TURNS}) == encode(request)


@pytest.mark.parametrize(
    ("turn", "field"),
    [
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "bot", "content": "x"}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "tool_calls[0]"),
    ],
)
def test_t7_a_batch_line_says_which_field_is_wrong(turn: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        transforms.messages({"messages": [turn]})
    assert caught.value.field == f"line.messages[0].{field}"
