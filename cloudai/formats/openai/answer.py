"""Answers: completions and the chunks of streams into ``ChatReply`` and ``ChatChunk``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from cloudai.errors import CloudAIError, ProviderError
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
    "eos_token": "stop",  # TGI
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None  # TGI wrote an object

    def text(self) -> str:
        """The arguments as JSON text."""
        if isinstance(self.arguments, dict):
            return msgspec.json.encode(self.arguments).decode()
        return self.arguments or ""


class _Call(msgspec.Struct):
    function: _Function = msgspec.field(default_factory=_Function)
    id: str | None = None
    index: int | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    # vLLM writes `reasoning` since its pull request 27752 (2025-10), as Ollama, Groq and
    # OpenRouter do; SGLang, llama-server and DeepSeek write `reasoning_content`.
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | _Call | None = None  # TGI wrote one call without its list

    def calls(self) -> list[_Call]:
        found = self.tool_calls
        return [found] if isinstance(found, _Call) else found or []


class _Choice(msgspec.Struct):
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class TokenUsage(msgspec.Struct):
    """The ``usage`` of an answer."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def neutral(self) -> Usage:
        given, made = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            input_tokens=self.prompt_tokens,
            output_tokens=self.completion_tokens or 0,
            cached_input_tokens=(given.cached_tokens or 0) if given else 0,
            reasoning_tokens=(made.reasoning_tokens or 0) if made else 0,
        )


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: TokenUsage | None = None
    id: str | None = None
    model: str | None = None
    error: dict[str, Any] | str | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode

Failed: TypeAlias = Callable[[dict[str, Any]], CloudAIError]
"""Makes the error that an answer's ``error`` says."""
Cost: TypeAlias = Callable[[str, Usage], "float | None"]
"""US dollars, by the name of the model that answered."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers.

    Parameters
    ----------
    provider: its name. request_id: of the request, from the answer's headers.
    model: the name it was asked by, where the answer tells none.
    failed: how it writes errors into an answer; None: a ProviderError with its words.
    cost: its prices. hint: what is wrong where the answer is none.
    """

    provider: str
    model: str = ""
    request_id: str | None = None
    failed: Failed | None = None
    cost: Cost | None = None
    hint: str = "Its container has to speak OpenAI's format where it is asked"

    def error(self, told: dict[str, Any] | str) -> CloudAIError:
        """The error that came in place of an answer, or in the middle of one."""
        about = {"message": told} if isinstance(told, str) else told
        if self.failed is not None:
            return self.failed(about)
        return ProviderError(
            str(about.get("message") or "the answer is an error"),
            provider=self.provider,
            code=str(about["code"]) if about.get("code") else None,
            request_id=self.request_id,
        )

    def unreadable(self, why: object) -> ProviderError:
        """The error for an answer in another format."""
        return ProviderError(
            f"the answer is no chat completion in the OpenAI format ({why})",
            provider=self.provider,
            request_id=self.request_id,
            hint=self.hint,
        )


def reply(data: bytes, service: Service) -> ChatReply:
    """The answer to a chat request. Raises ProviderError for what is none, and the error that
    stands in it."""
    try:
        answer = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise service.unreadable(error) from None
    if answer.error is not None and not answer.choices:
        raise service.error(answer.error)
    choice = answer.choices[0] if answer.choices else None
    if choice is None or (choice.message is None and choice.finish_reason != "content_filter"):
        # A choice that the filter withheld has no message (Azure).
        raise service.unreadable("it holds no message")
    said = choice.message or _Said()
    calls = tuple(
        ToolCall(call.id or f"call_{index}", call.function.name or "", call.function.text())
        for index, call in enumerate(said.calls())
    )
    text, reason = said.content or "", _finish(choice.finish_reason, bool(calls))
    if said.refusal and not text:
        text, reason = said.refusal, "content_filter"
    thought = said.reasoning_content or said.reasoning
    thoughts = (_thought(thought, service),) if thought else ()
    usage = answer.usage.neutral() if answer.usage else Usage()
    model = answer.model or service.model
    return ChatReply(
        text=text,
        finish_reason=reason,
        usage=usage,
        model=model,
        provider=service.provider,
        tool_calls=calls,
        reasoning=thoughts,
        cost=service.cost(model, usage) if service.cost else None,
        id=answer.id,
        request_id=service.request_id,
        body=data,
    )


