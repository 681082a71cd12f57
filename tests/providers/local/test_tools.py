"""Tools that a local model may call, and its reasoning, in the formats of chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _models_fixtures import TEMPLATE, ask, profile, random_llama
from support.models import ASKS_THINKING, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, template, writes

from cloudai.client import Client
from cloudai.errors import UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.providers.local.chat import LocalChat
from cloudai.types import (
    ChatReply,
    Message,
    Reasoning,
    ResponseSchema,
    Tool,
    ToolCall,
    ToolResult,
)

WEATHER = Tool(
    name="weather",
    description="The weather of a city",
    parameters={
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"City": {"enum": ["Paris"]}},
    },
)
NOW = Tool(
    name="now",
    parameters={"type": "object", "properties": {}, "additionalProperties": False},
)


@pytest.fixture
def chat(tmp_path: Path):
    mine = profile(tmp_path)
    yield LocalChat(mine)
    mine.close()


def both(chat: LocalChat, *messages: Message, **fields: Any) -> ChatReply:
    """The whole answer, which the streamed one equals."""
    request = ask(messages=messages or (Message("user", "Hi"),), **fields)
    reply = chat.create(request, Call())
    chunks = list(chat.stream(request, Call()))
    assert "".join(chunk.text for chunk in chunks) == reply.text
    thought = "".join(one.text for one in reply.reasoning)
    assert "".join(chunk.reasoning for chunk in chunks) == thought
    pieces = [piece for chunk in chunks for piece in chunk.tool_calls]
    for at, called in enumerate(reply.tool_calls):
        mine = [piece for piece in pieces if piece.index == at]
        assert (mine[0].name, mine[0].arguments) == (called.name, "")
        assert "".join(piece.arguments for piece in mine) == called.arguments
    assert chunks[-1].finish_reason == reply.finish_reason
    assert chunks[-1].usage == reply.usage
    return reply


CASES = [
    (HERMES, ["I'll look.", " \n", "<tool_call>\n"], (), "I'll look."),
    (HERMES, ["I'll look.", " \n", "<tool_call>"], (), "I'll look."),
    (HERMES, ["I'll look.", " \n", "<tool_call>"], ("<tool_call>",), "I'll look."),
    (LLAMA, ['{"name": "w'], (), ""),
    (LLAMA, ["<|python_tag|>"], ("<|python_tag|>",), ""),
    (MISTRAL, ["[TOOL_CALLS]"], ("[TOOL_CALLS]",), ""),
    (MISTRAL_ARGS, ["Sure.", "[TOOL_CALLS]", "[ARGS]"], ("[TOOL_CALLS]", "[ARGS]"), "Sure."),
]


@pytest.mark.parametrize(("shape", "pieces", "special", "text"), CASES)
def test_i15_4_a_model_calls_in_its_own_format(
    chat: LocalChat, tmp_path: Path, shape: str, pieces: list[str], special: Any, text: str
) -> None:  # fmt: skip
    """The model begins a call; what follows is held to the tool's schema."""
    model = writes(tmp_path / "m", *pieces, template=shape, special=special)
    reply = both(chat, model=model, tools=(WEATHER,))
    assert (reply.text, reply.finish_reason) == (text, "tool_calls")
    (call,) = reply.tool_calls
    assert (call.name, call.input) == ("weather", {"city": "Paris"})


def test_i15_4_calls_in_parallel(chat: LocalChat, tmp_path: Path) -> None:
    pieces = ("<tool_call>", "so", "</tool_call>")
    model = writes(tmp_path / "m", *pieces, template=HERMES, special=pieces[:1], loop=True)
    reply = both(chat, model=model, tools=(WEATHER,), tool_choice="auto", max_tokens=150)
    assert len(reply.tool_calls) > 1
    assert {(call.name, call.arguments) for call in reply.tool_calls} == {
        ("weather", '{"city": "Paris"}')
    }
    assert len({call.id for call in reply.tool_calls}) == len(reply.tool_calls)
    assert (reply.text, reply.finish_reason) == ("", "length")


