"""Between cloudai's chat types and what a Hugging Face chat template takes. Pure."""

from __future__ import annotations

import json
from typing import Any

from cloudai.errors import UnsupportedByProvider
from cloudai.types import (
    ChatRequest,
    Document,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)

_READS = "Send text; a cloud provider's model reads images and documents"


def messages(request: ChatRequest, *, tools: bool, thoughts: bool = False) -> list[dict[str, Any]]:
    """The conversation as the template takes it.

    Parameters
    ----------
    tools: whether the template knows calls and results of tools; where it does not, a call
        becomes the assistant's text and a result becomes a user's message.
    thoughts: whether it takes the reasoning of this machine's models back.
    """
    calls = [
        part
        for message in request.messages
        if not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, ToolCall)
    ]
    # Mistral's templates refuse ids that are not nine letters or digits.
    known = {call.id: (f"{at:09d}", call.name) for at, call in enumerate(calls)}
    told: list[dict[str, Any]] = []
    for at, message in enumerate(request.messages):
        for turn in _message(message, f"messages[{at}]", known, tools, thoughts):
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
    message: Message, field: str, known: dict[str, tuple[str, str]], tools: bool, thoughts: bool
) -> list[dict[str, Any]]:
    parts = (Text(message.content),) if isinstance(message.content, str) else message.content
    text: list[str] = []
    thought: list[str] = []
    calls: list[tuple[str, dict[str, Any]]] = []
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
            calls.append((known[part.id][0], {"name": part.name, "arguments": part.input}))
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
            id_, name = known.get(part.id, (part.id, part.id))
            results.append({"name": name, "tool_call_id": id_, "content": said})
        elif isinstance(part, Reasoning) and part.provider in (None, "local"):
            thought.append(part.text)
        # Others' reasoning and cache points are for the vendors that made them.
    content = "".join(text)
    if results:
        if tools:
            return [{"role": "tool", **result} for result in results]
        return [
            {"role": "user", "content": f"Result of {result['name']}: {result['content']}"}
            for result in results
        ]
    turn = {"role": message.role, "content": content}
    if thoughts and any(thought):
        turn["reasoning_content"] = "".join(thought)
    if calls and tools:
        wrapped = [{"type": "function", "id": id_, "function": call} for id_, call in calls]
        return [{**turn, "tool_calls": wrapped}]
    written = (f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for _, call in calls)
    return [{**turn, "content": "\n".join(line for line in (content, *written) if line)}]


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
