"""Chat on Azure OpenAI: one POST of a chat completion, or its stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from cloudai._core.calls import threads
from cloudai._core.profiles.config import Profile
from cloudai.errors import NotFound
from cloudai.formats import openai
from cloudai.protocols import Call
from cloudai.providers.azure.openai import deployments
from cloudai.providers.azure.openai.transport import transport
from cloudai.providers.azure.openai.wire import chat as wire
from cloudai.providers.azure.openai.wire import chat_reply
from cloudai.providers.azure.session import session
from cloudai.types import ChatChunk, ChatReply, ChatRequest

_PATH = "chat/completions"


class AzureChat:
    """Chat completions of the profile's resource; the model is a deployment's name."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._transport = transport(self._session)

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        """Raises NotFound for an unknown deployment, naming those that exist; ContextOverflow;
        ContentFiltered; and the rest of the tree."""
        body = wire.encode(request, modern=self._session.modern)
        try:
            answer = self._transport.post(_PATH, request.model, body, call)
        except NotFound as error:
            raise deployments.explained(error, self._session, request.model, call) from None
        return chat_reply.decode(answer.data, answer.headers, request.model)

    async def acreate(self, request: ChatRequest, call: Call) -> ChatReply:
        """The async twin of ``create``."""
        body = wire.encode(request, modern=self._session.modern)
        try:
            answer = await self._transport.apost(_PATH, request.model, body, call)
        except NotFound as error:
            raise await threads.run(
                deployments.explained, error, self._session, request.model, call
            ) from None
        return chat_reply.decode(answer.data, answer.headers, request.model)

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        """Chunks until ``[DONE]``; the last has the finish reason and the usage."""
        body = wire.encode(request, modern=self._session.modern, stream=True)
        events = self._transport.events(_PATH, request.model, body, call)
        try:
            chunks = openai.Chunks(chat_reply.service(next(events), request.model))
            for payload in events:
                chunk = chunks.read(payload)
                if chunk is not None:
                    yield chunk
                if chunks.done:
                    return
        except NotFound as error:
            raise deployments.explained(error, self._session, request.model, call) from None
        finally:
            events.close()

    async def astream(self, request: ChatRequest, call: Call) -> AsyncIterator[ChatChunk]:
        """The async twin of ``stream``."""
        body = wire.encode(request, modern=self._session.modern, stream=True)
        events = self._transport.aevents(_PATH, request.model, body, call)
        try:
            chunks = openai.Chunks(chat_reply.service(await anext(events), request.model))
            async for payload in events:
                chunk = chunks.read(payload)
                if chunk is not None:
                    yield chunk
                if chunks.done:
                    return
        except NotFound as error:
            raise await threads.run(
                deployments.explained, error, self._session, request.model, call
            ) from None
        finally:
            await events.aclose()
