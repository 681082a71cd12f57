"""Requests: ``ChatRequest`` into the body of ``chat/completions``."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import UnsupportedByProvider
from cloudai.formats.native import merge
from cloudai.formats.schemas import rewrite
from cloudai.formats.schemas.dialects import OPENAI_STRICT, PLAIN
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

_NOT_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """Where the services of this format differ in what they take.

    Parameters
    ----------
    provider: for errors.
    limit: the field of ``max_tokens``.
    usage: whether ``stream_options`` is known.
    documents: whether a message may hold files.
    image_urls: the schemes of URLs that images may lie at; empty for any.
    templated: whether turns pass through a chat template, as model servers have it: texts
        alone are one string, and neighbours of one role are one turn, since some templates
        (Gemma's, Mistral's) want the roles in turn.
    strict: whether the mark means OpenAI's own strict mode, which refuses what it cannot say;
        model servers take any schema under it.
    """

    provider: str
    limit: str = "max_tokens"
    usage: bool = True
    documents: bool = False
    image_urls: tuple[str, ...] = ()
    templated: bool = True
    strict: bool = False


def body(request: ChatRequest, model: str, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
    """The request's body, ``request.native`` in it.

    Raises InvalidRequest, and UnsupportedByProvider for parts that the service does not take.
    """
    made: dict[str, Any] = {"model": model, "messages": _messages(request.messages, dialect)}
    for name in ("temperature", "top_p", "seed"):
        value = getattr(request, name)
        if value is not None:
            made[name] = value
    if request.max_tokens is not None:
        made[dialect.limit] = request.max_tokens
    if request.stop:
        made["stop"] = list(request.stop)
    if request.tools:
        made["tools"] = [tool(one, dialect) for one in request.tools]
    if request.tool_choice is not None and (request.tools or "tools" in request.native):
        # Without tools it is refused: "'tool_choice' is only allowed when 'tools' are specified".
        made["tool_choice"] = _choice(request.tool_choice)
    schema = request.response_schema
    if schema is not None:
        held, strict = _held(schema.schema, schema.strict, dialect, "response_schema")
        about = {"name": _NOT_NAME.sub("_", schema.name)[:64], "schema": held, "strict": strict}
        made["response_format"] = {"type": "json_schema", "json_schema": about}
    if request.reasoning is not None:
        made["reasoning_effort"] = request.reasoning
    if stream:
        made["stream"] = True
        if dialect.usage:
            made["stream_options"] = {"include_usage": True}
    if request.native:
        if stream and request.native.get("n", 1) != 1:
            raise invalid(
                "native.n",
                request.native["n"],
                "is more than one answer, which a stream would mix",
                "Stream one answer, or use create, whose reply.raw has all.",
            )
        merge(made, request.native)
    return made


def tool(one: Tool, dialect: Dialect) -> dict[str, Any]:
    """A tool as the format has it."""
    function: dict[str, Any] = {"name": one.name}
    if one.description:
        function["description"] = one.description
    field = f"tools[{one.name}].parameters"
    function["parameters"], strict = _held(one.parameters, one.strict, dialect, field)
    if strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _held(
    schema: dict[str, Any], strict: bool, dialect: Dialect, field: str
) -> tuple[dict[str, Any], bool]:
    """The schema as the service takes it, and whether it can be held to. What OpenAI's strict
    mode cannot say goes without the mark: the model is then guided by it, and the client checks
    the answer."""
    if strict and dialect.strict:
        fitted = rewrite.fit(schema, OPENAI_STRICT, field)
        if fitted.loss is None:
            return fitted.schema, True
        strict = False
    return rewrite.fit(schema, PLAIN, field).schema, strict


def _choice(choice: str) -> Any:
    if choice in {"auto", "none", "required"}:
        return choice
    return {"type": "function", "function": {"name": choice}}


def _messages(messages: tuple[Message, ...], dialect: Dialect) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        for turn in _turns(message, f"messages[{index}].content", dialect):
            if dialect.templated and turns and _joins(turns[-1], turn):
                turns[-1]["content"] = _joined(turns[-1]["content"], turn["content"])
            else:
                turns.append(turn)
    return turns


def _joins(before: dict[str, Any], turn: dict[str, Any]) -> bool:
    """Whether both are one speaker's, and hold nothing but content."""
    return before.keys() == turn.keys() == {"role", "content"} and before["role"] == turn["role"]


