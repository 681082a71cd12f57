"""Chat in OpenAI's format, as model servers behind an endpoint speak it (vLLM, TGI, SGLang, our
own). What OpenAI and Azure themselves add to it is their adapters' own affair."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError, UnsupportedByProvider
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

_FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "eos_token": "stop",  # TGI
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def body(request: ChatRequest, model: str, *, stream: bool, provider: str) -> dict[str, Any]:
    """The body of ``chat/completions``, without ``request.native``.

    Raises UnsupportedByProvider for a document, which these servers do not take.
    """
    turns = [turn for message in request.messages for turn in _turns(message, provider)]
    made: dict[str, Any] = {"model": model, "messages": turns}
    for name in ("temperature", "top_p", "seed", "max_tokens"):
        value = getattr(request, name)
        if value is not None:
            made[name] = value
    if request.stop:
        made["stop"] = list(request.stop)
    if request.tools:
        made["tools"] = [
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
    if choice in {"auto", "none", "required"}:
        made["tool_choice"] = choice
    elif choice is not None:
        made["tool_choice"] = {"type": "function", "function": {"name": choice}}
    schema = request.response_schema
    if schema is not None:
        about = {"name": schema.name, "schema": schema.schema, "strict": schema.strict}
        made["response_format"] = {"type": "json_schema", "json_schema": about}
    if request.reasoning is not None:
        made["reasoning_effort"] = request.reasoning
    if stream:
        made["stream"] = True
        made["stream_options"] = {"include_usage": True}
    return made


def _turns(message: Message, provider: str) -> Iterator[dict[str, Any]]:
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in message.content:
        match part:
            case ToolResult():
                text = part.content
                if not isinstance(text, str):
                    text = msgspec.json.encode(text).decode()
                yield {"role": "tool", "tool_call_id": part.id, "content": text}
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": part.id, "type": "function", "function": function})
            case Text():
                content.append({"type": "text", "text": part.text})
            case Image():
                data = base64.b64encode(part.data or b"").decode()
                url = part.url or f"data:{part.media_type};base64,{data}"
                content.append({"type": "image_url", "image_url": {"url": url}})
            case Document():
                raise UnsupportedByProvider(
                    "a document for a model server that speaks OpenAI's format",
                    provider=provider,
                    alternative="Pass its text, or ask one of the provider's own models",
                )
            case _:  # reasoning and cache points mean nothing to these servers
                continue
    if message.role == "tool":
        return
    turn: dict[str, Any] = {"role": message.role}
    only_text = all(part["type"] == "text" for part in content)
    turn["content"] = "".join(part["text"] for part in content) if only_text else content
    if calls:
        turn["tool_calls"] = calls
    yield turn


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None
    index: int | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


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


class _Problem(msgspec.Struct):
    message: str = ""


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: TokenUsage | None = None
    id: str | None = None
    model: str | None = None
    error: _Problem | str | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


def unreadable(error: Exception, provider: str, request_id: str | None) -> ProviderError:
    """The error for an answer in another format."""
    return ProviderError(
        f"the endpoint's answer is not in the OpenAI format ({error})",
        provider=provider,
        request_id=request_id,
        hint="Its container has to speak OpenAI's format where it is asked",
    )


def reply(data: bytes, model: str, *, provider: str, request_id: str | None) -> ChatReply:
    """The answer to a chat request; ``model``: the name it was asked by, where it tells none.
    Raises ProviderError for what is none."""
    try:
        answer = _decode(data)
        choice = answer.choices[0]
    except (msgspec.DecodeError, IndexError) as error:
        raise unreadable(error, provider, request_id) from None
    said = choice.message or _Said()
    calls = tuple(
        ToolCall(
            call.id or f"call_{index}", call.function.name or "", call.function.arguments or ""
        )
        for index, call in enumerate(said.tool_calls or ())
    )
    thought = said.reasoning_content
    return ChatReply(
        text=said.content or said.refusal or "",
        finish_reason=_finish(choice.finish_reason, bool(calls)),
        usage=answer.usage.neutral() if answer.usage else Usage(),
        model=answer.model or model,
        provider=provider,
        tool_calls=calls,
        reasoning=(Reasoning(thought),) if thought else (),
        id=answer.id,
        request_id=request_id,
        body=data,
    )


def _finish(reason: str | None, called: bool) -> FinishReason:
    found = _FINISH.get(reason or "", "error")
    # Some servers say stop after a call that tool_choice forced.
    return "tool_calls" if called and found == "stop" else found


class Pieces:
    """Turns the events of one stream into chunks."""

    def __init__(self, model: str, *, provider: str, request_id: str | None = None) -> None:
        self._model = model
        self._provider = provider
        self._request_id = request_id
        self._called = False

    def chunk(self, data: bytes) -> ChatChunk | None:
        """The chunk of one event; None where it says nothing, as ``[DONE]`` does. Raises
        ProviderError for an event that cannot be read, or carries an error."""
        if data == b"[DONE]":
            return None
        try:
            answer = _decode(data)
        except msgspec.DecodeError as error:
            raise unreadable(error, self._provider, self._request_id) from None
        if answer.error is not None:
            text = answer.error if isinstance(answer.error, str) else answer.error.message
            raise ProviderError(text, provider=self._provider, request_id=self._request_id)
        usage = answer.usage.neutral() if answer.usage is not None else None
        if not answer.choices:
            return None if usage is None else ChatChunk(usage=usage)
        choice = answer.choices[0]
        said = choice.delta or _Said()
        calls = tuple(
            ToolCallDelta(
                index=number if call.index is None else call.index,
                id=call.id,
                name=call.function.name,
                arguments=call.function.arguments or "",
            )
            for number, call in enumerate(said.tool_calls or ())
        )
        self._called = self._called or bool(calls)
        reason = choice.finish_reason
        return ChatChunk(
            text=said.content or said.refusal or "",
            reasoning=said.reasoning_content or "",
            tool_calls=calls,
            finish_reason=_finish(reason, self._called) if reason else None,
            usage=usage,
            model=answer.model or self._model,
            id=answer.id,
            request_id=self._request_id or answer.id,
        )
