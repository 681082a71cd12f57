"""Chat through a deployed endpoint in OpenAI's format, and Vertex AI's own compatible API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Final

import msgspec

from cloudai._core.calls import threads
from cloudai.formats import openai
from cloudai.protocols import Call
from cloudai.providers.vertex.chat.wire import check_model
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types import ChatChunk, ChatReply, ChatRequest

PREFIX: Final = "openai:"
_DIALECT: Final = openai.Dialect(provider=PROVIDER)


class OpenAIChat:
    """``openai:ENDPOINT`` and ``openai:PUBLISHER/MODEL``."""

    def __init__(self, session: VertexSession) -> None:
        self._session = session
        self._places: dict[str, tuple[str, str, str]] = {}

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        base, path, model = self._place(request.model, call)
        body = _encode(request, model, stream=False)
        data, request_id = self._session.http.raw("POST", base, path, body, call)
        return openai.reply(data, _service(request.model, request_id))

    async def acreate(self, request: ChatRequest, call: Call) -> ChatReply:
        base, path, model = await self._aplace(request.model, call)
        body = _encode(request, model, stream=False)
        data, request_id = await self._session.aio.raw("POST", base, path, body, call)
        return openai.reply(data, _service(request.model, request_id))

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        base, path, model = self._place(request.model, call)
        body = _encode(request, model, stream=True)
        chunks = openai.Chunks(_service(request.model))
        with closing(self._session.http.events(base, path, body, call)) as events:
            for data in events:
                chunk = chunks.read(data)
                if chunk is not None:
                    yield chunk
            last = chunks.end()  # some servers write no [DONE]
            if last is not None:
                yield last

    async def astream(self, request: ChatRequest, call: Call) -> AsyncIterator[ChatChunk]:
        base, path, model = await self._aplace(request.model, call)
        body = _encode(request, model, stream=True)
        chunks = openai.Chunks(_service(request.model))
        events = self._session.aio.events(base, path, body, call)
        try:
            async for data in events:
                chunk = chunks.read(data)
                if chunk is not None:
                    yield chunk
            last = chunks.end()  # some servers write no [DONE]
            if last is not None:
                yield last
        finally:
            await events.aclose()

    async def _aplace(self, name: str, call: Call) -> tuple[str, str, str]:
        return self._places.get(name) or await threads.run(self._place, name, call)

    def _place(self, name: str, call: Call) -> tuple[str, str, str]:
        """Base URL, path and model's name. An endpoint is looked up once: a dedicated one
        answers at an address of its own only."""
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = self._find(check_model(name.removeprefix(PREFIX)), call)
        return place

    def _find(self, name: str, call: Call) -> tuple[str, str, str]:
        session = self._session
        base = session.url()
        if "/" in name and not name.startswith(("projects/", "endpoints/")):
            return base, f"/{API}/{session.parent}/endpoints/openapi/chat/completions", name
        resource = name
        if not name.startswith("projects/"):
            resource = f"{session.parent}/endpoints/{name.removeprefix('endpoints/')}"
        base = dedicated(session, session.http.json("GET", base, f"/{API}/{resource}", None, call))
        return base, f"/{API}/{resource}/chat/completions", ""


def _encode(request: ChatRequest, model: str, *, stream: bool) -> bytes:
    return msgspec.json.encode(openai.body(request, model, _DIALECT, stream=stream))


def _service(model: str, request_id: str | None = None) -> openai.Service:
    return openai.Service(provider=PROVIDER, model=model, request_id=request_id)


def dedicated(session: VertexSession, endpoint: dict[str, object]) -> str:
    """The base URL that an endpoint (its JSON) answers predictions at."""
    host = endpoint.get("dedicatedEndpointDns")
    if host and endpoint.get("dedicatedEndpointEnabled") and not session.overridden:
        return f"https://{host}"
    return session.url()
