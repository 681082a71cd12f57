"""Chat models behind OpenAI's chat completions: the request decoded, the answer encoded, the
work done by the local provider's own chat."""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from cloudai._core.state.home import default_home
from cloudai.errors import CallTimeout, CloudAIError
from cloudai.protocols import Call
from cloudai.server.engines import Options, decode_inputs, decode_params, failure
from cloudai.server.wire import Item, Result
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


class Completion(msgspec.Struct):
    """The fields of OpenAI's CreateChatCompletionRequest that mean something here (its
    description of 2026-11)."""

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


_decoder = msgspec.json.Decoder(Completion)
_encode = msgspec.json.encode

_PREDICT_PARAMS: Final = ("temperature", "top_p", "seed", "max_tokens", "stop")


class ChatEngine:
    """A chat model. Requests are answered one after the other; each worker holds one model."""

    def __init__(self, folder: Path, options: Options) -> None:
        from cloudai.engine.chat import ChatModels

        self._chat = ChatModels(home=default_home(), device=options.device)
        self._folder = str(folder)
        self._native = {} if options.dtype == "auto" else {"dtype": options.dtype}

    def info(self) -> dict[str, Any]:
        return {"engine": "chat", "output_schema": {"type": "string"}}

    def warm(self) -> None:
        request = ChatRequest(
            model=self._folder,
            messages=(Message("user", "Hello"),),
            max_tokens=1,
            native=dict(self._native),
        )
        self._chat.create(request, Call())

    def run(self, items: Sequence[Item]) -> list[Result]:
        return [self._one(item) for item in items]

    def stream(self, item: Item, emit: Callable[[bytes], bool]) -> Result:
        """Sends OpenAI's chunks; ends early when ``emit`` says that nobody reads any more."""
        try:
            asked = decode_completion(item.inputs)
            request = self._request(asked)
            head: dict[str, Any] = {
                "id": f"chatcmpl-{uuid.uuid4().hex}",
                "object": "chat.completion.chunk",
                "created": int(time.time()),
                "model": asked.model,
            }
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            tokens = (0, 0)
            first = True
            for chunk in self._chat.stream(request, Call()):
                delta = _delta(chunk)
                if first:
                    delta = {"role": "assistant", **delta}
                    first = False
                choice = {"index": 0, "delta": delta, "finish_reason": chunk.finish_reason}
                if not emit(_event({**head, "choices": [choice]})):
                    return Result(499, error="the client left", error_type="Cancelled")
                if chunk.usage is not None:
                    tokens = (chunk.usage.input_tokens, chunk.usage.output_tokens)
            if usage:
                emit(_event({**head, "choices": [], "usage": _usage(*tokens)}))
        except CloudAIError as error:
            return _failed(error)
        return Result(tokens=tokens[0], generated=tokens[1])

    def _one(self, item: Item) -> Result:
        try:
            if item.kind != "chat":
                return self._predict(item)
            asked = decode_completion(item.inputs)
            reply = self._chat.create(self._request(asked), Call())
        except CloudAIError as error:
            return _failed(error)
        return Result(
            body=_encode(completion(asked.model, reply)),
            tokens=reply.usage.input_tokens,
            generated=reply.usage.output_tokens,
        )

    def _predict(self, item: Item) -> Result:
        """Plain inputs, a text or an object with ``messages`` each: a text each."""
        params = decode_params(item.params)
        for name in params:
            if name not in _PREDICT_PARAMS:
                raise invalid(
                    f"params.{name}", params[name], f"is not one of {', '.join(_PREDICT_PARAMS)}"
                )
        result = Result()
        for at, value in enumerate(decode_inputs(item)):
            if isinstance(value, str):
                value = {"messages": [{"role": "user", "content": value}]}
            if not isinstance(value, dict) or "messages" not in value:
                raise invalid(f"inputs[{at}]", value, "is neither a text nor has messages")
            asked = decode_completion(
                _encode({"model": "", **params, "messages": value["messages"]})
            )
            reply = self._chat.create(self._request(asked), Call())
            result.outputs.append(_encode(reply.text))
            result.tokens += reply.usage.input_tokens
            result.generated += reply.usage.output_tokens
        return result

    def _request(self, asked: Completion) -> ChatRequest:
        return request_of(asked, self._folder, dict(self._native))


def request_of(asked: Completion, model: str, native: dict[str, Any]) -> ChatRequest:
    """The neutral request that OpenAI's body says. Raises InvalidRequest."""
    if asked.n not in (None, 1):
        raise invalid("n", asked.n, "is not 1", "Send one request for each answer.")
    if asked.logprobs:
        raise invalid("logprobs", True, "is not supported")
    choice = asked.tool_choice
    return ChatRequest(
        model=model,
        messages=tuple(_message(message, at) for at, message in enumerate(asked.messages)),
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        tools=tuple(_tool(tool.function) for tool in asked.tools or ()),
        tool_choice=choice.function.name if isinstance(choice, _NamedTool) else choice,
        response_schema=_schema(asked.response_format),
        native=native,
    )


def decode_completion(data: bytes) -> Completion:
    """OpenAI's body. Raises InvalidRequest."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("body", None, f"cannot be read: {error}") from None


def _failed(error: CloudAIError) -> Result:
    if isinstance(error, CallTimeout):
        return Result(504, error=str(error), error_type=type(error).__name__)
    return failure(error)


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
        "usage": _usage(reply.usage.input_tokens, reply.usage.output_tokens),
    }


def _delta(chunk: ChatChunk) -> dict[str, Any]:
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


def _usage(given: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _event(value: Any) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"
