"""Training files of Gemini's tuning: checked line by line, and written as the service reads them.

The service reads JSON Lines of ``{"contents": […], "systemInstruction": …, "tools": […]}``. Lines
in the form that other providers take, ``{"messages": […]}`` and ``{"prompt", "completion"}``, are
turned into it, so that one file tunes everywhere.

Limits: "About supervised fine-tuning for Gemini models", Vertex AI documentation (read 2026-11).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from cloudai._core import examples
from cloudai._core.examples import bad
from cloudai.types._base import invalid, shorten

MAX_BYTES: Final = 1_000_000_000
"""Bytes of one file."""
MAX_VALIDATION: Final = 5000
"""Examples of a validation file."""

_KEYS: Final = ("contents", "systemInstruction", "system_instruction", "tools", "generationConfig")


class Examples(msgspec.Struct, frozen=True):
    """What a file holds.

    Parameters
    ----------
    count: examples. size: bytes as written. native: whether it was in Gemini's form already.
    """

    count: int
    size: int
    native: bool


def convert(source: Path, target: IO[bytes], field: str) -> Examples:
    """Writes the examples of ``source`` to ``target``. Raises InvalidRequest with the line's
    number and the reason; ``field`` names the file in it."""
    count = size = 0
    native = True
    for where, given, plain in examples.read(source, field):
        native = native and plain and "contents" in given
        made = json.dumps(_example(given, where, field), ensure_ascii=False).encode() + b"\n"
        target.write(made)
        count += 1
        size += len(made)
    if not count:
        raise invalid(field, str(source), "holds no examples", "Add some: 100 are a good start.")
    if field.endswith("validation") and count > MAX_VALIDATION:
        raise invalid(
            field,
            str(source),
            f"holds {count} examples, and {MAX_VALIDATION} may validate",
            "Leave some out.",
        )
    if size > MAX_BYTES:
        raise invalid(
            field, str(source), f"comes to {size} bytes, of {MAX_BYTES} at most", "Leave some out."
        )
    return Examples(count, size, native)


def _example(given: dict[str, Any], where: str, field: str) -> dict[str, Any]:
    if "contents" in given:
        made = dict(given)
        unknown = sorted(set(made) - set(_KEYS))
        if unknown:
            raise bad(where, field, f"has {unknown[0]!r}; there are {', '.join(_KEYS)}")
    elif "messages" in given:
        made = _from_messages(given, where, field)
    elif {"prompt", "completion"} <= given.keys():
        turns = (("user", given["prompt"]), ("assistant", given["completion"]))
        made = _from_messages(
            {"messages": [{"role": role, "content": text} for role, text in turns]}, where, field
        )
    else:
        raise bad(where, field, 'has neither "messages" nor "contents"')
    contents: Any = made["contents"]
    if not isinstance(contents, list) or not contents:
        raise bad(where, field, 'has no turns in "contents"')
    for index, turn in enumerate(contents):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        at = f"contents[{index}]"
        if not isinstance(turn, dict) or turn.get("role") not in {"user", "model"}:  # pyright: ignore[reportUnknownMemberType]
            raise bad(where, field, f'has {at} whose role is neither "user" nor "model"')
        if not turn.get("parts"):  # pyright: ignore[reportUnknownMemberType]
            raise bad(where, field, f"has {at} without parts")
    if contents[-1]["role"] != "model":
        raise bad(where, field, "does not end with an answer: there is nothing to learn")
    return made


def _from_messages(given: dict[str, Any], where: str, field: str) -> dict[str, Any]:
    messages: Any = given["messages"]
    if not isinstance(messages, list) or not messages:
        raise bad(where, field, 'has no list "messages"')
    system: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for index, message in enumerate(messages):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        at = f"messages[{index}]"
        if not isinstance(message, dict):
            raise bad(where, field, f"has {at} that is not an object")
        role: Any = message.get("role")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if message.get("weight", 1) != 1:  # pyright: ignore[reportUnknownMemberType]
            raise bad(where, field, f"has {at}.weight, which Gemini's tuning does not know")
        parts = _parts(message, names, at, where, field)  # pyright: ignore[reportUnknownArgumentType]
        if role in {"system", "developer"}:
            system += parts
            continue
        turn = {"assistant": "model", "model": "model", "user": "user", "tool": "user"}.get(role)
        if turn is None:
            raise bad(where, field, f"has {at}.role={shorten(role)}")
        if contents and contents[-1]["role"] == turn:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": turn, "parts": parts})
    made: dict[str, Any] = {"contents": contents}
    if system:
        made["systemInstruction"] = {"role": "system", "parts": system}
    tools = [_tool(one, where, field) for one in given.get("tools") or ()]
    if tools:
        made["tools"] = [{"functionDeclarations": tools}]
    return made


def _parts(
    message: dict[str, Any], names: dict[str, str], at: str, where: str, field: str
) -> list[dict[str, Any]]:
    content: Any = message.get("content")
    if message.get("role") == "tool":
        name = message.get("name") or names.get(str(message.get("tool_call_id")))
        if not name:
            raise bad(where, field, f"has {at} that answers no tool call before it")
        answer = {"result": content}
        return [{"functionResponse": {"name": name, "response": answer}}]
    parts: list[dict[str, Any]] = []
    if isinstance(content, str):
        parts.append({"text": content})
    elif isinstance(content, list):
        parts += [_part(one, at, where, field) for one in content]  # pyright: ignore[reportUnknownVariableType]
    elif content is not None:
        raise bad(where, field, f"has {at}.content that is neither text nor a list of parts")
    for call in message.get("tool_calls") or ():
        about: dict[str, Any] = call.get("function", call)
        arguments: Any = about.get("arguments") or {}
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                raise bad(where, field, f"has {at}.tool_calls with bad arguments") from None
        names[str(call.get("id"))] = str(about.get("name"))
        parts.append({"functionCall": {"name": about.get("name"), "args": arguments}})
    if not parts:
        raise bad(where, field, f"has {at} without content")
    return parts


def _part(part: Any, at: str, where: str, field: str) -> dict[str, Any]:
    if isinstance(part, dict) and isinstance(part.get("text"), str):  # pyright: ignore[reportUnknownMemberType]
        return {"text": part["text"]}
    url: Any = None
    if isinstance(part, dict):
        image: Any = part.get("image_url", part.get("url"))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        url = image.get("url") if isinstance(image, dict) else image  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(url, str) and url.startswith("data:"):
        kind, _, data = url.removeprefix("data:").partition(";base64,")
        return {"inlineData": {"mimeType": kind, "data": data}}
    if isinstance(url, str) and url.startswith("gs://"):
        kind = {"png": "image/png", "webp": "image/webp"}.get(url.rpartition(".")[2], "image/jpeg")
        return {"fileData": {"mimeType": kind, "fileUri": url}}
    raise bad(where, field, f"has {at} with a part that is neither text nor a gs:// or data: URL")


def _tool(tool: Any, where: str, field: str) -> dict[str, Any]:
    about: Any = tool.get("function", tool) if isinstance(tool, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(about, dict) or not about.get("name"):  # pyright: ignore[reportUnknownMemberType]
        raise bad(where, field, "has a tool without a name")
    made: dict[str, Any] = {"name": about["name"]}
    if about.get("description"):  # pyright: ignore[reportUnknownMemberType]
        made["description"] = about["description"]
    if about.get("parameters"):  # pyright: ignore[reportUnknownMemberType]
        made["parameters"] = about["parameters"]
    return made