@pytest.mark.parametrize("shape", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, TEMPLATE])
def test_i15_4_a_model_may_answer_in_text(chat: LocalChat, tmp_path: Path, shape: str) -> None:
    model = writes(tmp_path / "m", "It is ", "blue", ".", template=shape)
    reply = both(chat, model=model, tools=(WEATHER, NOW), tool_choice="auto")
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("It is blue.", (), "stop")


@pytest.mark.parametrize("seed", range(3))
def test_i15_4_random_weights_never_make_a_broken_call(chat: LocalChat, seed: int) -> None:
    reply = both(chat, model=random_llama(2048), tools=(WEATHER, NOW), temperature=2.0, seed=seed,
                 max_tokens=60)  # fmt: skip
    for call in reply.tool_calls:
        assert (call.name, call.input) in (("weather", {"city": "Paris"}), ("now", {}))


def test_i15_4_a_model_without_tools_in_its_template_is_told_of_them(
    chat: LocalChat, tmp_path: Path
) -> None:
    from cloudai.engine.chat import _prompt
    from cloudai.engine.generation import ChatModel

    folder = writes(tmp_path / "m", "<tool_call>", '\n{"name": "now"')
    reply = both(chat, model=folder, tools=(WEATHER, NOW))
    assert [call.name for call in reply.tool_calls] == ["now"]
    model = ChatModel(folder, "cpu", "float32")
    turns = (
        Message("user", "Time?"),
        Message("assistant", (ToolCall("1", "now", "{}"),)),
        Message("tool", (ToolResult("1", "noon"),)),
    )
    prompt = _prompt(model, ask(messages=turns), (NOW,), False, {}, 9.0)
    text = model.text(prompt)
    assert '{"name": "now", "description": ""' in text
    assert '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>' in text
    assert "Result of now: noon" in text


def test_i15_4_calls_and_results_go_back_through_the_template(tmp_path: Path) -> None:
    from cloudai.engine.chat import _prompt
    from cloudai.engine.generation import ChatModel

    model = ChatModel(writes(tmp_path / "m", "x", template=HERMES), "cpu", "float32")
    thoughts = (Reasoning(text="Hm.", provider="local"), Reasoning(text="no", provider="aws"))
    turns = (
        Message("user", "Weather?"),
        Message("assistant", (*thoughts, ToolCall("call_1", "weather", '{"city":"Paris"}'))),
        Message("tool", (ToolResult("call_1", "sun"),)),
    )  # fmt: skip
    text = model.text(_prompt(model, ask(messages=turns), (WEATHER,), False, {}, 9.0))
    assert text.startswith('{"type": "function", "function": {"name": "weather"')
    assert (
        '<|im_start|>assistant\n<think>Hm.</think><tool_call>\n{"name": "weather", '
        '"arguments": {"city": "Paris"}}\n</tool_call><|im_end|>\n<|im_start|>tool\nsun<|im_end|>'
    ) in text


def test_i15_4_a_call_that_is_cut_is_no_call(chat: LocalChat, tmp_path: Path) -> None:
    model = writes(tmp_path / "m", "Hm.", "<tool_call>", template=HERMES)
    reply = chat.create(ask(model=model, tools=(WEATHER,), max_tokens=40), Call())
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("Hm.", (), "length")


# ------------------------------------------------------------------ reasoning

SWITCH = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
BEGUN = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize("special", [(), ("<think>", "</think>")])
def test_i15_4_reasoning_is_parted_from_the_text(
    chat: LocalChat, tmp_path: Path, special: tuple[str, ...]
) -> None:
    shape = template(asks=SWITCH)
    model = writes(tmp_path / "m", "<think>", "\nThe sky", "?", " \n", "</think>", "\n\n", "Blue.",
                   template=shape, special=special)  # fmt: skip
    reply = both(chat, model=model, reasoning="high")
    assert reply.reasoning == (Reasoning(text="The sky?", provider="local"),)
    assert (reply.text, reply.finish_reason) == ("Blue.", "stop")
    assert 3 <= reply.usage.reasoning_tokens < reply.usage.output_tokens
    assert reply.message.content[0] == reply.reasoning[0]


