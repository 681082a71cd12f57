"""OpenAI's chat completions as neutral requests, and replies as OpenAI's bodies."""

from __future__ import annotations

import base64
import binascii
import re
import time
import uuid
from typing import Any, Final, Literal

import msgspec

from cloudai.server.workers.wire import wrong_field
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    Image,
    Message,
    Part,
    ResponseSchema,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from cloudai.types._base import invalid


class _Function(msgspec.Struct):
    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: Literal["function"]
    function: _Function


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: str


class _Called(msgspec.Struct):
    id: str
    function: _CalledFunction
    type: str = "function"


class _ImageUrl(msgspec.Struct):
    url: str


class _ContentPart(msgspec.Struct):
    type: str
    text: str | None = None
    image_url: _ImageUrl | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_ContentPart] | None = None
    name: str | None = None
    tool_calls: list[_Called] | None = None
    tool_call_id: str | None = None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any]
    name: str = "answer"
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _NamedFunction(msgspec.Struct):
    name: str


class _NamedTool(msgspec.Struct):
    function: _NamedFunction
    type: str = "function"


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Completion(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's CreateChatCompletionRequest (its description of 2026-11). What has no meaning here
    is refused where it would change an answer (``_NEUTRAL``), and else passed over."""

    model: str
    messages: list[_Message]
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    logprobs: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _NamedTool | None = None
    response_format: _Format | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    reasoning_effort: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    top_logprobs: Any = None
    functions: Any = None
    function_call: Any = None
    parallel_tool_calls: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    verbosity: Any = None

    # No answer depends on these.
    metadata: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None


_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "reasoning_effort": ("none",),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "functions": ([],),
    "function_call": (),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "verbosity": ("medium",),
}
"""What a model here has no switch for, and the values beside null that ask for nothing."""

_decoder = msgspec.json.Decoder(Completion)
_encode = msgspec.json.encode


def request_of(asked: Completion, model: str, native: dict[str, Any]) -> ChatRequest:
    """The neutral request that OpenAI's body says. Raises InvalidRequest."""
    for name, neutral in _NEUTRAL.items():
        value = getattr(asked, name)
        if value is not None and value not in neutral:
            raise _unsupported(name, value)
    most = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise invalid(name, value, "is below 1")
    choice = asked.tool_choice
    return ChatRequest(
        model=model,
        messages=tuple(_message(message, at) for at, message in enumerate(asked.messages)),
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        max_tokens=most,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        tools=tuple(_tool(tool.function) for tool in asked.tools or ()),
        tool_choice=choice.function.name if isinstance(choice, _NamedTool) else choice,
        response_schema=_schema(asked.response_format),
        native=native,
    )


def decode_completion(data: bytes) -> Completion:
    """OpenAI's body. Raises InvalidRequest, with the field that is wrong."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown is not None:
            raise _unsupported(unknown[1], None, "is no parameter that is known") from None
        raise invalid(wrong_field(error) or "body", None, f"cannot be read: {error}") from None


def _unsupported(field: str, value: Any, why: str = "is not supported by the model here") -> Any:
    return invalid(field, value, why, "Leave it out.")


_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`$")


def _message(message: _Message, at: int) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    if role == "tool":
        if message.tool_call_id is None:
            raise invalid(f"messages[{at}].tool_call_id", None, "is missing")
        text = _text(message, at)
        return Message(role, (ToolResult(id=message.tool_call_id, content=text),))
    parts: list[Part] = []
    if isinstance(message.content, str):
        if not message.tool_calls:
            return Message(role, message.content, message.name)
        parts.append(Text(message.content))
    for number, part in enumerate(message.content or ()):
        if isinstance(part, _ContentPart):
            parts.append(_part(part, f"messages[{at}].content[{number}]"))
    for call in message.tool_calls or ():
        parts.append(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        )
    if not parts:
        raise invalid(f"messages[{at}].content", message.content, "is empty")
    return Message(role, tuple(parts), message.name)


def _text(message: _Message, at: int) -> str:
    if isinstance(message.content, str):
        return message.content
    texts = [part.text for part in message.content or ()]
    if any(text is None for text in texts):
        raise invalid(f"messages[{at}].content", message.content, "holds more than text")
    return "".join(text or "" for text in texts)


def _part(part: _ContentPart, field: str) -> Part:
    if part.type == "text" and part.text is not None:
        return Text(part.text)
    if part.type == "image_url" and part.image_url is not None:
        url = part.image_url.url
        if not url.startswith("data:"):
            # Nothing here ever fetches what a caller names.
            raise invalid(field, url, "is not a data: URL", "Send the image itself.")
        media, _, data = url[5:].partition(";base64,")
        try:
            return Image(base64.b64decode(data, validate=True), media or "image/png")
        except binascii.Error as error:
            raise invalid(field, url[:40], f"is not base64 ({error})") from None
    raise invalid(field, part.type, "is not text or image_url")


def _tool(function: _Function) -> Tool:
    return Tool(
        name=function.name,
        description=function.description,
        parameters=function.parameters,
        strict=bool(function.strict),
    )


def _schema(wanted: _Format | None) -> ResponseSchema | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ResponseSchema(schema={"type": "object"})
    if wanted.json_schema is None:
        raise invalid("response_format.json_schema", None, "is missing")
    return ResponseSchema(schema=wanted.json_schema.schema, name=wanted.json_schema.name)


def completion(model: str, reply: ChatReply) -> dict[str, Any]:
    """An answer as OpenAI's body."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in reply.tool_calls
        ]
    else:
        message["content"] = reply.text
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": reply.finish_reason,
            }
        ],
        "usage": usage_of(reply.usage.input_tokens, reply.usage.output_tokens),
    }


def delta_of(chunk: ChatChunk) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if chunk.text:
        delta["content"] = chunk.text
    if chunk.tool_calls:
        delta["tool_calls"] = [
            {
                "index": piece.index,
                "id": piece.id,
                "type": "function",
                "function": {"name": piece.name, "arguments": piece.arguments},
            }
            for piece in chunk.tool_calls
        ]
    return delta


def usage_of(given: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def event(value: Any) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"
