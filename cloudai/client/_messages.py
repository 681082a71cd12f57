"""What users write as messages, made into the neutral values.

Dicts are read as OpenAI's chat format writes them, which most programs already hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cloudai.formats.openai.messages import message
from cloudai.types import Message, Reasoning, Text, ToolCall, ToolResult
from cloudai.types._base import invalid

Messages: TypeAlias = "str | Message | Sequence[Message | Mapping[str, Any]]"


def messages(given: Messages, system: str | None = None) -> tuple[Message, ...]:
    """The conversation as ``Message``s; ``system`` goes before it."""
    if isinstance(given, str):
        made = (Message("user", given),)
    elif isinstance(given, Message):
        made = (given,)
    else:
        made = tuple(
            item if isinstance(item, Message) else message(item, f"messages[{index}]")
            for index, item in enumerate(given)
        )
    if system is not None:
        made = (Message("system", system), *made)
    if not any(one.role != "system" for one in made):
        raise invalid("messages", given, "holds no message", "Give at least one user message.")
    if made[-1].role == "user" and not made[-1].content:
        raise invalid("messages[-1].content", "", "is empty", "Say something.")
    for index, one in enumerate(made):
        _encodable(one, f"messages[{index}]")
    return made


def _encodable(message: Message, where: str) -> None:
    """Raises InvalidRequest for half of a surrogate pair, which no JSON can carry."""
    if isinstance(message.content, str):
        _check_text(message.content, f"{where}.content")
        return
    for number, part in enumerate(message.content):
        field = f"{where}.content[{number}]"
        if isinstance(part, Text | Reasoning):
            _check_text(part.text, f"{field}.text")
        elif isinstance(part, ToolCall):
            _check_text(part.arguments, f"{field}.arguments")
        elif isinstance(part, ToolResult):
            _check_json(part.content, f"{field}.content")


def _check_text(text: str, field: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            field,
            text[max(error.start - 20, 0) : error.end],
            f"holds half of a character (a lone surrogate) at {error.start}",
            "It was cut in the middle, or decoded wrongly: text.encode('utf-16', "
            "'surrogatepass').decode('utf-16', 'replace') mends it.",
        ) from None


def _check_json(value: Any, field: str) -> None:
    if isinstance(value, str):
        _check_text(value, field)
    elif isinstance(value, Text):
        _check_text(value.text, field)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_json(key, field)
            _check_json(inner, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            _check_json(inner, f"{field}[{at}]")
