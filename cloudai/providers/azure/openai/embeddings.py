"""Embeddings on Azure OpenAI."""

from __future__ import annotations

from collections.abc import Iterator

from cloudai._core.calls import threads
from cloudai._core.calls.texts import TooLarge
from cloudai._core.profiles.config import Profile
from cloudai.errors import InvalidRequest, NotFound
from cloudai.protocols import Call
from cloudai.providers.azure.errors import request_id
from cloudai.providers.azure.models import TABLE
from cloudai.providers.azure.openai import deployments
from cloudai.providers.azure.openai.transport import Answer, transport
from cloudai.providers.azure.openai.wire import embeddings as wire
from cloudai.providers.azure.session import session
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage

_PATH = "embeddings"
_TOO_MANY_TOKENS = "max_tokens_per_request"


class AzureEmbeddings:
    """Embeddings of the profile's resource; the model is a deployment's name."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._transport = transport(self._session)

    def groups(self, request: EmbeddingRequest) -> Iterator[tuple[str, ...]]:
        """The texts in parts of one request each."""
        return wire.split(request.texts)

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """Raises NotFound for an unknown deployment, naming those that exist;
        UnsupportedByProvider for ``truncate=True``; TooLarge for too many tokens at once."""
        body = wire.encode(request)
        try:
            answer = self._transport.post(_PATH, request.model, body, call)
        except NotFound as error:
            raise deployments.explained(error, self._session, request.model, call) from None
        except InvalidRequest as error:
            raise _sized(error) from None
        return _reply(request, answer)

    async def aembed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """The async twin of ``embed``."""
        body = wire.encode(request)
        try:
            answer = await self._transport.apost(_PATH, request.model, body, call)
        except NotFound as error:
            raise await threads.run(
                deployments.explained, error, self._session, request.model, call
            ) from None
        except InvalidRequest as error:
            raise _sized(error) from None
        return _reply(request, answer)


def _sized(error: InvalidRequest) -> InvalidRequest:
    return TooLarge.of(error) if error.code == _TOO_MANY_TOKENS else error


def _reply(request: EmbeddingRequest, answer: Answer) -> EmbeddingReply:
    part = wire.decode(answer.data, answer.headers, len(request.texts))
    model = part.model or request.model
    return EmbeddingReply(
        data=part.data,
        dim=part.dim,
        model=model,
        provider="azure",
        usage=Usage(input_tokens=part.tokens),
        cost=TABLE.tokens_cost(model, part.tokens),
        request_id=request_id(answer.headers),
    )
