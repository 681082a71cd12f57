"""Embeddings on Azure OpenAI: as many requests as the texts need, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from cloudai._core.calls import threads
from cloudai._core.profiles.config import Profile
from cloudai.errors import InvalidRequest, NotFound
from cloudai.protocols import Call
from cloudai.providers.azure.catalog import embedding_cost
from cloudai.providers.azure.openai import deployments
from cloudai.providers.azure.openai.transport import transport
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

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """Raises NotFound for an unknown deployment, naming those that exist;
        UnsupportedByProvider for ``truncate=True``."""
        todo = list(wire.split(request.texts))[::-1]
        done: list[wire.Part] = []
        while todo:
            texts = todo.pop()
            body = wire.encode(request, texts)
            try:
                answer = self._transport.post(_PATH, request.model, body, call)
            except NotFound as error:
                raise deployments.explained(error, self._session, request.model, call) from None
            except InvalidRequest as error:
                todo.extend(_halves(texts, error))
                continue
            done.append(wire.decode(answer.body, answer.headers, len(texts)))
        return _joined(done, request)

    async def aembed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """The async twin of ``embed``."""
        todo = list(wire.split(request.texts))[::-1]
        done: list[wire.Part] = []
        while todo:
            texts = todo.pop()
            body = wire.encode(request, texts)
            try:
                answer = await self._transport.apost(_PATH, request.model, body, call)
            except NotFound as error:
                raise await threads.run(
                    deployments.explained, error, self._session, request.model, call
                ) from None
            except InvalidRequest as error:
                todo.extend(_halves(texts, error))
                continue
            done.append(wire.decode(answer.body, answer.headers, len(texts)))
        return _joined(done, request)


def _halves(texts: tuple[str, ...], error: InvalidRequest) -> list[tuple[str, ...]]:
    """Two halves, the first one last, where the service found too many tokens in one request;
    any other error goes on its way."""
    if error.code != _TOO_MANY_TOKENS or len(texts) == 1:
        raise error
    middle = len(texts) // 2
    return [texts[middle:], texts[:middle]]


def _joined(parts: Sequence[wire.Part], request: EmbeddingRequest) -> EmbeddingReply:
    first = parts[0]
    tokens = sum(part.tokens for part in parts)
    model = first.model or request.model
    return EmbeddingReply(
        data=first.data if len(parts) == 1 else b"".join(part.data for part in parts),
        dim=first.dim,
        model=model,
        provider="azure",
        usage=Usage(input_tokens=tokens),
        cost=embedding_cost(model, tokens),
    )
