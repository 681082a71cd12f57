"""Bedrock's Converse: the turns of a conversation.

Converse refuses texts that are blank, turns that are empty, and neighbours of one role; so blank
texts are left out, and neighbours become one turn.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final

from cloudai.errors import UnsupportedByProvider
from cloudai.providers.aws import families
from cloudai.types import (
    CachePoint,
    ChatRequest,
    Document,
    Image,
    Message,
    NativePart,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from cloudai.types._base import invalid

_IMAGES: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS: Final = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_NOT_NAME: Final = re.compile(r"[^a-zA-Z0-9\s()\[\]-]")

_EMPTY: Final = "(no output)"
"""A tool's result that is blank, which Converse takes as little as another text."""

Turns = list[dict[str, Any]]


def turns(request: ChatRequest, *, tools: bool) -> tuple[Turns, list[dict[str, Any]]]:
    """The conversation's turns, and what the system says.

    Parameters
    ----------
    tools: whether any are offered. While none are, Converse refuses calls and results, and they
        are told as text; so are they where none may be called, for which it has no word.

    Raises InvalidRequest for what the service would refuse.
    """
    messages = request.messages
    if not tools and _speaks_of_tools(messages):
        messages = tuple(_tools_as_text(message) for message in messages)
    made, system = _Builder(request.model).build(messages)
    if not made:
        raise invalid("messages", request.messages, "say nothing", "Give a text that is not blank.")
    first, last = made[0], made[-1]
    if first["role"] == "assistant" and not families.lets_assistant_begin(request.model):
        raise invalid(
            "messages[0].role",
            "assistant",
            f"begins the conversation, which {request.model} refuses",
            "Put a user's message before it.",
        )
    if last["role"] == "assistant":
        # "an `assistant` message in the final position cannot contain `thinking`" (Anthropic)
        last["content"] = [one for one in last["content"] if "reasoningContent" not in one]
    return made, system


def begin_with_thought(made: Turns) -> bool:
    """Whether each turn with calls since the user last spoke begins with a thought, as Claude
    wants it where thinking is "enabled": "a final `assistant` message must start with a thinking
    block". Calls that another model made have none."""
    for turn in reversed(made):
        blocks = turn["content"]
        if turn["role"] == "user":
            if not any("toolResult" in block for block in blocks):
                return True
        elif any("toolUse" in block for block in blocks) and "reasoningContent" not in blocks[0]:
            return False
    return True


def _speaks_of_tools(messages: tuple[Message, ...]) -> bool:
    return any(
        isinstance(part, ToolCall | ToolResult | NativePart)
        for message in messages
        if not isinstance(message.content, str)
        for part in message.content
    )


def _tools_as_text(message: Message) -> Message:
    """The message with its tool calls and results as text. Its thoughts are left out: their
    signatures are for the conversation as it was."""
    if isinstance(message.content, str):
        return message
    parts: list[Part | CachePoint] = []
    for part in message.content:
        match part:
            case ToolCall():
                parts.append(Text(f"[I called the tool {part.name} with {part.arguments}]"))
            case ToolResult():
                failed = " failed and" if part.error else ""
                parts.append(Text(f"[The tool{failed} answered: {part.text}]"))
                parts.extend(part.images)
            case Reasoning() | NativePart():
                continue
            case _:
                parts.append(part)
    return Message(message.role, tuple(parts), message.name)


