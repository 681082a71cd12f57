"""The fake's answers: by rule, by script, with faults."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from cloudai import Tool
from cloudai.errors import (
    CallTimeout,
    ConfigError,
    ContentFiltered,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    StreamTruncated,
    UnsupportedByProvider,
)
from cloudai.providers.fake import _schema, _text
from cloudai.testing import FakeScript


@pytest.fixture
def script(tmp_path: Path) -> FakeScript:
    return FakeScript(tmp_path)


def test_it_says_the_last_user_text_again(script: FakeScript) -> None:
    reply = script.client().chat.create("What is  this?\n", system="Be kind.")
    assert reply.text == "What is  this?\n"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (5, 3)
    assert (reply.finish_reason, reply.model, reply.cost) == ("stop", "fake", 0.0)


@pytest.mark.parametrize("text", ["", "one", " a  b\nc ", "\n", "x" * 50, "ä ö\u2028ü"])
def test_tokens_make_the_text(text: str) -> None:
    assert "".join(_text.tokens(text)) == text


def test_a_tool_that_is_named_is_called(script: FakeScript) -> None:
    weather = Tool(name="weather", parameters={"type": "object", "properties": {}})
    chat = script.client().chat
    assert chat.create("How is the weather in Rome?", tools=[weather]).tool_calls
    assert not chat.create("How are you?", tools=[weather]).tool_calls
    assert not chat.create("weather", tools=[weather], tool_choice="none").tool_calls


def test_scripted_replies_in_turn_then_the_rule(script: FakeScript) -> None:
    script.reply("first").reply(tool_calls={"look": {"at": "that"}}).reply(
        "cut", finish_reason="content_filter", reasoning="let me think"
    )
    chat = script.client().chat
    assert chat.create("x").text == "first"
    call = chat.create("x").tool_calls[0]
    assert (call.name, call.input) == ("look", {"at": "that"})
    third = chat.create("x")
    assert (third.finish_reason, third.reasoning[0].text) == ("content_filter", "let me think")
    assert third.usage.reasoning_tokens == 3
    assert chat.create("x").text == "x"


def test_native_sets_one_answer(script: FakeScript) -> None:
    chat = script.client().chat
    assert chat.create("x", native={"text": "this"}).text == "this"
    with pytest.raises(InvalidRequest, match="native"):
        chat.create("x", native={"texts": "this"})


def test_what_was_received(script: FakeScript) -> None:
    script.client().chat.create("Hello", temperature=0.5)
    (request,) = script.requests("chat.create")
    assert (request.messages[-1].text, request.temperature) == ("Hello", 0.5)
    assert [one.operation for one in script.received] == ["chat.create"]


def test_faults_by_class_with_their_attributes(script: FakeScript) -> None:
    script.fail("chat.*", ContentFiltered, message="not that", code="jailbreak", status=400)
    with pytest.raises(ContentFiltered) as caught:
        script.client().chat.create("x")
    assert (caught.value.code, caught.value.status) == ("jailbreak", 400)
    assert script.client().chat.create("x").text == "x"


def test_faults_skip_and_repeat(script: FakeScript) -> None:
    script.fail("chat.create", ContentFiltered, skip=1, times=2)
    chat = script.client().chat
    assert chat.create("x").text == "x"
    for _ in range(2):
        with pytest.raises(ContentFiltered):
            chat.create("x")
    assert chat.create("x").text == "x"


@pytest.mark.parametrize("error", ["ServiceUnavailable", "ConnectionFailed"])
def test_a_stream_that_breaks(script: FakeScript, error: str) -> None:
    script.fail("chat.stream", error, chunks=2)
    stream = script.client().chat.stream("one two three four")
    with pytest.raises(StreamTruncated) as caught:
        list(stream)
    assert caught.value.text == "one two"
    assert len(script.requests("chat.stream")) == 1, "it was tried again after its first chunk"


def test_a_delay_past_the_deadline(script: FakeScript) -> None:
    script.delay("chat.create", 300.0)
    begun = time.monotonic()
    script.reply("late", seconds=300.0)
    with pytest.raises(CallTimeout):
        script.client().chat.create("x", timeout=0.2)
    assert time.monotonic() - begun < 100


def test_async_delays_do_not_block_the_loop(script: FakeScript) -> None:
    script.reply("a", seconds=600).reply("b", seconds=600)

    async def both() -> None:
        client = script.async_client()
        asked = [asyncio.create_task(client.chat.create("x")) for _ in range(2)]
        while len(script.requests("chat.create")) < 2:  # both are on their way at once
            await asyncio.sleep(0.01)
        for task in asked:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(asyncio.wait_for(both(), 120))


def test_a_script_file(tmp_path: Path) -> None:
    file = tmp_path / "script.toml"
    file.write_text(
        '[chat]\nreplies = ["one", {text = "two", finish_reason = "length"}]\nreply = "rest"\n'
        'models = ["known"]\ncontext = 8\n'
        '[[faults]]\noperation = "chat.create"\nerror = "ServiceUnavailable"\n'
    )
    script = FakeScript(tmp_path / "home", file)
    chat = script.client().chat
    assert [chat.create("x").text for _ in range(4)] == ["one", "two", "rest", "rest"]
    assert len(script.requests("chat.create")) == 5, "the failed call is there twice"
    with pytest.raises(NotFound, match="known"):
        chat.create("x", model="other")
    with pytest.raises(ContextOverflow) as caught:
        chat.create("one two three four five", max_tokens=4)
    assert (caught.value.tokens, caught.value.limit) == (9, 8)
    json_file = tmp_path / "script.json"
    json_file.write_text(json.dumps({"chat": {"reply": "from JSON"}}))
    assert FakeScript(tmp_path / "b", json_file).client().chat.create("x").text == "from JSON"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[chat", "TOML"),
        ("[chat]\nreplys = []", "replys"),
        ('[[faults]]\noperation = "chat.crate"\nerror = "RateLimited"', "chat.create"),
        ('[[faults]]\noperation = "chat.create"\nerror = "RateLimit"', "RateLimited"),
        ('[[faults]]\noperation = "chat.create"', "neither"),
        ("[training.default]\nrunning = -1", "running"),
        ('[training.default]\nstate = "RUNNING"', "not an end"),
    ],
)
def test_bad_scripts(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "script.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=word):
        FakeScript(tmp_path, file)
    with pytest.raises(ConfigError, match="cannot be read"):
        FakeScript(tmp_path, tmp_path / "none.toml")


SCHEMAS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string"}, "text"),
    ({"type": "string", "minLength": 6, "maxLength": 7}, "texttex"),
    ({"type": "string", "format": "date"}, "2026-01-02"),
    ({"type": "string", "enum": ["a", "b"]}, "a"),
    ({"const": 5}, 5),
    ({"type": "integer", "minimum": 3}, 3),
    ({"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5}, 5),
    ({"type": "integer", "maximum": -4}, -4),
    ({"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2}, pytest.approx(0.15)),
    ({"type": "number"}, 1),
    ({"type": "boolean"}, True),
    ({"type": ["null", "integer"]}, 1),
    ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
    ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "uniqueItems": True}, [1, 2]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]}, [1, True]),
    (
        {
            "$defs": {"P": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            "allOf": [{"$ref": "#/$defs/P"}, {"properties": {"y": {"type": "string"}}}],
            "type": "object",
        },
        {"x": 1, "y": "y"},
    ),
]


@pytest.mark.parametrize(("schema", "value"), SCHEMAS, ids=lambda v: json.dumps(v, default=str))
def test_examples_of_schemas(schema: dict[str, Any], value: Any) -> None:
    assert _schema.example(schema, "field") == value


def test_a_schema_that_holds_itself() -> None:
    schema = {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                },
                "required": ["name", "next"],
            }
        },
    }
    value, depth = _schema.example(schema, "field"), 0
    while value is not None:
        assert value["name"] == "name"
        value, depth = value["next"], depth + 1
    assert 0 < depth < 20


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 2}, InvalidRequest),
        ({"$ref": "#/$defs/None"}, InvalidRequest),
        ({"type": "colour"}, InvalidRequest),
        (
            {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
            InvalidRequest,
        ),
        (
            {
                "$ref": "#/$defs/A",
                "$defs": {
                    "A": {
                        "type": "object",
                        "properties": {"a": {"$ref": "#/$defs/A"}},
                        "required": ["a"],
                    }
                },
            },
            InvalidRequest,
        ),
        ({"type": "string", "pattern": "^[0-9]+$"}, UnsupportedByProvider),
    ],
)
def test_schemas_that_nothing_satisfies(schema: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        _schema.example(schema, "field")
