"""Chat completions: ``ChatRequest`` into the request's JSON. Answers: ``chat_reply``."""

from __future__ import annotations

import base64
import re
from typing import Any, Final

import msgspec

from cloudai.errors import UnsupportedByProvider
from cloudai.types import (
    CachePoint,
    ChatRequest,
    Document,
    Image,
    Message,
    Reasoning,
    ResponseSchema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from cloudai.types._base import invalid

MAX_STOPS: Final = 4
"""Stop sequences (CreateChatCompletionRequest.stop.maxItems, spec read 2026-11)."""
MAX_TOOLS: Final = 128
"""Tools (Azure OpenAI quotas and limits, read 2025-08)."""
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_NOT_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")

_encode: Final = msgspec.json.Encoder().encode


def encode(request: ChatRequest, *, modern: bool = True, stream: bool = False) -> bytes:
    """The request's body.

    Parameters
    ----------
    modern: False for dated versions before 2024-09-01-preview, which know ``max_tokens`` only
        and no ``stream_options``.
    stream: True asks for a stream, with the usage in its last chunk.

    Raises InvalidRequest or UnsupportedByProvider for what the service would refuse.
    """
    return _encode(body(request, modern=modern, stream=stream))


def body(request: ChatRequest, *, modern: bool = True, stream: bool = False) -> dict[str, Any]:
    """The request's body, before it is JSON."""
    made: dict[str, Any] = {"model": request.model, "messages": _messages(request.messages)}
    if request.temperature is not None:
        made["temperature"] = request.temperature
    if request.top_p is not None:
        if request.top_p <= 0:
            raise invalid("top_p", request.top_p, "is not above 0", "Leave it out, or raise it.")
        made["top_p"] = request.top_p
    if request.seed is not None:
        made["seed"] = request.seed
    if request.max_tokens is not None:
        made["max_completion_tokens" if modern else "max_tokens"] = request.max_tokens
    if request.stop:
        if len(request.stop) > MAX_STOPS:
            raise invalid("stop", request.stop, f"holds more than {MAX_STOPS} texts")
        made["stop"] = list(request.stop)
    if request.tools:
        if len(request.tools) > MAX_TOOLS:
            raise invalid("tools", len(request.tools), f"is more than {MAX_TOOLS} tools")
        made["tools"] = [_tool(tool) for tool in request.tools]
        if request.tool_choice is not None:
            made["tool_choice"] = _choice(request.tool_choice)
    if request.response_schema is not None:
        made["response_format"] = _format(request.response_schema)
    if request.reasoning is not None:
        made["reasoning_effort"] = request.reasoning
    if stream:
        made["stream"] = True
        if modern:
            made["stream_options"] = {"include_usage": True}
    if request.native:
        made.update(request.native)
    return made


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if isinstance(message.content, str):
            one: dict[str, Any] = {"role": message.role, "content": message.content}
            if message.name:
                one["name"] = message.name
            out.append(one)
        elif message.role == "tool":
            out.extend(_results(message.content, index))
        else:
            out.append(_parts(message, message.content, f"messages[{index}].content"))
    return out


def _parts(message: Message, parts: tuple[Any, ...], where: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, Image):
            content.append(_image(part, f"{where}[{number}]"))
        elif isinstance(part, Document):
            content.append(_document(part))
        elif isinstance(part, ToolCall):
            function = {"name": part.name, "arguments": part.arguments}
            calls.append({"id": part.id, "type": "function", "function": function})
        elif isinstance(part, (Reasoning, CachePoint)):
            # Chat completions keep no reasoning between turns, and cache by themselves.
            continue
        else:
            raise invalid(
                f"{where}[{number}]",
                part,
                f"does not belong into a message of role {message.role}",
            )
    made: dict[str, Any] = {"role": message.role}
    if message.role == "user":
        made["content"] = content
    else:
        # Assistants and systems speak text alone; beside calls there may be none of it.
        text = "".join(part["text"] for part in content if "text" in part)
        if text or not calls:
            made["content"] = text
    if calls:
        made["tool_calls"] = calls
    if message.name:
        made["name"] = message.name
    return made


def _results(parts: tuple[Any, ...], index: int) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for part in parts:
        if not isinstance(part, ToolResult):
            raise invalid(f"messages[{index}].content", part, "is no ToolResult")
        text = part.content if isinstance(part.content, str) else _encode(part.content).decode()
        if part.error:
            text = f"Error: {text}"  # the API has no mark for it
        out.append({"role": "tool", "tool_call_id": part.id, "content": text})
    return out


def _image(part: Image, where: str) -> dict[str, Any]:
    url = part.url
    if url is None:
        data = base64.b64encode(part.data or b"").decode()
        url = f"data:{part.media_type};base64,{data}"
    elif not url.startswith("https://"):
        raise UnsupportedByProvider(
            f"an image at {url.partition(':')[0]}:// ({where})",
            provider="azure",
            alternative="Give it as https:// or inline: Image(data=…, media_type=…)",
        )
    return {"type": "image_url", "image_url": {"url": url}}


def _document(part: Document) -> dict[str, Any]:
    if part.data is None:
        raise UnsupportedByProvider(
            "a document by URL",
            provider="azure",
            alternative="Give it inline: Document(data=…, media_type=…)",
        )
    data = base64.b64encode(part.data).decode()
    name = part.name if "." in part.name else f"{part.name}.{part.media_type.rpartition('/')[2]}"
    file = {"filename": name, "file_data": f"data:{part.media_type};base64,{data}"}
    return {"type": "file", "file": file}


def _tool(tool: Tool) -> dict[str, Any]:
    if not _NAME.match(tool.name):
        raise invalid(
            "tools.name", tool.name, "is not 1 to 64 letters, digits, _ and -", "Rename the tool."
        )
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(choice: str) -> Any:
    if choice in {"auto", "none", "required"}:
        return choice
    return {"type": "function", "function": {"name": choice}}


def _format(schema: ResponseSchema) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {
            "name": _NOT_NAME.sub("_", schema.name)[:64] or "answer",
            "schema": schema.schema,
            # The service refuses a strict schema with optional properties; without the mark it
            # is guided by the schema, and the client checks the answer in either case.
            "strict": schema.strict and _strictable(schema.schema),
        },
    }


def _strictable(schema: Any) -> bool:
    """Whether every object requires all its properties and is closed, as ``strict`` demands
    (Azure OpenAI's structured outputs page, read 2025-08)."""
    if isinstance(schema, list):
        return all(_strictable(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        names = set(schema.get("properties", {}))
        if names != set(schema.get("required", ())) or schema.get("additionalProperties", True):
            return False
    return all(_strictable(value) for key, value in schema.items() if key != "enum")
