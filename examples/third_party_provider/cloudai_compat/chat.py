"""Chat by ``POST /chat/completions``."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from cloudai import Profile
from cloudai.errors import ProviderError, UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.types import (
    CachePoint,
    ChatChunk,
    ChatReply,
    ChatRequest,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from cloudai_compat._http import PROVIDER, asked, passing

_ENDS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class CompatChat:
    """The adapter: called with a profile, it implements ``cloudai.protocols.Chat``."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        with asked(self._profile, "/chat/completions", encode(request), call) as response:
            with passing():
                body = response.read()
            return decode(body, response.getheader("x-request-id"))

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        body = {**encode(request), "stream": True, "stream_options": {"include_usage": True}}
        with asked(self._profile, "/chat/completions", body, call) as response:
            while True:
                with passing():
                    line = response.readline()
                if not line:
                    return  # the client tells whether it ended well
                if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                    yield chunk(json.loads(data))


def encode(request: ChatRequest) -> dict[str, Any]:
    """The request in OpenAI's words."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [one for message in request.messages for one in _messages(message)],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "reasoning_effort": request.reasoning,
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    **({"strict": True} if tool.strict else {}),
                },
            }
            for tool in request.tools
        ]
        choice = request.tool_choice
        if choice in {None, "auto", "none", "required"}:
            body["tool_choice"] = choice
        else:
            body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if request.response_schema is not None:
        wanted = request.response_schema
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict},
        }
    return {name: value for name, value in body.items() if value is not None} | request.native


def _messages(message: Message) -> Iterator[dict[str, Any]]:
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, Text):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, Image):
            kind, data = part.media_type, base64.b64encode(part.data or b"").decode()
            url = part.url or f"data:{kind};base64,{data}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif isinstance(part, ToolCall):
            function = {"name": part.name, "arguments": part.arguments}
            calls.append({"id": part.id, "type": "function", "function": function})
        elif isinstance(part, ToolResult):
            said = part.content if isinstance(part.content, str) else json.dumps(part.content)
            yield {"role": "tool", "tool_call_id": part.id, "content": said}
        elif not isinstance(part, (CachePoint, Reasoning)):
            raise UnsupportedByProvider(
                "a document",
                provider=PROVIDER,
                alternative="Put its text into the message",
                field="messages",
            )
    if parts or calls:
        made: dict[str, Any] = {"role": message.role, "content": parts or None}
        yield {**made, "tool_calls": calls} if calls else made


def decode(body: bytes, request_id: str | None) -> ChatReply:
    """The reply that an answer's body says. Raises ProviderError."""
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        message = choice["message"]
    except (ValueError, LookupError, TypeError) as error:
        raise ProviderError("the answer is no completion", provider=PROVIDER) from error
    return ChatReply(
        text=message.get("content") or "",
        finish_reason=_ENDS.get(choice.get("finish_reason"), "stop"),  # type: ignore[arg-type]
        usage=_usage(data.get("usage")) or Usage(),
        model=data.get("model", ""),
        provider=PROVIDER,
        tool_calls=tuple(
            ToolCall(one["id"], one["function"]["name"], one["function"]["arguments"])
            for one in message.get("tool_calls") or ()
        ),
        id=data.get("id"),
        request_id=request_id,
        body=body,
    )


def chunk(data: dict[str, Any]) -> ChatChunk:
    """One event of a stream."""
    choice = next(iter(data.get("choices") or ()), {})
    delta = choice.get("delta") or {}
    end = choice.get("finish_reason")
    return ChatChunk(
        text=delta.get("content") or "",
        tool_calls=tuple(
            ToolCallDelta(
                index=one["index"],
                id=one.get("id"),
                name=one["function"].get("name"),
                arguments=one["function"].get("arguments") or "",
            )
            for one in delta.get("tool_calls") or ()
        ),
        finish_reason=_ENDS.get(end, "stop") if end else None,  # type: ignore[arg-type]
        usage=_usage(data.get("usage")),
    )


def _usage(told: dict[str, Any] | None) -> Usage | None:
    if not told:
        return None
    return Usage(
        input_tokens=told.get("prompt_tokens", 0), output_tokens=told.get("completion_tokens", 0)
    )
