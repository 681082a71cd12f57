"""Chat: Bedrock's Converse, and SageMaker endpoints that speak the OpenAI format."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from msgspec.structs import replace

from cloudai._core.calls.http import Answer, Stream
from cloudai._core.profiles.config import Profile
from cloudai.errors import NotFound
from cloudai.protocols import Call
from cloudai.providers.aws import families
from cloudai.providers.aws.chat import converse, converse_reply, openai
from cloudai.providers.aws.models import TABLE
from cloudai.providers.aws.session import Asked, session
from cloudai.types import ChatChunk, ChatReply, ChatRequest

if TYPE_CHECKING:
    from cloudai._core.calls.aio import AsyncStream

_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}
_EVENTS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/vnd.amazon.eventstream",
}
_SSE: Final = {"Content-Type": "application/json", "X-Amzn-SageMaker-Accept": "text/event-stream"}


class AwsChat:
    """Chat on AWS.

    The model is Bedrock's: a model id, an inference profile, or the ARN of either; or
    ``sagemaker:NAME``, a SageMaker endpoint whose container speaks the OpenAI format (vLLM, LMI,
    TGI, or cloudai's own server).
    """

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._session.base("bedrock-runtime")  # made here, not on the first call's time

    def create(self, request: ChatRequest, call: Call) -> ChatReply:
        """Raises NotFound for an unknown model; InvalidRequest before anything is sent."""
        asked = self._asked(request, stream=False)
        return _reply(request, self._session.send(*asked, call))

    async def acreate(self, request: ChatRequest, call: Call) -> ChatReply:
        """The async twin of ``create``."""
        asked = self._asked(request, stream=False)
        return _reply(request, await self._session.asend(*asked, call))

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        """The request is sent when the first piece is asked for."""
        stream = self._session.open(*self._asked(request, stream=True), call)
        # An error in the middle would else hold the connection for as long as it lives.
        with closing(stream):
            chunks = _chunks(request, stream)
            for piece in stream:
                yield from chunks.feed(piece)
            yield from chunks.end()

    async def astream(self, request: ChatRequest, call: Call) -> AsyncIterator[ChatChunk]:
        """The async twin of ``stream``."""
        stream = await self._session.aopen(*self._asked(request, stream=True), call)
        with closing(stream):
            chunks = _chunks(request, stream)
            async for piece in stream:
                for chunk in chunks.feed(piece):
                    yield chunk
            for chunk in chunks.end():
                yield chunk

    def _asked(self, request: ChatRequest, *, stream: bool) -> Asked:
        """Service, operation, path, body and headers of a request."""
        model = request.model
        if model.startswith(families.SAGEMAKER):
            name = _endpoint(model)
            body = converse.encode(openai.chat_body(request, name, stream=stream))
            path = f"/endpoints/{quote(name, safe='')}/invocations"
            if stream:
                operation = "InvokeEndpointWithResponseStream"
                return "sagemaker-runtime", operation, f"{path}-response-stream", body, _SSE
            return "sagemaker-runtime", "InvokeEndpoint", path, body, _JSON
        if model.startswith("arn:"):
            self._session.check_arn("model", model)
        body = converse.encode(converse.body(request, stream=stream))
        path = converse.path(model, stream=stream)
        if stream:
            return "bedrock-runtime", "ConverseStream", path, body, _EVENTS
        return "bedrock-runtime", "Converse", path, body, _JSON


def _reply(request: ChatRequest, answer: Answer) -> ChatReply:
    request_id = answer.headers.get("x-amzn-RequestId")
    if request.model.startswith(families.SAGEMAKER):
        return openai.chat_reply(answer.data, request.model, request_id)
    carrier = converse.schema_tool(request)
    reply = converse_reply.reply(answer.data, request.model, request_id, carrier)
    return replace(reply, cost=TABLE.cost(request.model, reply.usage))


def _chunks(
    request: ChatRequest, stream: Stream | AsyncStream
) -> converse_reply.Chunks | openai.Chunks:
    request_id = stream.headers.get("x-amzn-RequestId")
    if request.model.startswith(families.SAGEMAKER):
        return openai.Chunks(request.model, request_id, stream.heard)
    carrier = converse.schema_tool(request)
    return converse_reply.Chunks(request.model, request_id, carrier, stream.heard)


def _endpoint(model: str) -> str:
    name = model.removeprefix(families.SAGEMAKER)
    if not name:
        raise NotFound(f"{model!r} names no endpoint", provider="aws", hint="sagemaker:NAME")
    return name
