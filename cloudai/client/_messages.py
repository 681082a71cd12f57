"""What users write as messages and tools, made into the neutral values.

Dicts are read as OpenAI's chat format writes them, which most programs already hold.
"""

from __future__ import annotations

import base64
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, get_type_hints

import msgspec

from cloudai.types import (
    CachePoint,
    Image,
    Message,
    Part,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from cloudai.types._base import invalid

Messages: TypeAlias = "str | Message | Sequence[Message | Mapping[str, Any]]"
ToolLike: TypeAlias = "Tool | Callable[..., Any] | Mapping[str, Any]"

_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)\Z", re.DOTALL)


def messages(given: Messages, system: str | None = None) -> tuple[Message, ...]:
    """The conversation as ``Message``s; ``system`` goes before it."""
    if isinstance(given, str):
        made = (Message("user", given),)
    elif isinstance(given, Message):
        made = (given,)
    else:
        made = tuple(
            item if isinstance(item, Message) else _message(item, index)
            for index, item in enumerate(given)
        )
    if system is not None:
        made = (Message("system", system), *made)
    if not any(message.role != "system" for message in made):
        raise invalid("messages", given, "holds no message", "Give at least one user message.")
    if made[-1].role == "user" and not made[-1].content:
        raise invalid("messages[-1].content", "", "is empty", "Say something.")
    return made


def _message(item: Mapping[str, Any], index: int) -> Message:
    where = f"messages[{index}]"
    if not isinstance(item, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise invalid(where, item, "is not a message", "Use a Message or a dict.")
    role = item.get("role")
    role = "system" if role == "developer" else role
    if role not in _ROLES:
        raise invalid(f"{where}.role", role, "is not one of system, user, assistant, tool")
    content = item.get("content")
    if role == "tool":
        result = ToolResult(str(item.get("tool_call_id", "")), content)
        return Message("tool", (result,))
    if not item.get("tool_calls"):
        if isinstance(content, str):
            return Message(role, content, item.get("name"))
        if content is None:
            raise invalid(f"{where}.content", content, "is missing")
    parts: list[Part | CachePoint] = []
    if isinstance(content, str):
        parts.append(Text(content))
    elif content is not None:
        for number, part in enumerate(content):
            parts.append(_part(part, f"{where}.content[{number}]"))
    for call in item.get("tool_calls") or ():
        function = call["function"]
        parts.append(ToolCall(call["id"], function["name"], function["arguments"]))
    return Message(role, tuple(parts), item.get("name"))


def _part(part: Any, where: str) -> Part | CachePoint:
    if isinstance(part, msgspec.Struct):
        return part  # type: ignore[return-value]  # one of Part, already made
    if isinstance(part, str):
        return Text(part)
    kind = part.get("type")
    if kind == "text":
        return Text(part["text"])
    if kind == "image_url":
        url = part["image_url"]
        url = url["url"] if isinstance(url, Mapping) else url
        match = _DATA_URL.match(url)
        if match:
            return Image(data=base64.b64decode(match[2]), media_type=match[1])
        return Image(url=url)
    raise invalid(f"{where}.type", kind, "is not text or image_url", "Use the part classes.")


def tools(given: Sequence[ToolLike]) -> tuple[Tool, ...]:
    """Tools, functions and OpenAI's dicts as ``Tool``s."""
    return tuple(_tool(item, index) for index, item in enumerate(given))


def _tool(item: ToolLike, index: int) -> Tool:
    if isinstance(item, Tool):
        return item
    if isinstance(item, Mapping):
        about: Any = item.get("function", item)
        if "name" not in about:
            raise invalid(f"tools[{index}]", item, "has no name")
        return Tool(
            name=about["name"],
            description=about.get("description", ""),
            parameters=about.get("parameters") or {"type": "object", "properties": {}},
            strict=bool(about.get("strict", False)),
        )
    if callable(item):
        return tool(item)
    raise invalid(f"tools[{index}]", item, "is not a Tool, a function or a dict")


def tool(function: Callable[..., Any]) -> Tool:
    """A ``Tool`` from a function: its name, its docstring's first paragraph, and a JSON Schema
    from its type hints. Raises InvalidRequest for a parameter without a type hint."""
    hints = get_type_hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    definitions: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in hints:
            raise invalid(
                f"tools[{function.__name__}].{name}", parameter, "has no type hint", "Add one."
            )
        (schema,), found = msgspec.json.schema_components(
            [hints[name]], ref_template="#/$defs/{name}"
        )
        properties[name] = schema
        definitions.update(found)
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    if definitions:
        parameters["$defs"] = definitions
    text = inspect.getdoc(function) or ""
    return Tool(
        name=function.__name__, description=text.partition("\n\n")[0], parameters=parameters
    )
