"""Chat: Bedrock's Converse, and SageMaker endpoints that speak the OpenAI format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final
from urllib.parse import quote

from msgspec.structs import replace

from cloudai._core.profiles.config import Profile
from cloudai.errors import NotFound
from cloudai.protocols import Call
from cloudai.providers.aws import families
from cloudai.providers.aws.chat import converse, converse_reply, openai
from cloudai.providers.aws.models import TABLE
from cloudai.providers.aws.session import session
from cloudai.providers.aws.streaming import pieces
from cloudai.types import ChatChunk, ChatReply, ChatRequest

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
        model = request.model
        if model.startswith(families.SAGEMAKER):
            return self._invoke(request, call)
        if model.startswith("arn:"):
            self._session.check_arn("model", model)
        body = converse.encode(converse.body(request))
        response = self._session.send(
            "bedrock-runtime", "Converse", converse.path(model, stream=False), body, _JSON, call
        )
        reply = converse_reply.reply(
            response.data,
            model,
            response.headers.get("x-amzn-RequestId"),
            converse.schema_tool(request),
        )
        return replace(reply, cost=TABLE.cost(model, reply.usage))

    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        """The request is sent when the first piece is asked for."""
        model = request.model
        if model.startswith(families.SAGEMAKER):
            yield from self._invoke_stream(request, call)
            return
        if model.startswith("arn:"):
            self._session.check_arn("model", model)
        body = converse.encode(converse.body(request, stream=True))
        response = self._session.send(
            "bedrock-runtime",
            "ConverseStream",
            converse.path(model, stream=True),
            body,
            _EVENTS,
            call,
            stream=True,
        )
        # An error in the middle would else hold the connection for as long as it lives.
        with closing(pieces(response)) as source:
            yield from converse_reply.chunks(
                source,
                model,
                response.headers.get("x-amzn-RequestId"),
                converse.schema_tool(request),
            )

    def _invoke(self, request: ChatRequest, call: Call) -> ChatReply:
        name = _endpoint(request.model)
        response = self._session.send(
            "sagemaker-runtime",
            "InvokeEndpoint",
            f"/endpoints/{quote(name, safe='')}/invocations",
            converse.encode(openai.chat_body(request, name, stream=False)),
            _JSON,
            call,
        )
        request_id = response.headers.get("x-amzn-RequestId")
        return openai.chat_reply(response.data, request.model, request_id)

    def _invoke_stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]:
        name = _endpoint(request.model)
        response = self._session.send(
            "sagemaker-runtime",
            "InvokeEndpointWithResponseStream",
            f"/endpoints/{quote(name, safe='')}/invocations-response-stream",
            converse.encode(openai.chat_body(request, name, stream=True)),
            _SSE,
            call,
            stream=True,
        )
        request_id = response.headers.get("x-amzn-RequestId")
        with closing(pieces(response)) as source:
            yield from openai.chat_chunks(source, request.model, request_id)


def _endpoint(model: str) -> str:
    name = model.removeprefix(families.SAGEMAKER)
    if not name:
        raise NotFound(f"{model!r} names no endpoint", provider="aws", hint="sagemaker:NAME")
    return name
