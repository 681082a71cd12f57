"""Chat: Gemini's generateContent, and deployed endpoints that speak OpenAI's format.

A model's name says which: ``openai:ENDPOINT`` is an endpoint of this project by its id, and
``openai:PUBLISHER/MODEL`` a model of Vertex AI's own OpenAI-compatible API; all else is Gemini.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai.errors import UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.providers.vertex.chat import gemini_reply, wire
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    Message,
    Tool,
)

if TYPE_CHECKING:
    from cloudai.providers.vertex.chat.openai import OpenAIChat

OPENAI: Final = "openai:"


class VertexChat:
    """Chat on Vertex AI."""

    def __init__(self, profile: Profile) -> None:
        self._session = profile.shared(VertexSession.of)
        self._places: dict[str, tuple[str, str]] = {}

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        """Raises ContentFiltered where the prompt was blocked; an answer that was withheld has
        ``finish_reason="content_filter"``."""
        if request.model.startswith(OPENAI):
            return self._openai.create(request, call)
        base, path = self._place(request.model)
        body = msgspec.json.encode(wire.encode(request))
        data, request_id = self._session.http.raw(
            "POST", base, path + ":generateContent", body, call
        )
        return gemini_reply.reply(data, request.model, request_id)

    async def acreate(self, request: ChatRequest, call: Call) -> ChatReply:
        """The async twin of ``create``."""
        if request.model.startswith(OPENAI):
            return await self._openai.acreate(request, call)
        base, path = self._place(request.model)
        body = msgspec.json.encode(wire.encode(request))
        data, request_id = await self._session.aio.raw(
            "POST", base, path + ":generateContent", body, call
        )
        return gemini_reply.reply(data, request.model, request_id)

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        """The last chunk has the finish reason and the usage."""
        if request.model.startswith(OPENAI):
            yield from self._openai.stream(request, call)
            return
        base, path = self._place(request.model)
        body = msgspec.json.encode(wire.encode(request, stream=True))
        pieces = gemini_reply.ChunkReader(request.model)
        path += ":streamGenerateContent?alt=sse"
        with closing(self._session.http.events(base, path, body, call)) as events:
            for data in events:
                yield from pieces.chunks(data)

    async def astream(self, request: ChatRequest, call: Call) -> AsyncIterator[ChatChunk]:
        """The async twin of ``stream``."""
        if request.model.startswith(OPENAI):
            async for chunk in self._openai.astream(request, call):
                yield chunk
            return
        base, path = self._place(request.model)
        body = msgspec.json.encode(wire.encode(request, stream=True))
        pieces = gemini_reply.ChunkReader(request.model)
        path += ":streamGenerateContent?alt=sse"
        events = self._session.aio.events(base, path, body, call)
        try:
            async for data in events:
                for chunk in pieces.chunks(data):
                    yield chunk
        finally:
            await events.aclose()  # a stream that is left early frees its connection here

    def count_tokens(self, request: ChatRequest, call: Call) -> int:
        """The tokens of a request's prompt, counted by the model itself; nothing is generated.
        Raises UnsupportedByProvider for an endpoint in OpenAI's format, which has no count."""
        if request.model.startswith(OPENAI):
            raise UnsupportedByProvider(
                f"counting tokens of {request.model}",
                provider=PROVIDER,
                alternative="reply.usage counts what a call has used",
            )
        base, path = self._place(request.model)
        full = wire.encode(request)
        body = {key: full[key] for key in _COUNTED if key in full}
        found = self._session.http.json("POST", base, path + ":countTokens", body, call)
        return int(found.get("totalTokens", 0))

    def _place(self, model: str) -> tuple[str, str]:
        """The base URL and the path of a model; found out once."""
        place = self._places.get(model)
        if place is None:
            session = self._session
            place = session.url(), f"/{API}/{wire.path(session.parent, model)}"
            self._places[model] = place
        return place

    @property
    def _openai(self) -> OpenAIChat:
        return self._session.profile.shared(openai_chat)


_COUNTED: Final = ("contents", "systemInstruction", "tools", "generationConfig")


def openai_chat(profile: Profile) -> OpenAIChat:
    """The adapter of the OpenAI format; loaded when a model first asks for it."""
    from cloudai.providers.vertex.chat.openai import OpenAIChat

    return OpenAIChat(profile.shared(VertexSession.of))


def count_tokens(
    client: Any,
    messages: str | Sequence[Message],
    *,
    model: str | None = None,
    tools: Sequence[Tool] = (),
    timeout: float | None = None,
) -> int:
    """The tokens that a prompt comes to, counted by the model itself; nothing is generated.

    Parameters
    ----------
    client: a ``Client`` or an ``AsyncClient`` (this blocks). messages, model, tools: as for
        ``client.chat.create``. timeout: seconds, retries included.
    """
    bound = client._runtime.binding("chat")
    if not isinstance(bound.adapter, VertexChat):
        raise UnsupportedByProvider(
            "counting tokens beforehand",
            provider=bound.profile.provider,
            alternative="reply.usage counts what a call has used",
        )
    given = (Message("user", messages),) if isinstance(messages, str) else tuple(messages)
    request = ChatRequest(
        model=bound.profile.model(model or None), messages=given, tools=tuple(tools)
    )
    return bound.caller.run(
        "chat.count_tokens",
        lambda call: bound.adapter.count_tokens(request, call),
        bound.caller.call(timeout),
    )
