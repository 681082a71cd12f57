"""A batch's lines as each service gets them, and its output put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudai._core.batches import assemble, transforms
from cloudai.client._messages import messages
from cloudai.errors import HandlerError, InvalidRequest
from cloudai.providers.aws.batch import wire as aws
from cloudai.providers.aws.chat import converse
from cloudai.providers.azure.openai.wire import batch as azure
from cloudai.providers.azure.openai.wire import chat
from cloudai.providers.vertex.batch import wire as vertex
from cloudai.providers.vertex.chat import wire as gemini
from cloudai.types import BatchTransform, ChatReply, ChatRequest, State, ToolCall, ToolResult, Usage

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


def test_i11_an_output_is_put_together_once_and_each_answer_looked_up_once(tmp_path: Path) -> None:
    """By one piece for every service: in the input's order, bad lines alone, the same for whoever
    comes later."""
    given = tmp_path / "in.jsonl"
    given.write_text('"a"\nnot json\n"bad"\n"c"\n')
    spec = BatchTransform(
        input=str(given), output=str(tmp_path / "out.jsonl"), chat="m", on_error="dead_letter"
    )
    asked: list[int] = []

    class Answers(assemble.Lookup):
        def answer(self, index: int, record: Any) -> Any:
            asked.append(index)
            if record == "bad":
                raise HandlerError("no answer")
            return record.upper()

    def answers(folder: Path) -> Any:
        return Answers(assemble.source_of(spec))

    found = assemble.publish(spec, "projects/p/jobs/1", answers)
    assert (found.state, found.lines, found.errors) == (State.PARTIAL, 4, 2)
    assert Path(spec.output).read_text() == '"A"\nnull\nnull\n"C"\n'
    assert [
        json.loads(line)["line"] for line in Path(spec.errors_uri).read_text().splitlines()
    ] == [2, 3]
    assert asked == [0, 2, 3]
    assert assemble.publish(spec, "projects/p/jobs/1", answers) == found
    assert asked == [0, 2, 3]
    other = assemble.publish(spec, "projects/p/jobs/2", answers)
    assert other.state is State.FAILED
    assert "exists" in str(other.reason)
    assemble.unmark(spec, "projects/p/jobs/1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl", "out.jsonl", "out.jsonl.errors.jsonl",
    ]  # fmt: skip
