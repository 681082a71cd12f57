"""Between cloudai's chat types and what a Hugging Face chat template takes. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from cloudai.errors import UnsupportedByProvider
from cloudai.formats.schemas import rewrite
from cloudai.formats.schemas.dialects import GRAMMAR
from cloudai.types import (
    ChatRequest,
    Document,
    Image,
    Message,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from cloudai.types._base import invalid

_READS = "Send text; a cloud provider's model reads images and documents"


def messages(request: ChatRequest, *, tools: bool) -> list[dict[str, Any]]:
    """The conversation as the template takes it.

    Parameters
    ----------
    tools: whether the template knows calls and results of tools; where it does not, a call
        becomes the assistant's JSON text and a result becomes a user's message.
    """
    names = {
        part.id: part.name
        for message in request.messages
        if not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, ToolCall)
    }
    told: list[dict[str, Any]] = []
    for at, message in enumerate(request.messages):
        for turn in _message(message, f"messages[{at}]", names, tools):
            # Some templates (Gemma's, Mistral's) want the roles in turn.
            if (
                told
                and told[-1].keys() == turn.keys() == {"role", "content"}
                and (told[-1]["role"] == turn["role"])
            ):
                both = (told[-1]["content"], turn["content"])
                told[-1]["content"] = "\n\n".join(text for text in both if text)
            else:
                told.append(turn)
    return told


def _message(
    message: Message, field: str, names: dict[str, str], tools: bool
) -> list[dict[str, Any]]:
    parts = (Text(message.content),) if isinstance(message.content, str) else message.content
    text: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Text):
            text.append(part.text)
        elif isinstance(part, Image | Document):
            what = type(part).__name__.lower()
            raise UnsupportedByProvider(
                f"{field}: a part of type {what}", provider="local", alternative=_READS, field=field
            )
        elif isinstance(part, ToolCall):
            calls.append({"name": part.name, "arguments": part.input})
        elif isinstance(part, ToolResult):
            if part.images:
                raise UnsupportedByProvider(
                    f"{field}: an image in a tool's result",
                    provider="local",
                    alternative=_READS,
                    field=field,
                )
            said = _plain(part.content) if part.parts is None else part.text
            said = f"Error: {said}" if part.error else said
            results.append({"name": names.get(part.id, part.id), "content": said})
        # Reasoning and cache points are for the vendors that made them.
    content = "".join(text)
    if results:
        if tools:
            return [{"role": "tool", **result} for result in results]
        return [
            {"role": "user", "content": f"Result of {result['name']}: {result['content']}"}
            for result in results
        ]
    if calls and tools:
        wrapped = [{"type": "function", "function": call} for call in calls]
        return [{"role": message.role, "content": content, "tool_calls": wrapped}]
    lines = [line for line in (content, *(json.dumps(call) for call in calls)) if line]
    return [{"role": message.role, "content": "\n".join(lines)}]


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def functions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as the template takes them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]


def functions_in_words(tools: Sequence[Tool]) -> str:
    """The tools for a model whose template knows none: a text for the system message."""
    lines = [f"- {tool.name}: {tool.description}".rstrip(": ") for tool in tools]
    return "\n".join(["Answer with a call of one of these tools, as JSON:", *lines])


def chosen_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """The tools of which one has to be called; none for an ordinary answer."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice", choice, "asks for a tool, and tools is empty")
        return ()
    if choice == "none":
        return ()
    if choice in (None, "auto"):
        raise UnsupportedByProvider(
            'tool_choice="auto"',
            provider="local",
            alternative='Pass tool_choice="required" or a tool\'s name, which the local engine '
            'holds every model to; or tool_choice="none"',
            field="tool_choice",
        )
    if choice == "required":
        return request.tools
    named = tuple(tool for tool in request.tools if tool.name == choice)
    if not named:
        raise invalid(
            "tool_choice",
            choice,
            "names no tool of the request",
            f"There are: {', '.join(tool.name for tool in request.tools)}.",
        )
    return named


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """The JSON Schema of a call of one of the tools."""
    calls = [_lifted(tool) for tool in tools]
    shapes = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": parameters},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool, (parameters, _) in zip(tools, calls, strict=True)
    ]
    shared: dict[str, Any] = {}
    for _, definitions in calls:
        shared.update(definitions)
    body = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return {**body, **({"$defs": shared} if shared else {})}


def _lifted(tool: Tool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters' schema, and its ``$defs`` under names of this tool's own: references in
    it are from the document's root, where the call's schema now stands."""
    held = rewrite.fit(tool.parameters, GRAMMAR, f"tools[{tool.name}].parameters").schema
    text = json.dumps({k: v for k, v in held.items() if k != "$defs"})
    definitions = held.get("$defs") or {}
    renamed: dict[str, Any] = {}
    swap = [(f'"#/$defs/{name}"', f'"#/$defs/{tool.name}.{name}"') for name in definitions]
    for name, inner in definitions.items():
        renamed[f"{tool.name}.{name}"] = json.loads(_swapped(json.dumps(inner), swap))
    return json.loads(_swapped(text, swap)), renamed


def _swapped(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


class Called(msgspec.Struct, frozen=True):
    """A call as the grammar makes the model write it."""

    name: str
    arguments: msgspec.Raw
