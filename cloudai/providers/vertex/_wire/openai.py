"""Chat in OpenAI's format, as deployed endpoints (vLLM, TGI, our own server) speak it."""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError
from cloudai.providers.vertex._errors import PROVIDER
from cloudai.providers.vertex._wire._merge import merge
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    Document,
    FinishReason,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from cloudai.types._base import invalid

_FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def encode(request: ChatRequest, model: str, *, stream: bool) -> dict[str, Any]:
    """The body of ``chat/completions``."""
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(request.messages):
        messages.extend(_messages(message, f"messages[{index}]"))
    body: dict[str, Any] = {"model": model, "messages": messages}
    for name, value in (
        ("temperature", request.temperature),
        ("top_p", request.top_p),
        ("seed", request.seed),
        ("max_tokens", request.max_tokens),
        ("reasoning_effort", request.reasoning),
    ):
        if value is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                },
            }
            for tool in request.tools
        ]
    choice = request.tool_choice
    if choice is not None:
        plain = choice in {"auto", "none", "required"}
        body["tool_choice"] = (
            choice if plain else {"type": "function", "function": {"name": choice}}
        )
    schema = request.response_schema
    if schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": schema.name, "schema": schema.schema, "strict": schema.strict},
        }
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return merge(body, request.native) if request.native else body


def _messages(message: Message, where: str) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results = [part for part in message.content if isinstance(part, ToolResult)]
    if results:
        return [
            {
                "role": "tool",
                "tool_call_id": part.id,
                "content": part.content
                if isinstance(part.content, str)
                else msgspec.json.encode(part.content).decode(),
            }
            for part in results
        ]
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, Image):
            url = part.url
            if part.data is not None:
                url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        elif isinstance(part, ToolCall):
            calls.append(
                {
                    "id": part.id,
                    "type": "function",
                    "function": {"name": part.name, "arguments": part.arguments},
                }
            )
        elif isinstance(part, Document):
            raise invalid(
                f"{where}.content",
                part.name,
                "is a document, which this format does not carry",
                "Ask a Gemini model, or send its text.",
            )
    one: dict[str, Any] = {"role": message.role, "content": content or None}
    if message.role == "assistant" and all(part["type"] == "text" for part in content):
        one["content"] = "".join(part["text"] for part in content) or None
    if calls:
        one["tool_calls"] = calls
    return [one]


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function
    index: int = 0
    id: str | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    message: _Said = msgspec.field(default_factory=_Said)
    delta: _Said = msgspec.field(default_factory=_Said)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    model: str | None = None
    id: str | None = None


_decoder = msgspec.json.Decoder(_Answer)


def _decode(data: bytes) -> _Answer:
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ProviderError(f"the answer cannot be read: {error}", provider=PROVIDER) from None


def _usage(found: _Usage) -> Usage:
    given, made = found.prompt_tokens_details, found.completion_tokens_details
    return Usage(
        input_tokens=found.prompt_tokens,
        output_tokens=found.completion_tokens,
        cached_input_tokens=(given.cached_tokens or 0) if given else 0,
        reasoning_tokens=(made.reasoning_tokens or 0) if made else 0,
    )


def _finish(reason: str, called: bool) -> FinishReason:
    found = _FINISH.get(reason, "error")
    return "tool_calls" if called and found == "stop" else found


def decode(data: bytes, model: str, request_id: str | None) -> ChatReply:
    """The neutral reply to a chat completion."""
    answer = _decode(data)
    choice = answer.choices[0] if answer.choices else _Choice()
    said = choice.message
    calls = tuple(
        ToolCall(
            call.id or f"call_{answer.id or 0}_{index}",
            call.function.name or "",
            call.function.arguments or "",
        )
        for index, call in enumerate(said.tool_calls or ())
    )
    return ChatReply(
        text=said.content or said.refusal or "",
        finish_reason=_finish(choice.finish_reason or "", bool(calls)),
        usage=_usage(answer.usage) if answer.usage else Usage(),
        model=answer.model or model,
        provider=PROVIDER,
        tool_calls=calls,
        reasoning=(Reasoning(said.reasoning_content),) if said.reasoning_content else (),
        id=answer.id,
        request_id=request_id,
        body=data,
    )


class Pieces:
    """Turns the events of one stream into chunks."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._called = False

    def chunk(self, data: bytes) -> ChatChunk | None:
        """One piece; None for the ``[DONE]`` at the end, which says nothing more."""
        if data == b"[DONE]":
            return None
        answer = _decode(data)
        choice = answer.choices[0] if answer.choices else _Choice()
        said = choice.delta
        self._called = self._called or bool(said.tool_calls)
        reason = choice.finish_reason
        return ChatChunk(
            text=said.content or said.refusal or "",
            reasoning=said.reasoning_content or "",
            tool_calls=tuple(
                ToolCallDelta(
                    index=call.index,
                    id=call.id,
                    name=call.function.name,
                    arguments=call.function.arguments or "",
                )
                for call in said.tool_calls or ()
            ),
            finish_reason=_finish(reason, self._called) if reason else None,
            usage=_usage(answer.usage) if answer.usage else None,
            model=answer.model or self._model,
            id=answer.id,
            request_id=answer.id,
        )
