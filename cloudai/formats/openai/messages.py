"""Messages in OpenAI's words, as programs hold them and requests carry them, into ``Message``."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cloudai.types import (
    CachePoint,
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from cloudai.types._base import invalid, met

_ROLES: Final[dict[Any, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_OURS: Final = frozenset({"image", "document", "reasoning", "tool_call", "tool_result", "native"})


def message(item: Any, where: str, *, urls: bool = True) -> Message:
    """One message. Raises InvalidRequest with the field that cannot be read.

    Parameters
    ----------
    where: what it is called in errors, such as ``"messages[0]"``.
    urls: False is for a server that fetches nothing: it refuses images that lie elsewhere, and
        parts in our own words, which may name such a place too.
    """
    if not isinstance(item, Mapping):
        raise invalid(where, item, "is not a message", "Use a Message or a dict.")
    said = item.get("role")
    role = _ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise invalid(f"{where}.role", said, "is not one of system, user, assistant, tool")
    content, name = item.get("content"), item.get("name")
    if not isinstance(name, str | None):
        raise invalid(f"{where}.name", name, "is not a text")
    calls = item.get("tool_calls") or ()
    thought = item.get("reasoning_content")
    parts: list[Any] = []
    if thought and isinstance(thought, str):
        # An open model's, which a template may take back; no cloud's, whose reasoning is signed.
        parts.append(Reasoning(text=thought, provider="local"))
    elif isinstance(content, str) and role != "tool" and not calls:
        return Message(role, content, name)
    if isinstance(content, str):
        if content or role == "tool":
            parts.append(Text(content))
    elif isinstance(content, (list, tuple)):
        for number, one in enumerate(content):
            parts.append(_part(one, f"{where}.content[{number}]", urls))
    elif content is not None:
        raise invalid(f"{where}.content", content, "is neither a text nor a list of parts")
    refusal = item.get("refusal")
    if refusal and isinstance(refusal, str) and not parts:
        parts.append(Text(refusal))
    if role == "tool" and not any(isinstance(part, ToolResult) for part in parts):
        return Message(role, (_result(item, parts, where),))
    if not isinstance(calls, list | tuple):
        raise invalid(f"{where}.tool_calls", calls, "is not a list of calls")
    for number, call in enumerate(calls):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        parts.append(_call(call, f"{where}.tool_calls[{number}]"))
    if not parts and content is None:
        raise invalid(f"{where}.content", content, "is missing")
    return Message(role, tuple(parts), name)


def _result(item: Mapping[str, Any], parts: list[Any], where: str) -> ToolResult:
    id = item.get("tool_call_id")
    if not isinstance(id, str) or not id:
        raise invalid(f"{where}.tool_call_id", id, "is missing", "Name the call that it answers.")
    if all(isinstance(part, Text) for part in parts):
        return ToolResult(id, "".join([part.text for part in parts]))
    for number, part in enumerate(parts):
        if not isinstance(part, Text | Image):
            raise invalid(
                f"{where}.content[{number}]", part, "is neither a text nor an image of a result"
            )
    return ToolResult(id, tuple(parts))


def _call(call: Any, where: str) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function: Any = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise invalid(where, call, 'is not {"id", "function": {"name", "arguments"}}')
    for field, value in (
        ("id", call.get("id")),
        ("function.name", function.get("name")),
        ("function.arguments", function.get("arguments")),
    ):
        if not isinstance(value, str):
            raise invalid(f"{where}.{field}", value, "is not a text")
    return ToolCall(call["id"], function["name"], function["arguments"])


def _part(part: Any, where: str, urls: bool) -> Part | CachePoint:
    if isinstance(part, msgspec.Struct):
        return part  # type: ignore[return-value]  # one of Part, already made
    if isinstance(part, str):
        return Text(part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise invalid(f"{where}.type", kind, "is not a text", "Use the part classes.")
    if kind in {"text", "refusal"} and isinstance(part.get(kind), str):
        return Text(part[kind])
    if kind == "image_url":
        return _image(part.get("image_url"), where, urls)
    if kind == "file" and isinstance(part.get("file"), Mapping):
        return _file(part["file"], where)
    if urls and (kind in _OURS or kind == "cache_point"):
        try:
            return msgspec.convert(dict(part), met(Part | CachePoint))
        except msgspec.ValidationError as error:
            raise invalid(where, part, f"cannot be read ({error})") from None
    raise invalid(f"{where}.type", kind, "is not text, image_url or file", "Use the part classes.")


def _image(about: Any, where: str, urls: bool) -> Image:
    given = about if isinstance(about, Mapping) else {"url": about}
    url, detail = given.get("url"), given.get("detail")
    if not isinstance(url, str):
        raise invalid(f"{where}.image_url.url", url, "is not a text")
    if url.startswith("data:"):
        media, data = _data(url, f"{where}.image_url.url")
        return Image(data=data, media_type=media or "image/png", detail=detail)
    if not urls:
        raise invalid(f"{where}.image_url.url", url, "is not a data: URL", "Send the image itself.")
    return Image(url=url, detail=detail)


def _file(about: Mapping[str, Any], where: str) -> Document:
    data = about.get("file_data")
    if not isinstance(data, str):
        raise invalid(
            f"{where}.file.file_data", data, "is missing", "Send the file itself, as a data: URL."
        )
    media, content = _data(data, f"{where}.file.file_data")
    return Document(
        data=content,
        media_type=media or "application/pdf",
        name=str(about.get("filename") or "document"),
    )


def _data(url: str, field: str) -> tuple[str, bytes]:
    """The media type, without parameters, and the bytes of a data: URL (RFC 2397)."""
    head, comma, data = url.partition(",")
    media, _, parameters = head.removeprefix("data:").partition(";")
    if not comma or parameters.rpartition(";")[2] != "base64":
        raise invalid(
            field, url[:40], "is not a base64 data: URL", "Such as data:image/png;base64,…"
        )
    try:
        return media.lower(), base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(field, url[:40], f"is not base64 ({error})") from None
