"""An answer's text, as chat models write it, parted into text, reasoning and calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudai.engine.answers import Reader
from cloudai.engine.calls import CallFormat, Think, style
from cloudai.types import ToolCallDelta

TAGS = """I'll look.

<tool_call>
{"name": "weather", "arguments": {"city": "Paris \\"}{", "days": [1, {"a": 2}]}}
</tool_call>
<tool_call>
{"name": "add", "arguments": {}}
</tool_call>"""
PARIS = ("weather", {"city": 'Paris "}{', "days": [1, {"a": 2}]})
FORMATS: list[tuple[CallFormat, str, str, list[Any]]] = [
    ("tags", TAGS, "I'll look.", [PARIS, ("add", {})]),
    ("tags", "2 < 3 and <tool is no call\n", "2 < 3 and <tool is no call\n", []),
    ("tags", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", {"a": 1})]),
    ("tags", '<tool_call>{"name": "add", "arguments": "{}"}</tool_call>', "", [("add", {})]),
    ("llama", '{"name": "add", "parameters": {"a": 1}}', "", [("add", {"a": 1})]),
    ("llama", '<|python_tag|>{"name": "add", "parameters": {"a": 1}}', "", [("add", {"a": 1})]),
    ("llama", '{"answer": 4}', '{"answer": 4}', []),
    ("llama", "The set {1}.", "The set {1}.", []),
    (
        "mistral",
        (
            '[TOOL_CALLS][{"name": "add", "arguments": {"a": [1]}, "id": "abcdefghi"}, '
            '{"name": "add", "arguments": {}, "id": "abcdefghj"}]'
        ),
        "",
        [("add", {"a": [1]}), ("add", {})],
    ),
    (
        "mistral-args",
        'Sure.[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]get_it[CALL_ID]abcdefghi[ARGS]{}',
        "Sure.",
        [("add", {"a": 1}), ("get_it", {})],
    ),
]  # fmt: skip


def read(reader: Reader, text: str, size: int, *, cut: bool = False) -> tuple[str, str, list[Any]]:
    """All of the pieces together, where ``size`` letters come at a time."""
    pieces = [
        piece for at in range(0, len(text), size) for piece in reader.push(text[at : at + size])
    ]
    pieces += reader.finish(cut=cut)
    told = {
        kind: "".join(one for what, one in pieces if what == kind and isinstance(one, str))
        for kind in ("text", "reasoning")
    }
    calls: dict[int, list[ToolCallDelta]] = {}
    for _, one in pieces:
        if isinstance(one, ToolCallDelta):
            calls.setdefault(one.index, []).append(one)
    assert list(calls) == list(range(len(calls)))
    for deltas in calls.values():
        assert deltas[0].id
        assert not any(delta.id or delta.name for delta in deltas[1:])
    made = [(d[0].name, "".join(one.arguments for one in d)) for d in calls.values()]
    return told["text"], told["reasoning"], made


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("how", "written", "text", "calls"), FORMATS)
def test_each_format_is_read_however_it_comes(
    how: CallFormat, written: str, text: str, calls: list[Any], size: int
) -> None:
    found, reasoning, made = read(Reader(how, None), written, size)
    assert (found, reasoning) == (text, "")
    assert [(name, json.loads(arguments)) for name, arguments in made] == calls


def test_text_and_arguments_come_as_they_are_written() -> None:
    reader = Reader("tags", None)
    assert reader.push("I'll lo") == [("text", "I'll lo")]
    assert reader.push("ok.\n<tool_") == [("text", "ok.")]
    assert reader.push('call>{"name": "add", "argu') == []
    (name, first) = reader.push('ments": {"a"')
    assert isinstance(name[1], ToolCallDelta)
    assert (name[1].name, name[1].arguments) == ("add", "")
    assert first == ("call", ToolCallDelta(index=0, arguments='{"a"'))
    assert reader.push(": 1}") == [("call", ToolCallDelta(index=0, arguments=": 1}"))]
    assert reader.whole == 1


@pytest.mark.parametrize(
    "broken", ["<tool_call>{no json}</tool_call>", '<tool_call>{"name": 3}', "<tool_call>hm"]
)
def test_what_is_no_call_is_text(broken: str) -> None:
    text, _, calls = read(Reader("tags", None), broken, 3)
    assert (text.replace(" ", ""), calls) == (broken.replace(" ", ""), [])


def test_half_a_call_is_left_out() -> None:
    reader = Reader("tags", None)
    assert read(reader, '<tool_call>\n{"name": "a', 4, cut=True) == ("", "", [])
    reader = Reader("tags", None)
    assert read(reader, '<tool_call>{"name": "a", "arguments": {"b', 4)[2] == [("a", '{"b')]
    assert reader.whole == 0


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("think", "written", "reasoning", "text"),
    [
        ("may", "<think>\nHm. <b>?\n</think>\n\nBlue.\n", "Hm. <b>?", "Blue.\n"),
        ("opened", "Hm.\n</think>\n\nBlue.", "Hm.", "Blue."),
        ("opened", "Hm. And", "Hm. And", ""),
        ("may", "Blue. <think>", "", "Blue. <think>"),
        ("may", "<think>\n\n</think>\n\nBlue.", "", "Blue."),
    ],
)
def test_reasoning_is_parted_from_the_text(
    think: Think, written: str, reasoning: str, text: str, size: int
) -> None:
    reader = Reader(None, ("<think>", "</think>"), think=think)
    assert read(reader, written, size, cut=True) == (text, reasoning, [])


def test_a_call_after_reasoning() -> None:
    reader = Reader("llama", ("<think>", "</think>"), think="may")
    written = '<think>{"name"?</think>\n{"name": "add", "parameters": {}}'
    assert read(reader, written, 3) == ("", '{"name"?', [("add", "{}")])


@pytest.mark.parametrize(
    ("template", "calls", "think", "switch"),
    [
        ("{{ messages }}", None, None, ""),
        ("{{ tools }}<tool_call>{{ enable_thinking }}<think>",
         "tags", "<think>", "enable_thinking"),
        ("{{ tools }}<tool_call><function=", None, None, ""),
        ("{{ tools }}[TOOL_CALLS][", "mistral", None, ""),
        ("{{ tools }}[TOOL_CALLS]x[ARGS][THINK]{{ reasoning_effort }}",
         "mistral-args", "[THINK]", "reasoning_effort"),
        ('{{ tools }}ipython "parameters"', "llama", None, ""),
        ("{{ tools }}<start_function_call>", None, None, ""),
    ],
)  # fmt: skip
def test_the_template_tells_the_format(
    template: str, calls: str | None, think: str | None, switch: str
) -> None:
    found = style(template, None)
    assert (found.calls, found.think and found.think[0], found.switch) == (calls, think, switch)
