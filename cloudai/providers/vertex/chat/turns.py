"""A conversation's turns in Gemini's words.

Gemini refuses texts that are empty and turns without parts, so both are left out; neighbours of
one role become one turn, as the answers to the calls of one turn have to. A signature goes back
on the part that it came on: it rides on the part after it here.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final

from cloudai.errors import UnsupportedByProvider
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.types import (
    ChatRequest,
    Document,
    Image,
    Message,
    NativePart,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from cloudai.types._base import invalid

FAMILY: Final = "gemini"
"""Whose reasoning, and whose parts of its own, go back."""

# What takes a turn's place where its thought signature was lost, as in a conversation that began
# at another provider ("Thought signatures", Gemini API docs, read 2026-11). Bytes in base64.
NO_SIGNATURE: Final = "skip_thought_signature_validator"

# Gemini 3 and later want a signature with calls, and take images in a function's response
# ("Thought signatures" and "Multimodal function responses", Gemini API docs, read 2026-11).
_THREE: Final = re.compile(r"gemini-(?:[3-9]|\d\d)")


def contents(request: ChatRequest) -> list[dict[str, Any]]:
    """The turns. Raises InvalidRequest for what the service would refuse."""
    made: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    newer = _THREE.match(request.model.rpartition("/")[2]) is not None
    for index, message in enumerate(request.messages):
        if message.role == "system":
            continue
        role = "model" if message.role == "assistant" else "user"
        parts = _parts(message, f"messages[{index}]", names, newer)
        if not parts:
            continue
        if made and made[-1]["role"] == role:
            made[-1]["parts"].extend(parts)
        else:
            made.append({"role": role, "parts": parts})
    if not made:
        raise invalid("messages", request.messages, "say nothing", "Add a user message.")
    if made[0]["role"] == "model" and any("functionCall" in part for part in made[0]["parts"]):
        raise invalid(
            "messages[0].role",
            "assistant",
            "begins the conversation with a call, which Gemini refuses",
            "Put the user's message before it.",
        )
    return made


def _parts(
    message: Message, where: str, names: dict[str, str], newer: bool
) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"text": message.content}] if message.content.strip() else []
    parts: list[dict[str, Any]] = []
    signature: str | None = None  # it rides on the next part
    called = False
    for part in message.content:
        one: dict[str, Any]
        match part:
            case Text():
                if not part.text.strip() and signature is None:
                    continue
                one = {"text": part.text}
            case Image() | Document():
                one = _media(part, where)
            case Reasoning():
                if part.made_by(PROVIDER, FAMILY):
                    if part.text:
                        parts.append({"text": part.text, "thought": True})
                    signature = part.signature or signature
                continue
            case NativePart():
                if not part.made_by(PROVIDER, FAMILY):
                    continue
                one = {**part.data}
            case ToolCall():
                names[part.id] = part.name
                one = {"functionCall": {"name": part.name, "args": _arguments(part)}}
                if part.signature is not None:
                    one["thoughtSignature"] = part.signature
                elif newer and not called and signature is None:
                    one["thoughtSignature"] = NO_SIGNATURE
                called = True
            case ToolResult():
                one = _result(part, where, names, newer)
            case _:  # a cache point: it caches by itself
                continue
        if signature is not None and "thoughtSignature" not in one:
            one["thoughtSignature"], signature = signature, None
        parts.append(one)
    if signature is not None:
        parts.append({"text": "", "thoughtSignature": signature})
    return parts


def _arguments(part: ToolCall) -> dict[str, Any]:
    value = part.input
    if not isinstance(value, dict):
        raise invalid(f"tool_calls[{part.name}].arguments", part.arguments, "is not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def _result(part: ToolResult, where: str, names: dict[str, str], newer: bool) -> dict[str, Any]:
    name = names.get(part.id)
    if name is None:
        raise invalid(
            f"{where}.content.id",
            part.id,
            "answers no tool call of this conversation",
            "Keep the assistant's message with the call before it.",
        )
    said: Any = part.content if part.parts is None else part.text
    if part.error:
        content: Any = {"error": said}
    else:
        content = said if isinstance(said, dict) else {"result": said}
    made: dict[str, Any] = {"name": name, "response": content}
    if part.images:
        if not newer:
            raise UnsupportedByProvider(
                "an image in a tool's result before Gemini 3",
                provider=PROVIDER,
                alternative="Put it into a user's message after the results",
                field=where,
            )
        made["parts"] = [_media(image, where) for image in part.images]
    return {"functionResponse": made}


def _media(part: Image | Document, where: str) -> dict[str, Any]:
    if part.data is not None:
        data = base64.b64encode(part.data).decode()
        return {"inlineData": {"mimeType": part.media_type, "data": data}}
    url = part.url or ""
    if not url.startswith(("gs://", "https://", "http://")):
        raise invalid(
            f"{where}.url", url, "is not a gs:// or https:// URL", "Gemini reads no other store."
        )
    return {"fileData": {"mimeType": part.media_type, "fileUri": url}}