def _joined(one: Any, two: Any) -> Any:
    if isinstance(one, str) and isinstance(two, str):
        return "\n\n".join(text for text in (one, two) if text)
    return [*_listed(one), *_listed(two)]


def _listed(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content  # pyright: ignore[reportUnknownVariableType]
    return [{"type": "text", "text": content}] if content else []


def _turns(message: Message, where: str, dialect: Dialect) -> Iterator[dict[str, Any]]:
    """The turns of a message: its tool results, each a turn of its own, then the rest."""
    parts = message.content
    if isinstance(parts, str):
        if parts or message.role != "assistant":
            yield _named({"role": message.role, "content": parts}, message)
        return
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        match part:
            case Text():
                if part.text:
                    content.append({"type": "text", "text": part.text})
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": part.id, "type": "function", "function": function})
            case ToolResult():
                if message.role != "tool":
                    raise invalid(
                        f"{where}[{number}]",
                        part,
                        f"does not belong into a message of role {message.role}",
                        'Give results as Message("tool", …).',
                    )
                yield _result(part, f"{where}[{number}]", dialect)
            case Image():
                content.append(_image(part, f"{where}[{number}]", dialect))
            case Document():
                content.append(_document(part, dialect))
            case _:  # reasoning and parts of other vendors; cache points: it caches by itself
                continue
    role = "user" if message.role == "tool" else message.role
    turn: dict[str, Any] = {"role": role}
    if role != "user" or (dialect.templated and all("text" in one for one in content)):
        # Assistants and systems speak text alone; beside calls there may be none of it.
        content_text = "".join([one["text"] for one in content if "text" in one])
        if content_text or (role != "assistant" and message.role != "tool"):
            turn["content"] = content_text
        elif calls and dialect.templated:
            turn["content"] = ""  # templates read it without looking whether it is there
    elif content:
        turn["content"] = content
    elif message.role == "user":
        turn["content"] = ""
    if calls:
        turn["tool_calls"] = calls
    if len(turn) > 1:  # a turn that says nothing is left out
        yield _named(turn, message)


def _named(turn: dict[str, Any], message: Message) -> dict[str, Any]:
    if message.name:
        turn["name"] = message.name
    return turn


def _result(part: ToolResult, where: str, dialect: Dialect) -> dict[str, Any]:
    if part.images:
        raise UnsupportedByProvider(
            "an image in a tool's result",
            provider=dialect.provider,
            alternative="Put it into a user's message after the results",
            field=where,
        )
    return {"role": "tool", "tool_call_id": part.id, "content": part.told}


def _image(part: Image, where: str, dialect: Dialect) -> dict[str, Any]:
    url = part.url
    if url is None:
        url = f"data:{part.media_type};base64,{base64.b64encode(part.data or b'').decode()}"
    elif dialect.image_urls and not url.startswith(dialect.image_urls):
        raise UnsupportedByProvider(
            f"an image at {url.partition(':')[0]}:// ({where})",
            provider=dialect.provider,
            alternative=f"Give it as {dialect.image_urls[0]} or inline: "
            "Image(data=…, media_type=…)",
        )
    about = {"url": url}
    if part.detail is not None:
        about["detail"] = part.detail
    return {"type": "image_url", "image_url": about}


def _document(part: Document, dialect: Dialect) -> dict[str, Any]:
    if not dialect.documents:
        raise UnsupportedByProvider(
            "a document for a model server that speaks OpenAI's format",
            provider=dialect.provider,
            alternative="Pass its text, or ask one of the provider's own models",
        )
    if part.data is None:
        raise UnsupportedByProvider(
            "a document by URL",
            provider=dialect.provider,
            alternative="Give it inline: Document(data=…, media_type=…)",
        )
    data = base64.b64encode(part.data).decode()
    name = part.name if "." in part.name else f"{part.name}.{part.media_type.rpartition('/')[2]}"
    file = {"filename": name, "file_data": f"data:{part.media_type};base64,{data}"}
    return {"type": "file", "file": file}
