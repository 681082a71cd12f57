"""Bedrock's Converse and ConverseStream: answers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError
from cloudai.formats import eventstream
from cloudai.providers.aws import errors, families
from cloudai.providers.aws.models import TABLE
from cloudai.types import (
    ChatChunk,
    ChatReply,
    FinishReason,
    Image,
    NativePart,
    Part,
    Reasoning,
    Text,
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
    type: str | None = None  # "server_tool_use": the model's own tool, run by the service


class _ImageSource(msgspec.Struct):
    bytes: str = ""


class _Image(msgspec.Struct):
    format: str = "png"
    source: _ImageSource = msgspec.field(default_factory=_ImageSource)


class _Cited(msgspec.Struct):
    text: str = ""


class _Citations(msgspec.Struct):
    content: list[_Cited] = []


class _Block(msgspec.Struct):
    text: str | None = None
    citationsContent: _Citations | None = None
    toolUse: _ToolUse | None = None
    toolResult: dict[str, Any] | None = None
    reasoningContent: _ReasoningContent | None = None
    image: _Image | None = None


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
    parts: list[Part] = []
    answer: str | None = None
    finish = FINISH.get(found.stopReason, "error")
    maker = families.maker(model)
    for block in found.output.message.content:
        use = block.toolUse
        if block.text is not None:
            parts.append(Text(block.text))
        elif use is not None and use.type is not None:
            about: dict[str, Any] = {"toolUseId": use.toolUseId, "name": use.name, "type": use.type}
            about["input"] = msgspec.json.decode(use.input)
            parts.append(_own(maker, "toolUse", about))
        elif use is not None and use.name == carrier:
            answer = bytes(use.input).decode() if answer is None else answer
        elif use is not None:
            parts.append(ToolCall(use.toolUseId, use.name, bytes(use.input).decode()))
        elif block.reasoningContent is not None:
            thought, redacted = block.reasoningContent.reasoningText, None
            if thought is None:
                thought, redacted = _ReasoningText(), block.reasoningContent.redactedContent
            parts.append(Reasoning(thought.text, thought.signature, redacted, "aws", maker))
        elif block.citationsContent is not None:
            # The text that documents are cited for; where from stands in ``raw``.
            parts.append(Text("".join([one.text for one in block.citationsContent.content])))
        elif block.toolResult is not None:
            parts.append(_own(maker, "toolResult", block.toolResult))
        elif block.image is not None:
            data = base64.b64decode(block.image.source.bytes)
            parts.append(Image(data=data, media_type=f"image/{block.image.format}"))
    if answer is not None:  # what else was said is no part of it
        parts = [*(part for part in parts if not isinstance(part, Text)), Text(answer)]
        finish = "stop" if finish == "tool_calls" else finish
    calls = tuple(part for part in parts if isinstance(part, ToolCall))
    if calls and carrier is not None:
        finish = "tool_calls"
    return ChatReply(
        text="".join([part.text for part in parts if isinstance(part, Text)]),
        finish_reason=finish,
        usage=usage(found.usage),
        model=model,
        provider="aws",
        tool_calls=calls,
        reasoning=tuple(part for part in parts if isinstance(part, Reasoning)),
        parts=() if all(isinstance(part, Text) for part in parts) else tuple(parts),
        id=request_id,
        request_id=request_id,
        body=body,
    )


def _own(maker: str, kind: str, block: dict[str, Any]) -> NativePart:
    """A block of a tool that the service runs itself, such as Nova's code interpreter: no call
    of the user's. It goes back as it came."""
    return NativePart("aws", maker, {kind: block})


def unreadable(error: Exception, request_id: str | None) -> ProviderError:
    return ProviderError(
        f"the answer is not what Converse gives ({error})", provider="aws", request_id=request_id
    )


class _ToolDelta(msgspec.Struct):
    input: str = ""


class _StopBlock(msgspec.Struct):
    contentBlockIndex: int = 0


class _ReasoningDelta(msgspec.Struct):
    text: str = ""
    signature: str | None = None
    redactedContent: str | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    toolUse: _ToolDelta | None = None
    toolResult: list[dict[str, Any]] | None = None
    reasoningContent: _ReasoningDelta | None = None


class _DeltaEvent(msgspec.Struct):
    contentBlockIndex: int = 0
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Start(msgspec.Struct):
    toolUse: _ToolUse | None = None
    toolResult: dict[str, Any] | None = None


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
_stop_block: Final = msgspec.json.Decoder(_StopBlock).decode
_stop: Final = msgspec.json.Decoder(_StopEvent).decode
_metadata: Final = msgspec.json.Decoder(_MetadataEvent).decode
_problem: Final = msgspec.json.Decoder(_Problem).decode


