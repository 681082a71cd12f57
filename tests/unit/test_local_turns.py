"""Conversations for local models' templates."""

from __future__ import annotations

import pytest

from cloudai.engine import templates
from cloudai.errors import UnsupportedByProvider
from cloudai.types import ChatRequest, Image, Message, ToolCall, ToolResult

CALLS = Message("assistant", (ToolCall("1", "look", "{}"), ToolCall("2", "look", "{}")))
RESULTS = Message("tool", (ToolResult("1", "sun"), ToolResult("2", {"why": "fog"}, error=True)))


def told(*turns: Message, tools: bool = False) -> list[dict[str, object]]:
    return templates.messages(ChatRequest(model="m", messages=turns), tools=tools)


def test_t5_results_and_a_question_are_one_turn_where_the_template_knows_no_tools() -> None:
    made = told(Message("user", "Hi"), CALLS, RESULTS, Message("user", "Well?"))
    assert [turn["role"] for turn in made] == ["user", "assistant", "user"]
    assert made[2]["content"] == (
        'Result of look: sun\n\nResult of look: Error: {"why": "fog"}\n\nWell?'
    )


def test_t5_results_stay_turns_of_their_own_where_it_knows_tools() -> None:
    made = told(Message("user", "Hi"), CALLS, RESULTS, Message("user", "Well?"), tools=True)
    assert [turn["role"] for turn in made] == ["user", "assistant", "tool", "tool", "user"]
    assert made[3]["content"] == 'Error: {"why": "fog"}'  # A4: the model is told that it failed


def test_t8_an_image_in_a_result_is_refused() -> None:
    result = Message("tool", (ToolResult("1", Image(data=b"x")),))
    with pytest.raises(UnsupportedByProvider, match="image"):
        told(Message("user", "Hi"), CALLS, result)
