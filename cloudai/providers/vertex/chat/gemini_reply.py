"""Gemini's answers and the pieces of its streams, into the neutral ones."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

from cloudai.errors import ProviderError
from cloudai.providers.vertex.chat import wire
from cloudai.providers.vertex.chat.turns import FAMILY
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.models import TABLE
from cloudai.types import (
    ChatChunk,
    ChatReply,
    Image,
    NativePart,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolCallDelta,
)

_counter = itertools.count(1)


def reply(data: bytes, model: str, request_id: str | None) -> ChatReply:
    """The neutral reply to a GenerateContentResponse."""
    answer = wire.decode(data)
    if not answer.candidates:
        raise ProviderError(
            "the answer holds no candidate", provider=PROVIDER, request_id=request_id
        )
    candidate = answer.candidates[0]
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for part in candidate.content.parts if candidate.content is not None else ():
        if part.functionCall is not None:
            calls.append(
                ToolCall(
                    _call_id(answer.responseId, len(calls)),
                    part.functionCall.name,
                    bytes(part.functionCall.args).decode(),
                    part.thoughtSignature,
                )
            )
            parts.append(calls[-1])
            continue
        if part.text and part.thought:
            parts.append(_thought(part.text, part.thoughtSignature))
            continue
        if part.thoughtSignature is not None:
            before = parts[-1] if parts else None
            if isinstance(before, Reasoning) and before.signature is None:
                parts[-1] = _thought(before.text, part.thoughtSignature)
            else:
                parts.append(_thought("", part.thoughtSignature))
        own = _own(part)
        if part.text:
            parts.append(Text(part.text))
        elif own is not None:
            parts.append(own)
    used = wire.usage(answer.usageMetadata)
    return ChatReply(
        text="".join([part.text for part in parts if isinstance(part, Text)]),
        finish_reason=wire.finish(candidate.finishReason or "OTHER", bool(calls)),
        usage=used,
        model=answer.modelVersion or model,
        provider=PROVIDER,
        tool_calls=tuple(calls),
        reasoning=tuple(part for part in parts if isinstance(part, Reasoning)),
        parts=() if all(isinstance(part, Text) for part in parts) else tuple(parts),
        cost=TABLE.cost(model, used),
        id=answer.responseId,
        request_id=request_id or answer.responseId,
        body=data,
    )


def _thought(text: str, signature: str | None) -> Reasoning:
    return Reasoning(text, signature, None, PROVIDER, FAMILY)


def _own(part: wire.Part) -> Image | NativePart | None:
    """A part of another kind: an image, or what only Gemini understands."""
    blob = part.inlineData
    if blob is not None and blob.mimeType.startswith("image/"):
        return Image(data=base64.b64decode(blob.data), media_type=blob.mimeType)
    for name in ("executableCode", "codeExecutionResult", "fileData"):
        found = getattr(part, name)
        if found is not None:
            return NativePart(PROVIDER, FAMILY, {name: found})
    if blob is not None:
        return NativePart(PROVIDER, FAMILY, {"inlineData": msgspec.to_builtins(blob)})
    return None


def _call_id(response: str | None, index: int) -> str:
    """Vertex AI's API (v1) has no ids of calls; ours are unique in a conversation."""
    return f"call_{response or next(_counter)}_{index}"


class ChunkReader:
    """Turns the answers of one stream into chunks. A part with a signature stands alone, so that
    it goes back as it came."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._calls = 0
        self._id: str | None = None
        self._block = 0
        self._open: str | None = None

    def chunks(self, data: bytes) -> Iterator[ChatChunk]:
        """The chunks of one answer, one for each kind of part in it; the last tells the end."""
        answer = wire.decode(data)
        self._id = answer.responseId or self._id
        candidate = answer.candidates[0] if answer.candidates else None
        told: list[dict[str, Any]] = []
        if candidate is not None and candidate.content is not None:
            for part in candidate.content.parts:
                told.extend(self._part(part))
        ended = candidate.finishReason if candidate is not None else None
        used = wire.usage(answer.usageMetadata) if ended else None
        about: dict[str, Any] = {
            "model": answer.modelVersion or self._model,
            "id": self._id,
            "request_id": self._id,
        }
        for one in told[:-1]:
            yield ChatChunk(**one, **about)
        yield ChatChunk(
            **(told[-1] if told else {}),
            **about,
            finish_reason=wire.finish(ended, self._calls > 0) if ended else None,
            usage=used,
            cost=TABLE.cost(self._model, used) if used is not None else None,
        )

    def _part(self, part: wire.Part) -> Iterator[dict[str, Any]]:
        """What a part says. Tool calls come whole, each in one piece."""
        if part.functionCall is not None:
            self._open = None
            yield {"tool_calls": (self._call(part.functionCall, part.thoughtSignature),)}
            return
        if part.text and part.thought:
            yield {"reasoning": part.text, "block": self._at("thought"), "family": FAMILY,
                   "reasoning_signature": part.thoughtSignature}  # fmt: skip
            return
        signed = part.thoughtSignature is not None
        if signed:
            block = self._at("thought")  # beside a thought that has none, or alone
            yield {"reasoning_signature": part.thoughtSignature, "block": block, "family": FAMILY}
            self._open = None
        if part.text:
            yield {"text": part.text, "block": self._at("text")}
        elif (own := _own(part)) is not None:
            self._open = None
            yield {"parts": (own,)}
        if signed:
            self._open = None

    def _at(self, kind: str) -> int:
        """The block that a piece of this kind goes to: the open one, or a new one."""
        if self._open != kind:
            self._block += 1
            self._open = kind
        return self._block

    def _call(self, call: wire.Call, signature: str | None) -> ToolCallDelta:
        index = self._calls
        self._calls += 1
        return ToolCallDelta(
            index=index,
            id=_call_id(self._id, index),
            name=call.name,
            arguments=bytes(call.args).decode(),
            signature=signature,
        )