class Chunks:
    """Turns the messages of a ConverseStream into chunks, and moves the stream's silence on.

    A stream that breaks off gives no finish reason. The usage comes after it, with the last piece.

    Parameters
    ----------
    heard: called with each whole message.
    """

    def __init__(
        self, model: str, request_id: str | None, carrier: str | None, heard: Callable[[], None]
    ) -> None:
        self._model = model
        self._request_id = request_id
        self._heard = heard
        self._messages = eventstream.Messages()
        self._pieces = _ChunkReader(model, request_id, carrier)

    def feed(self, piece: bytes) -> Iterator[ChatChunk]:
        """The chunks that ``piece`` completes."""
        for headers, payload in self._messages.feed(piece):
            self._heard()
            try:
                yield from self._read(headers, payload)
            except msgspec.DecodeError as error:
                raise unreadable(error, self._request_id) from None

    def end(self) -> Iterator[ChatChunk]:
        """Nothing: whether the end has come is seen by the finish reason."""
        return iter(())

    def _read(self, headers: dict[bytes, bytes], payload: bytes) -> Iterator[ChatChunk]:
        pieces = self._pieces
        kind = headers.get(b":event-type")
        if kind == b"contentBlockDelta":
            chunk = pieces.delta(_delta(payload))
            if chunk is not None:
                yield chunk
        elif kind == b"contentBlockStart":
            yield from pieces.start(_start(payload))
        elif kind == b"contentBlockStop":
            if pieces.own:
                yield from pieces.stop(_stop_block(payload).contentBlockIndex)
        elif kind == b"messageStart":
            yield ChatChunk(model=self._model, id=self._request_id, request_id=self._request_id)
        elif kind == b"messageStop":
            yield from pieces.end(_stop(payload).stopReason)
        elif kind == b"metadata":
            used = usage(_metadata(payload).usage)
            yield ChatChunk(usage=used, cost=TABLE.cost(self._model, used))
        elif headers.get(b":message-type") == b"exception":
            raise problem(headers, payload, self._request_id)


class _ChunkReader:
    """Makes chunks of one stream's blocks.

    While a carrier's call is to come, what is said beside it is held back: it is no part of the
    structured answer, and is the answer where no such call comes.
    """

    def __init__(self, model: str, request_id: str | None, carrier: str | None) -> None:
        self._family = families.maker(model)
        self._carrier = carrier
        self._holds = carrier is not None
        self._held: list[ChatChunk] = []
        self._answer: int | None = None
        self._calls: dict[int, int] = {}
        self.own: dict[int, dict[str, Any]] = {}

    def delta(self, event: _DeltaEvent) -> ChatChunk | None:
        delta, index = event.delta, event.contentBlockIndex
        if delta.text is not None:
            chunk = ChatChunk(text=delta.text, block=index)
            if not self._holds:
                return chunk
            self._held.append(chunk)
        elif delta.toolUse is not None:
            if index == self._answer:
                return ChatChunk(text=delta.toolUse.input, block=index)
            if index in self.own:
                self.own[index]["input"] += delta.toolUse.input
            elif index in self._calls:
                call = ToolCallDelta(index=self._calls[index], arguments=delta.toolUse.input)
                return ChatChunk(tool_calls=(call,))
        elif delta.reasoningContent is not None:
            thought = delta.reasoningContent
            return ChatChunk(
                reasoning=thought.text,
                reasoning_signature=thought.signature,
                reasoning_redacted=thought.redactedContent,
                block=index,
                family=self._family,
            )
        elif delta.toolResult is not None and index in self.own:
            self.own[index]["content"] += delta.toolResult
        return None

    def start(self, event: _StartEvent) -> Iterator[ChatChunk]:
        use, index = event.start.toolUse, event.contentBlockIndex
        if event.start.toolResult is not None:
            self.own[index] = {**event.start.toolResult, "content": []}
        elif use is None:
            return
        elif use.type is not None:
            about = {"toolUseId": use.toolUseId, "name": use.name, "type": use.type}
            self.own[index] = {**about, "input": ""}
        elif use.name == self._carrier:
            if self._answer is None:  # one answer is enough
                self._answer, self._held = index, []
        else:
            yield from self._let_go()
            place = self._calls[index] = len(self._calls)
            call = ToolCallDelta(index=place, id=use.toolUseId, name=use.name)
            yield ChatChunk(tool_calls=(call,))

    def stop(self, index: int) -> Iterator[ChatChunk]:
        block = self.own.pop(index, None)
        if block is None:
            return
        kind = "toolResult" if "content" in block else "toolUse"
        if kind == "toolUse":
            block["input"] = msgspec.json.decode(block["input"] or "{}")
        yield ChatChunk(parts=(_own(self._family, kind, block),))

    def end(self, why: str) -> Iterator[ChatChunk]:
        yield from self._let_go()
        reason = FINISH.get(why, "error")
        if reason == "tool_calls" and self._answer is not None and not self._calls:
            reason = "stop"
        yield ChatChunk(finish_reason=reason)

    def _let_go(self) -> Iterator[ChatChunk]:
        if self._answer is None:
            self._holds = False
            yield from self._held
        self._held = []


def problem(headers: dict[bytes, bytes], payload: bytes, request_id: str | None) -> Any:
    """The error of an exception in the stream."""
    kind = headers.get(b":exception-type", b"").decode()
    try:
        said = _problem(payload)
        text = said.message or said.Message or said.originalMessage
    except msgspec.DecodeError:
        text = ""
    return errors.from_event(kind, text or "the stream was ended by an error", request_id)
