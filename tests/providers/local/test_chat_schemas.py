"""Local chat held to schemas and tools, with tiny random models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _models_fixtures import (
    ask,
    llama,
    profile,
    random_llama,
    scripted,
)

from cloudai.errors import (
    InvalidRequest,
)
from cloudai.protocols import Call
from cloudai.providers.local.chat import LocalChat
from cloudai.types import (
    ChatRequest,
    Message,
    ResponseSchema,
    Tool,
    ToolCall,
    ToolResult,
)

SAYS = "café 日語!"


@pytest.fixture
def chat(tmp_path: Path):
    mine = profile(tmp_path)
    yield LocalChat(mine)
    mine.close()


def streamed(chat: LocalChat, request: ChatRequest) -> tuple[str, list[str], object]:
    chunks = list(chat.stream(request, Call()))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    pieces = [chunk.text for chunk in chunks]
    return "".join(pieces), pieces, chunks[-1]


# ------------------------------------------------------------------ schemas and tools

PERSON = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Ada", "日本語", "Zoë"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_a_schema_always_holds(chat: LocalChat, seed: int):
    """Even with random weights."""
    request = ask(
        model=random_llama(),
        response_schema=ResponseSchema(schema=PERSON),
        temperature=2.0,
        seed=seed,
    )
    reply = chat.create(request, Call())
    value = json.loads(reply.text)
    assert set(value) == {"name", "age"}
    assert value["name"] in PERSON["properties"]["name"]["enum"]
    assert 0 <= value["age"] <= 150
    assert reply.finish_reason == "stop"
    assert streamed(chat, request)[0] == reply.text


def test_a_schema_that_cannot_be_held_to(chat: LocalChat):
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    with pytest.raises(InvalidRequest, match="response_schema cannot be held to.*not"):
        chat.create(
            ask(model=random_llama(), response_schema=ResponseSchema(schema=schema)), Call()
        )


WEATHER = Tool(
    name="weather",
    description="The weather of a city",
    parameters={
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"City": {"enum": ["Paris", "Rome"]}},
    },
)
ADD = Tool(
    name="add",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"City": {"type": "integer"}},
    },
)


@pytest.mark.parametrize("choice", ["weather", "add", "required"])
def test_a_forced_tool_is_called(chat: LocalChat, choice: str):
    request = ask(model=random_llama(), tools=(WEATHER, ADD), tool_choice=choice, seed=1)
    reply = chat.create(request, Call())
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    (called,) = reply.tool_calls
    if choice != "required":
        assert called.name == choice
    if called.name == "weather":
        assert called.input["city"] in ("Paris", "Rome")
    else:
        assert 0 <= called.input["a"] <= 9
    chunks = list(chat.stream(request, Call()))
    assert chunks[-1].finish_reason == "tool_calls"
    pieces = [piece for chunk in chunks for piece in chunk.tool_calls]
    assert {piece.index for piece in pieces} == {0}
    assert [piece.name for piece in pieces] == [called.name, *[None] * (len(pieces) - 1)]
    assert "".join(piece.arguments for piece in pieces) == called.arguments


def test_a_cut_call_is_no_call(chat: LocalChat):
    request = ask(model=random_llama(), tools=(WEATHER,), tool_choice="weather", max_tokens=5)
    reply = chat.create(request, Call())
    assert (reply.tool_calls, reply.text, reply.finish_reason) == ((), "", "length")


def test_a_conversation_with_tools_goes_on(chat: LocalChat):
    messages = (
        Message("user", "Weather?"),
        Message("assistant", (ToolCall(id="1", name="weather", arguments='{"city":"Rome"}'),)),
        Message("tool", (ToolResult(id="1", content={"sky": "blue"}),)),
    )
    assert chat.create(ask(messages=messages, model=scripted(SAYS)), Call()).text == SAYS


def test_a_template_that_knows_tools_gets_them(tmp_path: Path):
    from cloudai.engine import calls, templates
    from cloudai.engine.generation import ChatModel

    template = (
        "{% if tools %}{{ tools[0].function.name }}|{% endif %}{% for m in messages %}"
        "{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments.city }}]"
        "{% endfor %};{% endfor %}"
    )
    model = ChatModel(llama(tmp_path / "m", template=template), "cpu", "float32")
    messages = (
        Message("assistant", (ToolCall(id="1", name="weather", arguments='{"city":"Rome"}'),)),
        Message("tool", (ToolResult(id="1", content="sun"),)),
    )
    told = templates.messages(ask(messages=messages), tools=True)
    text = model.decode(model.render(told, calls.functions([WEATHER])))
    assert text == "weather|assistant:[weather Rome];tool:sun;"