def _thought(text: str, service: Service) -> Reasoning:
    return Reasoning(text, provider=service.provider, family=service.model)


def _finish(reason: str | None, called: bool) -> FinishReason:
    found = _FINISH.get(reason or "stop", "error")
    # Some servers say stop after a call that tool_choice forced, OpenAI's own among them.
    return "tool_calls" if called and found == "stop" else found


class Chunks:
    """Makes chunks of one stream's events. The finish reason is kept back until the end, so that
    a stream that breaks off in between is never taken for whole; the usage, which comes after
    it, comes with it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reason: str | None = None
        self._refused = False
        self._usage: Usage | None = None
        self._model = ""
        self._first = True
        self._places: dict[int | None, int] = {}
        self._ids: dict[str, int] = {}
        self._calls = 0
        self.done = False

    def read(self, data: bytes) -> ChatChunk | None:
        """The chunk of one event; None where it says nothing. Raises ProviderError for an event
        that cannot be read, and the error that one carries."""
        if data == b"[DONE]":
            return self.end()
        try:
            answer = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._service.unreadable(error) from None
        if answer.error is not None:
            raise self._service.error(answer.error)
        if answer.usage is not None:
            self._usage = answer.usage.neutral()
        if not answer.choices:
            return None  # the usage, or Azure's first: what its filter found in the prompt
        choice = answer.choices[0]
        if choice.finish_reason is not None:
            self._reason = choice.finish_reason
        delta = choice.delta
        if delta is None:
            return None
        thought = delta.reasoning_content or delta.reasoning or ""
        if delta.content and not (self._first or thought or delta.tool_calls):
            return ChatChunk(text=delta.content)
        self._refused = self._refused or bool(delta.refusal)
        text = delta.content or delta.refusal or ""
        calls = delta.calls()
        if not (text or calls or thought):
            return None
        first, self._first = self._first, False
        if first:
            self._model = answer.model or self._service.model
        return ChatChunk(
            text=text,
            reasoning=thought,
            family=self._service.model if thought else None,
            tool_calls=tuple([self._call(call) for call in calls]),
            model=self._model if first else None,
            id=answer.id if first else None,
            request_id=(self._service.request_id or answer.id) if first else None,
        )

    def end(self) -> ChatChunk | None:
        """The last chunk; None where the finish reason never came, and the client tells that the
        stream ended without its end."""
        if self.done or self._reason is None:
            return None
        self.done = True
        usage, cost = self._usage, self._service.cost
        finish = _finish(self._reason, self._calls > 0)
        return ChatChunk(
            finish_reason="content_filter" if self._refused else finish,
            usage=usage,
            cost=cost(self._model, usage) if cost and usage is not None else None,
            model=(self._service.model or None) if self._first else None,
            request_id=self._service.request_id,
        )

    def _call(self, call: _Call) -> ToolCallDelta:
        """A piece of a call. A new id with a name begins a new call, whatever its index says:
        some servers give all calls the index 0, or none."""
        place = self._ids.get(call.id) if call.id else None
        if place is None:
            place = self._places.get(call.index)
            named = call.function.name is not None
            if place is None or (named and (call.id or call.index is None)):
                place = self._places[call.index] = self._calls
                self._calls += 1
            if call.id:
                self._ids[call.id] = place
        return ToolCallDelta(
            index=place,
            id=call.id,
            name=call.function.name,
            arguments=call.function.text(),
        )
