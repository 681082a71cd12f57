"""Chat of the fake provider: scripted replies, else the rules of ``_text.answer``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import msgspec
from msgspec.structs import replace

from cloudai._core.profiles.config import Profile
from cloudai.errors import ContextOverflow
from cloudai.protocols import Call
from cloudai.providers.fake import _text
from cloudai.providers.fake._script import Fault, Reply
from cloudai.providers.fake._state import FakeState, apause, pause
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    FinishReason,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from cloudai.types._base import invalid, met


class _Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, made whole before its first piece is given."""

    model: str
    id: str
    pieces: list[str]
    calls: tuple[ToolCall, ...]
    reasoning: str
    finish_reason: FinishReason
    usage: Usage
    seconds: float
    fault: Fault | None


class FakeChat:
    """The fake's chat model.

    ``native={"text": "…"}`` makes one request's answer that text; the other keys of ``native``
    are those of a scripted reply.
    """

    def __init__(self, profile: Profile) -> None:
        self._cloud_state = profile.shared(FakeState.of)

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        """Raises NotFound for an unknown model, ContextOverflow, and scripted errors."""
        turn = self._turn("chat.create", request, call)
        pause(turn.seconds, call)
        return _reply(turn)

    async def acreate(self, request: ChatRequest, call: Call) -> ChatReply:
        """The async twin of ``create``."""
        turn = self._turn("chat.create", request, call)
        await apause(turn.seconds, call)
        return _reply(turn)

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        """One chunk a token; the last has the finish reason and the usage."""
        turn = self._turn("chat.stream", request, call)
        for chunk in _chunks(turn):
            pause(turn.seconds, call)
            yield chunk

    async def astream(self, request: ChatRequest, call: Call) -> AsyncIterator[ChatChunk]:
        """The async twin of ``stream``."""
        turn = self._turn("chat.stream", request, call)
        for chunk in _chunks(turn):
            await apause(turn.seconds, call)
            yield chunk

    def _turn(self, operation: str, request: ChatRequest, call: Call) -> _Turn:
        cloud_state = self._cloud_state
        fault = cloud_state.arrive(operation, request, call)
        model = cloud_state.known("chat", request.model)
        if fault is not None and fault.error and fault.chunks is None:
            pause(fault.seconds, call)
            raise fault.exception()
        spent = sum(map(_text.count_message, request.messages))
        limit = cloud_state.script.chat.context
        if limit is not None and spent + (request.max_tokens or 0) > limit:
            needs = spent + (request.max_tokens or 0)
            raise ContextOverflow(
                f"the request needs {needs} tokens, and {model} holds {limit}",
                tokens=needs,
                limit=limit,
                provider="fake",
                field="messages",
                hint="Shorten the conversation, or lower max_tokens",
            )
        reply = self._chosen(request)
        pieces, reason = _text.cut(reply.text, request.stop, request.max_tokens)
        number = next(cloud_state.counter)
        calls = tuple(
            ToolCall(
                id=f"call-{number}-{index}",
                name=one.name,
                arguments=msgspec.json.encode(one.arguments).decode(),
            )
            for index, one in enumerate(reply.tool_calls)
        )
        thought = len(reply.reasoning.split())
        said = len(pieces) + sum(1 + len(one.arguments.split()) for one in calls)
        return _Turn(
            model=model,
            id=f"fake-{number}",
            pieces=pieces,
            calls=calls,
            reasoning=reply.reasoning,
            finish_reason=reply.finish_reason or ("tool_calls" if calls else reason),
            usage=Usage(input_tokens=spent, output_tokens=thought + said, reasoning_tokens=thought),
            seconds=reply.seconds + (fault.seconds if fault else 0.0),
            fault=fault,
        )

    def _chosen(self, request: ChatRequest) -> Reply:
        if request.native:
            try:
                return msgspec.convert(request.native, met(Reply))
            except msgspec.ValidationError as error:
                raise invalid("native", request.native, f"is no scripted reply: {error}") from None
        scripted = self._cloud_state.reply()
        if scripted is not None:
            return scripted
        fixed = self._cloud_state.script.chat.reply
        return _text.answer(request) if fixed is None else Reply(text=fixed)


def _reply(turn: _Turn) -> ChatReply:
    return ChatReply(
        text="".join(turn.pieces),
        finish_reason=turn.finish_reason,
        usage=turn.usage,
        model=turn.model,
        provider="fake",
        tool_calls=turn.calls,
        reasoning=(Reasoning(text=turn.reasoning),) if turn.reasoning else (),
        cost=0.0,
        id=turn.id,
        request_id=turn.id,
    )


def _chunks(turn: _Turn) -> Iterator[ChatChunk]:
    """The turn in pieces; a fault ends it early, silently or with its error."""
    fault = turn.fault if turn.fault is not None and turn.fault.error else None
    for index, chunk in enumerate(_whole(turn)):
        if fault is not None and index == fault.chunks:
            if fault.error != "StreamTruncated":
                raise fault.exception()
            return
        yield chunk


def _whole(turn: _Turn) -> Iterator[ChatChunk]:
    blank = ChatChunk(model=turn.model, id=turn.id, request_id=turn.id)
    if turn.reasoning:
        yield replace(blank, reasoning=turn.reasoning)
    for piece in turn.pieces:
        yield replace(blank, text=piece)
    for index, call in enumerate(turn.calls):
        # The head and the arguments come apart, as real streams have it.
        head = ToolCallDelta(index=index, id=call.id, name=call.name)
        yield replace(blank, tool_calls=(head,))
        yield replace(blank, tool_calls=(ToolCallDelta(index=index, arguments=call.arguments),))
    yield replace(blank, finish_reason=turn.finish_reason, usage=turn.usage, cost=0.0)
