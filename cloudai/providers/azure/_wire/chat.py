"""Chat completions: ``ChatRequest`` into the request's JSON, answers and chunks back."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cloudai.errors import CloudAIError, ProviderError, UnsupportedByProvider
from cloudai.providers.azure._catalog import chat_cost
from cloudai.providers.azure._errors import made, request_id
from cloudai.types import (
    CachePoint,
    ChatChunk,
    ChatReply,
    ChatRequest,
    Document,
    FinishReason,
    Image,
    Message,
    Reasoning,
    ResponseSchema,
    Text,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from cloudai.types._base import invalid

MAX_STOPS: Final = 4
"""Stop sequences (CreateChatCompletionRequest.stop.maxItems, spec read 2026-11)."""
MAX_TOOLS: Final = 128
"""Tools (Azure OpenAI quotas and limits, read 2025-08)."""
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_NOT_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")

_encode: Final = msgspec.json.Encoder().encode

_FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


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


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None


class _Reasoned(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None
    index: int = 0


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    id: str | None = None
    model: str = ""
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


def decode(content: bytes, headers: Mapping[str, str], asked: str) -> ChatReply:
    """An answer. Raises ProviderError for what is none."""
    try:
        answer = _decode(content)
        choice = answer.choices[0]
        message = choice.message
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as error:
        raise _senseless(error, headers) from None
    if message is None:
        raise _senseless("the answer holds no message", headers)
    calls = tuple(
        ToolCall(
            call.id or "",
            (call.function.name if call.function else None) or "",
            (call.function.arguments if call.function else None) or "",
        )
        for call in message.tool_calls or ()
    )
    usage = _usage(answer.usage)
    reason = _FINISH.get(choice.finish_reason or "stop", "stop")
    text = message.content or ""
    if message.refusal and not text:
        text, reason = message.refusal, "content_filter"
    return ChatReply(
        text=text,
        # With a forced tool the service says "stop".
        finish_reason="tool_calls" if calls and reason == "stop" else reason,
        usage=usage,
        model=answer.model or asked,
        provider="azure",
        tool_calls=calls,
        reasoning=(Reasoning(message.reasoning_content),) if message.reasoning_content else (),
        cost=chat_cost(answer.model, usage),
        id=answer.id,
        request_id=request_id(headers),
        body=content,
    )


def _usage(usage: _Usage | None) -> Usage:
    if usage is None:
        return Usage()
    cached, reasoned = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_input_tokens=(cached.cached_tokens or 0) if cached else 0,
        reasoning_tokens=(reasoned.reasoning_tokens or 0) if reasoned else 0,
    )


def _senseless(why: object, headers: Mapping[str, str]) -> CloudAIError:
    return ProviderError(
        f"the answer is no chat completion ({why})",
        provider="azure",
        request_id=request_id(headers),
        hint="Look whether endpoint is an Azure OpenAI resource and not a proxy's page",
    )


class Chunks:
    """Makes chunks of a stream's events. The finish reason is kept back until ``[DONE]``, so
    that a stream that breaks off in between is never taken for whole."""

    __slots__ = ("_called", "_first", "_headers", "_model", "_reason", "_usage", "done")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._model = ""
        self._called = False
        self._first = True
        self.done = False

    def read(self, payload: bytes) -> ChatChunk | None:
        """The chunk of one event; None where it says nothing. Raises the error that an event
        carries."""
        if payload == b"[DONE]":
            return self._end()
        try:
            answer = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _senseless(error, self._headers) from None
        if answer.error is not None:
            raise made(answer.error, status=None, request_id=request_id(self._headers))
        if answer.usage is not None:
            self._usage = _usage(answer.usage)
        if not answer.choices:
            return None  # Azure's first chunk: results of the content filter on the prompt
        choice = answer.choices[0]
        if choice.finish_reason is not None:
            self._reason = _FINISH.get(choice.finish_reason, "stop")
        delta = choice.delta
        if delta is None:
            return None
        calls = delta.tool_calls
        if delta.content and not calls and not self._first:
            return ChatChunk(text=delta.content)
        if delta.refusal:
            self._reason = "content_filter"
        text = delta.content or delta.refusal or ""
        if not (text or calls or delta.reasoning_content):
            return None
        self._called = self._called or bool(calls)
        first, self._first = self._first, False
        if first:
            self._model = answer.model
        return ChatChunk(
            text=text,
            reasoning=delta.reasoning_content or "",
            tool_calls=tuple(_delta(call) for call in calls) if calls else (),
            model=(answer.model or None) if first else None,
            id=answer.id if first else None,
            request_id=request_id(self._headers) if first else None,
        )

    def _end(self) -> ChatChunk | None:
        self.done = True
        reason = self._reason
        if reason is None:
            return None  # the client tells: the stream ended without its end
        return ChatChunk(
            finish_reason="tool_calls" if self._called and reason == "stop" else reason,
            usage=self._usage,
            cost=chat_cost(self._model, self._usage) if self._usage is not None else None,
            request_id=request_id(self._headers),
        )


def _delta(call: _Call) -> ToolCallDelta:
    function = call.function
    return ToolCallDelta(
        index=call.index,
        id=call.id,
        name=function.name if function else None,
        arguments=(function.arguments if function else None) or "",
    )
