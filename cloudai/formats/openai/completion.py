"""The server's side of chat completions: requests into ``ChatRequest``, answers into OpenAI's
bodies and the events of its streams."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any, Final, Literal

import msgspec

from cloudai.formats.openai.messages import message
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    ResponseSchema,
    Tool,
    Usage,
)
from cloudai.types._base import invalid, wrong_field


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
    """OpenAI's CreateChatCompletionRequest (its description of 2026-11)."""

    model: str
    messages: list[dict[str, Any]]
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _NamedTool | None = None
    response_format: _Format | None = None
    reasoning_effort: Any = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    # They change an answer, and have no neutral word: who reads the request says which it takes.
    n: int | None = None
    logprobs: bool | None = None
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

    @property
    def usage(self) -> bool:
        """Whether a stream ends with what was spent."""
        return self.stream_options is not None and self.stream_options.include_usage

    def request(self, model: str, *, urls: bool = False, native: dict[str, Any]) -> ChatRequest:
        """The neutral request that it says. Raises InvalidRequest.

        Parameters
        ----------
        model: what answers. urls: whether images may lie elsewhere. native: of the request made.
        """
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        for name in ("max_tokens", "max_completion_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise invalid(name, value, "is below 1")
        choice = self.tool_choice
        return ChatRequest(
            model=model,
            messages=tuple(
                [message(one, f"messages[{at}]", urls=urls) for at, one in enumerate(self.messages)]
            ),
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=most,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            tools=tuple([_tool(tool.function) for tool in self.tools or ()]),
            tool_choice=choice.function.name if isinstance(choice, _NamedTool) else choice,
            response_schema=_schema(self.response_format),
            reasoning=self.reasoning_effort,
            native=native,
        )


def read(data: bytes) -> Completion:
    """OpenAI's body. Raises InvalidRequest, with the field that is wrong."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown is not None:
            raise invalid(
                unknown[1], None, "is no parameter that is known", "Leave it out."
            ) from None
        raise invalid(wrong_field(error) or "body", None, f"cannot be read: {error}") from None


_decode: Final = msgspec.json.Decoder(Completion).decode
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`$")


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
    said: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        said["content"] = reply.text or None
        said["tool_calls"] = [_call(one.id, one.name, one.arguments) for one in reply.tool_calls]
    if reply.reasoning:
        # DeepSeek's word for it, which SGLang and llama-server write too.
        said["reasoning_content"] = "".join([one.text for one in reply.reasoning])
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": reply.finish_reason}
    return {
        **head("chat.completion", model),
        "choices": [choice],
        "usage": usage(reply.usage),
    }


def head(kind: str, model: str) -> dict[str, Any]:
    """What an answer begins with, and each event of a stream: ``chat.completion.chunk``."""
    id = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}


def usage(spent: Usage) -> dict[str, Any]:
    """What was spent."""
    told: dict[str, Any] = {
        "prompt_tokens": spent.input_tokens,
        "completion_tokens": spent.output_tokens,
        "total_tokens": spent.total_tokens,
    }
    if spent.reasoning_tokens:
        told["completion_tokens_details"] = {"reasoning_tokens": spent.reasoning_tokens}
    return told


def delta(chunk: ChatChunk) -> dict[str, Any]:
    """What a chunk adds to the message."""
    made: dict[str, Any] = {}
    if chunk.text:
        made["content"] = chunk.text
    if chunk.reasoning:
        made["reasoning_content"] = chunk.reasoning
    if chunk.tool_calls:
        made["tool_calls"] = [
            {"index": piece.index, **_call(piece.id, piece.name, piece.arguments)}
            if piece.name is not None
            else {"index": piece.index, "function": {"arguments": piece.arguments}}
            for piece in chunk.tool_calls
        ]
    return made


def _call(id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def choices(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
    """The ``choices`` of a stream's event."""
    return [{"index": 0, "delta": delta, "finish_reason": finish}]


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