class _Builder:
    """Makes the turns of one request."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._family = families.maker(model)
        self._names: set[str] = set()

    def build(self, messages: tuple[Message, ...]) -> tuple[Turns, list[dict[str, Any]]]:
        made: Turns = []
        system: list[dict[str, Any]] = []
        for index, message in enumerate(messages):
            blocks = self._blocks(message, f"messages[{index}].content")
            if all("cachePoint" in block for block in blocks):
                continue  # it says nothing
            if message.role == "system":
                system.extend(blocks)
                continue
            role = "assistant" if message.role == "assistant" else "user"
            if made and made[-1]["role"] == role:
                made[-1]["content"].extend(blocks)
            else:
                made.append({"role": role, "content": blocks})
        for turn in made:
            _check_documents(turn["content"])
        return made, system

    def _blocks(self, message: Message, where: str) -> list[dict[str, Any]]:
        if isinstance(message.content, str):
            return [{"text": message.content}] if message.content.strip() else []
        assistant = message.role == "assistant"
        return [
            block
            for number, part in enumerate(message.content)
            # Assistants speak and call: what another model drew does not come back.
            if not (assistant and isinstance(part, Image | Document))
            and (block := self._block(part, f"{where}[{number}]")) is not None
        ]

    def _block(self, part: Part | CachePoint, where: str) -> dict[str, Any] | None:
        match part:
            case Text():
                return {"text": part.text} if part.text.strip() else None
            case Image():
                return {"image": _media(part, _IMAGES, where)}
            case Document():
                about = _media(part, _DOCUMENTS, where)
                return {"document": {"format": about["format"], "name": self._name(part.name),
                                     "source": about["source"]}}  # fmt: skip
            case ToolCall():
                use = {"toolUseId": _id(part.id), "name": part.name, "input": part.input}
                return {"toolUse": use}
            case ToolResult():
                result: dict[str, Any] = {
                    "toolUseId": _id(part.id),
                    "content": self._result(part, where),
                }
                if part.error:
                    result["status"] = "error"
                return {"toolResult": result}
            case Reasoning():
                return _thought(part) if part.made_by("aws", self._family) else None
            case NativePart():
                return part.data if part.made_by("aws", self._family) else None
            case CachePoint():
                return {"cachePoint": {"type": "default"}}

    def _name(self, given: str) -> str:
        """A document's name: ASCII letters, digits, single spaces, hyphens, parentheses and
        brackets, at most 200 (DocumentBlock$name, API reference, read 2026-11), and once in a
        request ("Messages can't contain duplicate document names")."""
        name = re.sub(r"\s+", " ", _NOT_NAME.sub("-", given)).strip()[:190]
        if not re.search(r"[a-zA-Z0-9]", name):
            name = "document"
        found, number = name, 1
        while found.lower() in self._names:
            number += 1
            found = f"{name}-{number}"
        self._names.add(found.lower())
        return found

    def _result(self, part: ToolResult, where: str) -> list[dict[str, Any]]:
        if part.images and not families.sees_results(self._model):
            raise UnsupportedByProvider(
                f"an image in a tool's result for {self._model}",
                provider="aws",
                alternative="Put it into a user's message after the results, or ask Claude or Nova",
                field=where,
            )
        parts = part.parts
        if parts is not None:
            blocks = [self._block(one, where) for one in parts]
            return [block for block in blocks if block is not None] or [{"text": _EMPTY}]
        # The document type of json holds objects; everything else travels as text.
        if isinstance(part.content, dict):
            return [{"json": part.content}]
        return [{"text": part.text if part.text.strip() else _EMPTY}]


def _thought(part: Reasoning) -> dict[str, Any] | None:
    if part.redacted is not None:
        return {"reasoningContent": {"redactedContent": part.redacted}}
    if not part.text and part.signature is None:
        return None
    text: dict[str, Any] = {"text": part.text}
    if part.signature is not None:
        text["signature"] = part.signature
    return {"reasoningContent": {"reasoningText": text}}


def _id(id: str) -> str:
    """A call's id in the letters that Converse takes (ToolUseBlock$toolUseId); other vendors'
    calls may have others."""
    return _NOT_ID.sub("_", id)[:64] or "call"


def _check_documents(blocks: list[dict[str, Any]]) -> None:
    documents = [block for block in blocks if "document" in block]
    if documents and not any("text" in block for block in blocks):
        raise invalid(
            "messages",
            documents[0]["document"]["name"],
            "is a document without a text beside it, which Bedrock refuses",
            "Add a Text to the message that says what to do with it.",
        )


def _media(part: Image | Document, formats: dict[str, str], where: str) -> dict[str, Any]:
    kind = formats.get(part.media_type)
    if kind is None:
        raise invalid(
            f"{where}.media_type",
            part.media_type,
            "is not one that Bedrock takes",
            f"Use one of {', '.join(formats)}.",
        )
    if part.url is None:
        data = base64.b64encode(part.data or b"").decode()
        return {"format": kind, "source": {"bytes": data}}
    if not part.url.startswith("s3://"):
        raise UnsupportedByProvider(
            f"{where}: a URL that is not s3://",
            provider="aws",
            alternative="Fetch it and pass its bytes as data, or put it into S3.",
        )
    return {"format": kind, "source": {"s3Location": {"uri": part.url}}}
