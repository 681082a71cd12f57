"""The OpenAI format, as containers on SageMaker endpoints speak it (vLLM, LMI, TGI, cloudai)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError, UnsupportedByProvider
from cloudai.providers.aws import _eventstream
from cloudai.providers.aws._wire.converse_reply import problem
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

FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def chat_body(request: ChatRequest, model: str, *, stream: bool) -> dict[str, Any]:
    """The body of a chat request."""
    made: dict[str, Any] = {"model": model}
    made["messages"] = [turn for message in request.messages for turn in _turns(message)]
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
    made.update(request.native)
    return made


def _turns(message: Message) -> Iterator[dict[str, Any]]:
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
                    "a document for a SageMaker endpoint",
                    provider="aws",
                    alternative="Pass its text, or ask a model of Bedrock",
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


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Cached(msgspec.Struct):
    cached_tokens: int | None = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Cached | None = None


class _Problem(msgspec.Struct):
    message: str = ""


class _Reply(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    id: str | None = None
    model: str | None = None
    error: _Problem | str | None = None


_reply: Final = msgspec.json.Decoder(_Reply).decode


def _usage(found: _Usage | None) -> Usage:
    if found is None:
        return Usage()
    cached = found.prompt_tokens_details
    return Usage(
        input_tokens=found.prompt_tokens,
        output_tokens=found.completion_tokens or 0,
        cached_input_tokens=(cached.cached_tokens or 0) if cached else 0,
    )


def chat_reply(body: bytes, model: str, request_id: str | None) -> ChatReply:
    """The answer to a chat request."""
    try:
        found = _reply(body)
        choice = found.choices[0]
        message = choice.message or _Message()
    except (msgspec.DecodeError, IndexError) as error:
        raise _unreadable(error, request_id) from None
    calls = tuple(
        ToolCall(
            call.id or f"call_{index}", call.function.name or "", call.function.arguments or ""
        )
        for index, call in enumerate(message.tool_calls or ())
    )
    thought = message.reasoning_content
    return ChatReply(
        text=message.content or "",
        finish_reason=_finish(choice.finish_reason, bool(calls)),
        usage=_usage(found.usage),
        model=found.model or model,
        provider="aws",
        tool_calls=calls,
        reasoning=(Reasoning(thought),) if thought else (),
        id=found.id,
        request_id=request_id,
        body=body,
    )


def _finish(reason: str | None, calls: bool) -> FinishReason:
    found = FINISH.get(reason or "", "error")
    # Some servers say stop after a call that tool_choice forced.
    return "tool_calls" if calls and found == "stop" else found


def _unreadable(error: Exception, request_id: str | None) -> ProviderError:
    return ProviderError(
        f"the endpoint's answer is not in the OpenAI format ({error})",
        provider="aws",
        request_id=request_id,
        hint="Its container has to speak OpenAI's chat format on /invocations",
    )


def payload(source: Iterable[bytes], request_id: str | None) -> Iterator[bytes]:
    """What the container wrote, out of InvokeEndpointWithResponseStream's messages."""
    for headers, data in _eventstream.messages(source, whole=True):
        if headers.get(b":event-type") == b"PayloadPart":
            yield data
        elif headers.get(b":message-type") == b"exception":
            raise problem(headers, data, request_id)


def chat_chunks(source: Iterable[bytes], model: str, request_id: str | None) -> Iterator[ChatChunk]:
    """The pieces of a streamed answer: server-sent events inside the event stream."""
    called = False
    for data in _events(payload(source, request_id)):
        if data == b"[DONE]":
            return
        try:
            found = _reply(data)
        except msgspec.DecodeError as error:
            raise _unreadable(error, request_id) from None
        if found.error is not None:
            text = found.error if isinstance(found.error, str) else found.error.message
            raise ProviderError(text, provider="aws", request_id=request_id)
        usage = _usage(found.usage) if found.usage is not None else None
        if not found.choices:
            if usage is not None:
                yield ChatChunk(usage=usage)
            continue
        choice = found.choices[0]
        delta = choice.delta or _Message()
        calls = tuple(
            ToolCallDelta(
                index=number if call.index is None else call.index,
                id=call.id,
                name=call.function.name,
                arguments=call.function.arguments or "",
            )
            for number, call in enumerate(delta.tool_calls or ())
        )
        called = called or bool(calls)
        reason = choice.finish_reason
        yield ChatChunk(
            text=delta.content or "",
            reasoning=delta.reasoning_content or "",
            tool_calls=calls,
            finish_reason=_finish(reason, called) if reason else None,
            usage=usage,
            model=found.model or model,
            id=found.id,
            request_id=request_id,
        )


def _events(source: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events; parts end wherever the network had them end."""
    rest = b""
    for part in source:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = -1


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: _Usage | None = None


_embeddings: Final = msgspec.json.Decoder(_Embeddings | list[list[float]]).decode


def embed_body(texts: tuple[str, ...], model: str, dimensions: int | None) -> dict[str, Any]:
    """The body of an embedding request."""
    made: dict[str, Any] = {"model": model, "input": list(texts)}
    if dimensions is not None:
        made["dimensions"] = dimensions
    return made


def plain_embed_body(texts: tuple[str, ...], model: str, dimensions: int | None) -> dict[str, Any]:
    """The body of an embedding request in TEI's own format."""
    made: dict[str, Any] = {"inputs": list(texts)}
    if dimensions is not None:
        made["dimensions"] = dimensions
    return made


def embed_reply(body: bytes, request_id: str | None) -> tuple[list[list[float]], int]:
    """The vectors in the texts' order, and the tokens; TEI's bare lists too."""
    try:
        found = _embeddings(body)
    except msgspec.DecodeError as error:
        raise _unreadable(error, request_id) from None
    if isinstance(found, list):
        return found, 0
    rows = found.data
    if all(row.index >= 0 for row in rows):
        rows = sorted(rows, key=lambda row: row.index)
    return [row.embedding for row in rows], _usage(found.usage).input_tokens