def test_i15_4_a_model_with_a_switch_is_quiet_unless_asked(chat: LocalChat, tmp_path: Path):
    model = writes(tmp_path / "m", "Blue.", template=template(asks=SWITCH))
    for fields in ({}, {"reasoning": "none"}):
        reply = both(chat, model=model, **fields)
        assert (reply.text, reply.reasoning) == ("Blue.", ())


def test_i15_4_a_template_that_begins_the_reasoning(chat: LocalChat, tmp_path: Path) -> None:
    shape = template(asks=BEGUN)
    model = writes(tmp_path / "m", "Hm.", " \n", "</think>", "\n\n", "Blue.", template=shape)
    reply = both(chat, model=model)
    assert (reply.text, reply.reasoning[0].text) == ("Blue.", "Hm.")
    cut = both(chat, model=model, max_tokens=2)
    assert (cut.text, cut.finish_reason) == ("", "length")
    # What must not reason finds its reasoning ended.
    model = writes(tmp_path / "n", "Blue.", template=shape)
    reply = both(chat, model=model, reasoning="none")
    assert (reply.text, reply.reasoning) == ("Blue.", ())
    schema = ResponseSchema(schema={"enum": ["Blue."]})
    assert chat.create(ask(model=model, response_schema=schema), Call()).text == '"Blue."'


def test_i15_4_reasoning_goes_before_a_schema_and_before_calls(chat: LocalChat, tmp_path: Path):
    shape = HERMES + ASKS_THINKING
    model = writes(tmp_path / "m", "<think>", "Hm <tool_call>.", "</think>", "\n\n", template=shape)
    schema = ResponseSchema(schema={"enum": ["Blue."]})
    reply = both(chat, model=model, response_schema=schema, reasoning="low")
    assert (reply.text, reply.reasoning[0].text) == ('"Blue."', "Hm <tool_call>.")
    reply = both(chat, model=model, tools=(WEATHER,), tool_choice="required", reasoning="low")
    assert [call.input for call in reply.tool_calls] == [{"city": "Paris"}]
    model = writes(tmp_path / "n", "<think>", "Hm.", "</think>", "\n\n", "<tool_call>",
                   template=shape)  # fmt: skip
    reply = both(chat, model=model, tools=(WEATHER,), reasoning="low")
    assert ([call.name for call in reply.tool_calls], reply.text) == (["weather"], "")
    assert reply.reasoning[0].text == "Hm."


def test_i15_4_reasoning_that_the_model_does_not_have_is_refused(chat: LocalChat) -> None:
    with pytest.raises(UnsupportedByProvider, match="reasoning='high'"):
        chat.create(ask(model=random_llama(2048), reasoning="high"), Call())


# ------------------------------------------------------------------ through the client


def test_i15_4_the_client_calls_tools_and_answers(tmp_path: Path) -> None:
    model = writes(tmp_path / "m", "I'll look.", "<tool_call>", template=HERMES)

    def weather(city: str) -> str:
        """The weather of a city"""
        return f"sun in {city}"

    with Client("local", home=str(tmp_path / "home"), device="cpu") as client:
        reply = client.chat.create("Weather?", model=str(model), tools=[weather], max_tokens=90)
        assert reply.text == "I'll look."
        with client.chat.stream("Weather?", model=str(model), tools=[WEATHER]) as stream:
            for _ in stream:
                pass
        assert [call.input for call in stream.reply.tool_calls] == [{"city": "Paris"}]
        result = ToolResult(stream.reply.tool_calls[0].id, {"sky": "blue"})
        turns = [Message("user", "Weather?"), stream.reply.message, Message("tool", (result,))]
        again = client.chat.create(turns, model=str(model), tools=[WEATHER])
        assert again.finish_reason == "tool_calls"
        assert json.loads(again.tool_calls[0].arguments) == {"city": "Paris"}
