"""Converse and its stream answered by this machine's own models."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from cloudai.errors import CloudAIError, ContextOverflow, InvalidRequest, UnsupportedByProvider
from cloudai.formats import eventstream
from cloudai.testing.emulators.aws._runtime import Answer, error
from cloudai.testing.emulators.common.local_models import LocalModels
from cloudai.types import ChatChunk, ChatReply, ChatRequest, Message, Usage


def asked(request: ChatRequest, body: Mapping[str, Any]) -> ChatRequest:
    """The request with what the rules of the emulator do not look at."""
    config = body.get("inferenceConfig", {})
    system = "\n".join(one["text"] for one in body.get("system", ()) if "text" in one)
    messages = request.messages
    return msgspec.structs.replace(
        request,
        messages=(Message("system", system), *messages) if system else messages,
        temperature=config.get("temperature"),
        top_p=config.get("topP"),
    )


def body_of(reply: ChatReply) -> dict[str, Any]:
    """Converse's answer."""
    content: list[dict[str, Any]] = [{"text": reply.text}] if reply.text else []
    content += [
        {"toolUse": {"toolUseId": _tool_id(), "name": one.name, "input": one.input}}
        for one in reply.tool_calls
    ]
    return {
        "metrics": {"latencyMs": 1},
        "output": {"message": {"content": content, "role": "assistant"}},
        "stopReason": _reason(reply.finish_reason, bool(reply.tool_calls)),
        "usage": _usage(reply.usage),
    }


def events(models: LocalModels, request: ChatRequest) -> Iterator[bytes]:
    """ConverseStream's events as the answer is made. Raises CloudAIError before the first one;
    what goes wrong later is an event."""
    chunks = models.stream(request)
    first = next(chunks, None)
    return _events(first, chunks)


def _events(first: ChatChunk | None, rest: Iterator[ChatChunk]) -> Iterator[bytes]:
    yield event("messageStart", {"role": "assistant"})
    block, open_text = 0, False
    reason, usage, called = "end_turn", Usage(input_tokens=0, output_tokens=0), False
    chunk = first
    try:
        while chunk is not None:
            if chunk.text:
                open_text = True
                yield delta(block, {"text": chunk.text})
            for call in chunk.tool_calls:
                if open_text:
                    yield event("contentBlockStop", {"contentBlockIndex": block})
                    block, open_text = block + 1, False
                head = {"toolUse": {"toolUseId": _tool_id(), "name": call.name}}
                yield event("contentBlockStart", {"contentBlockIndex": block, "start": head})
                yield delta(block, {"toolUse": {"input": call.arguments or "{}"}})
                yield event("contentBlockStop", {"contentBlockIndex": block})
                block, called = block + 1, True
            if chunk.finish_reason is not None:
                reason = _reason(chunk.finish_reason, called)
            usage = chunk.usage or usage
            chunk = next(rest, None)
    except CloudAIError as failure:
        told = msgspec.json.encode({"message": str(failure)})
        yield eventstream.exception("modelStreamErrorException", told)
        return
    if open_text:
        yield event("contentBlockStop", {"contentBlockIndex": block})
    yield event("messageStop", {"stopReason": reason})
    yield event("metadata", {"usage": _usage(usage), "metrics": {"latencyMs": 1}})


def delta(index: int, value: Any) -> bytes:
    """A piece of a content block, as an event."""
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": value})


def event(kind: str, value: dict[str, Any]) -> bytes:
    """An event of ConverseStream. The real service pads its events to hide their lengths."""
    return eventstream.event(kind, msgspec.json.encode({**value, "p": "abcdefgh"}))


def refused(failure: CloudAIError) -> Answer:
    """A local model's error in Bedrock's words."""
    if isinstance(failure, ContextOverflow):
        return error(400, "ValidationException", "Input is too long for requested model.")
    if isinstance(failure, (InvalidRequest, UnsupportedByProvider)):
        return error(400, "ValidationException", str(failure))
    return error(500, "InternalServerException", str(failure))


def _tool_id() -> str:
    return f"tooluse_{uuid.uuid4().hex[:12]}"


def _reason(finish: str | None, called: bool) -> str:
    if called:
        return "tool_use"
    return "max_tokens" if finish == "length" else "end_turn"


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
    }
