"""The fake's words: what a token is, and the rules by which it answers.

A token is a word: a run of what is no white space, with the white space before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from cloudai.providers.fake._schema import example
from cloudai.providers.fake._script import Call, Reply
from cloudai.types import ChatRequest, FinishReason, Message, Reasoning, Text, Tool, ToolCall
from cloudai.types import ToolResult as Result

_TOKEN: Final = re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z")


def tokens(text: str) -> list[str]:
    """The text in its tokens; joined they are the text again."""
    return _TOKEN.findall(text)


def count_message(message: Message) -> int:
    """The tokens of a message: those of its texts, tool calls and results; 1 for each image
    or document."""
    if isinstance(message.content, str):
        return len(message.content.split())
    total = 0
    for part in message.content:
        if isinstance(part, Text | Reasoning):
            total += len(part.text.split())
        elif isinstance(part, ToolCall):
            total += 1 + len(part.arguments.split())
        elif isinstance(part, Result):
            total += len(as_text(part.content).split())
        else:
            total += 1
    return total


def as_text(value: Any) -> str:
    """A text as it is; any other JSON value encoded."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def answer(request: ChatRequest) -> Reply:
    """The unscripted answer, by these rules, the first that applies:

    1. ``tool_choice`` is ``"required"`` or a tool's name, or the last message is the user's
       and holds a tool's name as a word: that tool (or the first one) is called, with
       arguments that satisfy its schema.
    2. A response schema: the text is JSON that satisfies it.
    3. Otherwise the last message is said again: the user's text, or the tools' results.
    """
    last = request.messages[-1]
    tool = _wanted(request, last)
    if tool is not None:
        arguments = example(tool.parameters, f"tools[{tool.name}].parameters")
        return Reply(tool_calls=(Call(name=tool.name, arguments=arguments),))
    if request.response_schema is not None:
        value = example(request.response_schema.schema, "response_schema")
        return Reply(text=as_text(value))
    return Reply(text=_said(last))


def _wanted(request: ChatRequest, last: Message) -> Tool | None:
    choice = request.tool_choice
    if not request.tools or choice == "none":
        return None
    by_name = {tool.name: tool for tool in request.tools}
    if choice in by_name:
        return by_name[choice]
    if choice == "required":
        return request.tools[0]
    if last.role != "user":
        return None
    words = set(re.findall(r"[\w-]+", last.text))
    return next((tool for tool in request.tools if tool.name in words), None)


def _said(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return " ".join(
        as_text(part.content) if isinstance(part, Result) else part.text
        for part in message.content
        if isinstance(part, Text | Result)
    )


def cut(text: str, stop: Iterable[str], max_tokens: int | None) -> tuple[list[str], FinishReason]:
    """The tokens of the text up to the first stop sequence and ``max_tokens``, and why it
    ended."""
    found = [place for place in (text.find(end) for end in stop) if place >= 0]
    pieces = tokens(text[: min(found)] if found else text)
    if max_tokens is not None and len(pieces) > max_tokens:
        return pieces[:max_tokens], "length"
    return pieces, "stop"
