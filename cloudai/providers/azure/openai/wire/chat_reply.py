"""Chat completions: answers and the chunks of a stream into ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cloudai.errors import CloudAIError, ProviderError
from cloudai.providers.azure.catalog import chat_cost
from cloudai.providers.azure.errors import made, request_id
from cloudai.types import (
    ChatChunk,
    ChatReply,
    FinishReason,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    Usage,
)

_FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


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
