"""Bedrock's Converse and ConverseStream: answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError
from cloudai.formats import eventstream
from cloudai.providers.aws import errors
from cloudai.providers.aws.models import TABLE
from cloudai.types import (
    ChatChunk,
    ChatReply,
    FinishReason,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    Usage,
)

FINISH: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
}


class _Usage(msgspec.Struct):
    inputTokens: int = 0
    outputTokens: int = 0
    cacheReadInputTokens: int = 0
    cacheWriteInputTokens: int = 0


class _ReasoningText(msgspec.Struct):
    text: str = ""
    signature: str | None = None


class _ReasoningContent(msgspec.Struct):
    reasoningText: _ReasoningText | None = None
    redactedContent: str | None = None


class _ToolUse(msgspec.Struct):
    toolUseId: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Cited(msgspec.Struct):
    text: str = ""


class _Citations(msgspec.Struct):
    content: list[_Cited] = []


class _Block(msgspec.Struct):
    text: str | None = None
    citationsContent: _Citations | None = None
    toolUse: _ToolUse | None = None
    reasoningContent: _ReasoningContent | None = None


class _Message(msgspec.Struct):
    content: list[_Block] = []


class _Output(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)


class _Reply(msgspec.Struct):
    stopReason: str
    output: _Output = msgspec.field(default_factory=_Output)
    usage: _Usage = msgspec.field(default_factory=_Usage)


_reply: Final = msgspec.json.Decoder(_Reply).decode


def usage(found: _Usage) -> Usage:
    # Bedrock counts what came from and went to the cache beside inputTokens; ours counts it in.
    cached, written = found.cacheReadInputTokens, found.cacheWriteInputTokens
    return Usage(
        input_tokens=found.inputTokens + cached + written,
        output_tokens=found.outputTokens,
        cached_input_tokens=cached,
        cache_write_tokens=written,
    )


def reply(body: bytes, model: str, request_id: str | None, carrier: str | None) -> ChatReply:
    """The answer to Converse. ``carrier`` is the tool whose input is the structured answer."""
    try:
        found = _reply(body)
    except msgspec.DecodeError as error:
        raise unreadable(error, request_id) from None
    texts: list[str] = []
    calls: list[ToolCall] = []
    thoughts: list[Reasoning] = []
    finish = FINISH.get(found.stopReason, "error")
    for block in found.output.message.content:
        if block.text is not None:
            texts.append(block.text)
        elif block.toolUse is not None:
            use = block.toolUse
            arguments = bytes(use.input).decode()
            if use.name == carrier:
                texts = [arguments]
                finish = "stop" if finish == "tool_calls" else finish
            else:
                calls.append(ToolCall(use.toolUseId, use.name, arguments))
        elif block.reasoningContent is not None:
            text = block.reasoningContent.reasoningText
            thoughts.append(
                Reasoning(redacted=block.reasoningContent.redactedContent)
                if text is None
                else Reasoning(text.text, text.signature)
            )
        elif block.citationsContent is not None:
            # The text that documents are cited for; where from stands in ``raw``.
            texts += [one.text for one in block.citationsContent.content]
    if calls and carrier is not None:
        finish = "tool_calls"
    return ChatReply(
        text="".join(texts),
        finish_reason=finish,
        usage=usage(found.usage),
        model=model,
        provider="aws",
        tool_calls=tuple(calls),
        reasoning=tuple(thoughts),
        id=request_id,
        request_id=request_id,
        body=body,
    )


def unreadable(error: Exception, request_id: str | None) -> ProviderError:
    return ProviderError(
        f"the answer is not what Converse gives ({error})", provider="aws", request_id=request_id
    )


class _ToolDelta(msgspec.Struct):
    input: str = ""


class _ReasoningDelta(msgspec.Struct):
    text: str = ""
    signature: str | None = None
    redactedContent: str | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    toolUse: _ToolDelta | None = None
    reasoningContent: _ReasoningDelta | None = None


class _DeltaEvent(msgspec.Struct):
    contentBlockIndex: int = 0
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Start(msgspec.Struct):
    toolUse: _ToolUse | None = None


class _StartEvent(msgspec.Struct):
    contentBlockIndex: int = 0
    start: _Start = msgspec.field(default_factory=_Start)


class _StopEvent(msgspec.Struct):
    stopReason: str


class _MetadataEvent(msgspec.Struct):
    usage: _Usage = msgspec.field(default_factory=_Usage)


class _Problem(msgspec.Struct):
    message: str = ""
    Message: str = ""  # SageMaker's runtime writes it so
    originalMessage: str = ""


_delta: Final = msgspec.json.Decoder(_DeltaEvent).decode
_start: Final = msgspec.json.Decoder(_StartEvent).decode
_stop: Final = msgspec.json.Decoder(_StopEvent).decode
_metadata: Final = msgspec.json.Decoder(_MetadataEvent).decode
_problem: Final = msgspec.json.Decoder(_Problem).decode


def chunks(
    source: Iterable[bytes], model: str, request_id: str | None, carrier: str | None
) -> Iterator[ChatChunk]:
    """The pieces of a ConverseStream. A stream that breaks off gives no finish reason. The usage
    comes after it, with the last piece."""
    carriers: set[int] = set()
    calls: dict[int, int] = {}
    try:
        for headers, payload in eventstream.messages(source):
            kind = headers.get(b":event-type")
            if kind == b"contentBlockDelta":
                event = _delta(payload)
                delta = event.delta
                if delta.text is not None:
                    yield ChatChunk(text=delta.text)
                elif delta.toolUse is not None:
                    index = event.contentBlockIndex
                    if index in carriers:
                        yield ChatChunk(text=delta.toolUse.input)
                    else:
                        yield ChatChunk(
                            tool_calls=(
                                ToolCallDelta(
                                    index=calls.setdefault(index, len(calls)),
                                    arguments=delta.toolUse.input,
                                ),
                            )
                        )
                elif delta.reasoningContent is not None:
                    thought = delta.reasoningContent
                    yield ChatChunk(
                        reasoning=thought.text,
                        reasoning_signature=thought.signature,
                        reasoning_redacted=thought.redactedContent,
                    )
            elif kind == b"contentBlockStart":
                event = _start(payload)
                use = event.start.toolUse
                if use is not None and use.name == carrier:
                    carriers.add(event.contentBlockIndex)
                elif use is not None:
                    index = calls.setdefault(event.contentBlockIndex, len(calls))
                    call = ToolCallDelta(index=index, id=use.toolUseId, name=use.name)
                    yield ChatChunk(tool_calls=(call,))
            elif kind == b"messageStart":
                yield ChatChunk(model=model, id=request_id, request_id=request_id)
            elif kind == b"messageStop":
                reason = FINISH.get(_stop(payload).stopReason, "error")
                if reason == "tool_calls" and carriers and not calls:
                    reason = "stop"
                yield ChatChunk(finish_reason=reason)
            elif kind == b"metadata":
                used = usage(_metadata(payload).usage)
                yield ChatChunk(usage=used, cost=TABLE.cost(model, used))
            elif headers.get(b":message-type") == b"exception":
                raise problem(headers, payload, request_id)
    except msgspec.DecodeError as error:
        raise unreadable(error, request_id) from None


def problem(headers: dict[bytes, bytes], payload: bytes, request_id: str | None) -> Any:
    """The error of an exception in the stream."""
    kind = headers.get(b":exception-type", b"").decode()
    try:
        said = _problem(payload)
        text = said.message or said.Message or said.originalMessage
    except msgspec.DecodeError:
        text = ""
    return errors.from_event(kind, text or "the stream was ended by an error", request_id)
