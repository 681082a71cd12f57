"""Embeddings: Titan and Cohere on Bedrock, and SageMaker endpoints in the OpenAI format."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from cloudai._core.calls.http import Answer
from cloudai._core.profiles.config import Profile
from cloudai.errors import HandlerError, ProviderError
from cloudai.protocols import Call
from cloudai.providers.aws import families
from cloudai.providers.aws.chat import converse, openai
from cloudai.providers.aws.embeddings import wire
from cloudai.providers.aws.models import TABLE
from cloudai.providers.aws.session import Asked, session
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage

_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}

_ENDPOINT_TEXTS: Final = 32
"""Texts in one request to a SageMaker endpoint: TEI's default limit (read 2026-11)."""


class AwsEmbeddings:
    """Embeddings on AWS. The model is Bedrock's, or ``sagemaker:NAME``, whose container speaks
    OpenAI's format or TEI's."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._session.base("bedrock-runtime")  # made here, not on the first call's time
        self._plain: set[str] = set()

    def groups(self, request: EmbeddingRequest) -> Iterator[tuple[str, ...]]:
        """The texts in parts of one request each. Raises InvalidRequest for what the model
        cannot make."""
        if request.model.startswith(families.SAGEMAKER):
            size = _ENDPOINT_TEXTS
        else:
            self._session.check_arn("model", request.model)
            wire.check(request)
            size = wire.per_request(request.model)
        for at in range(0, len(request.texts), size):
            yield request.texts[at : at + size]

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """One vector a text, in their order, of a request that is no larger than a group."""
        plain = self._is_plain(request)
        try:
            answer = self._session.send(*_asked(request, plain=plain), call)
        except HandlerError as error:
            if not self._misses_its_field(request, error, plain=plain):
                raise
            answer = self._session.send(*_asked(request, plain=True), call)
        return _reply(request, answer)

    async def aembed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """The async twin of ``embed``."""
        plain = self._is_plain(request)
        try:
            answer = await self._session.asend(*_asked(request, plain=plain), call)
        except HandlerError as error:
            if not self._misses_its_field(request, error, plain=plain):
                raise
            answer = await self._session.asend(*_asked(request, plain=True), call)
        return _reply(request, answer)

    def _is_plain(self, request: EmbeddingRequest) -> bool:
        return request.model in self._plain

    def _misses_its_field(
        self, request: EmbeddingRequest, error: HandlerError, *, plain: bool
    ) -> bool:
        """Whether it is TEI, which knows OpenAI's format on a path that SageMaker does not pass
        on: on /invocations it misses its own field."""
        if plain or "inputs" not in error.message:
            return False
        self._plain.add(request.model)
        return True


def _asked(request: EmbeddingRequest, *, plain: bool) -> Asked:
    """Service, operation, path, body and headers of a request."""
    if not request.model.startswith(families.SAGEMAKER):
        path = f"/model/{quote(request.model, safe='')}/invoke"
        body = converse.encode(wire.body(request))
        return "bedrock-runtime", "InvokeModel", path, body, _JSON
    name = request.model.removeprefix(families.SAGEMAKER)
    form = openai.plain_embed_body if plain else openai.embed_body
    made = form(request.texts, name, request.dimensions)
    path = f"/endpoints/{quote(name, safe='')}/invocations"
    body = converse.encode({**made, **request.native})
    return "sagemaker-runtime", "InvokeEndpoint", path, body, _JSON


def _reply(request: EmbeddingRequest, answer: Answer) -> EmbeddingReply:
    request_id = answer.headers.get("x-amzn-RequestId")
    if request.model.startswith(families.SAGEMAKER):
        vectors, tokens = openai.embed_reply(answer.data, request_id)
    else:
        counted = answer.headers.get("X-Amzn-Bedrock-Input-Token-Count")
        vectors, tokens = wire.reply(request.model, answer.data, counted, request_id)
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1:
        raise ProviderError(
            f"{request.model} gave {len(vectors)} vectors of lengths {sorted(lengths)}",
            provider="aws",
            request_id=request_id,
        )
    return EmbeddingReply(
        data=floats(vectors),
        dim=lengths.pop(),
        model=request.model,
        provider="aws",
        usage=Usage(input_tokens=tokens),
        cost=TABLE.tokens_cost(request.model, tokens),
        request_id=request_id,
    )


def floats(vectors: list[list[float]]) -> bytes:
    """The vectors one after the other, little-endian float32."""
    numbers = array("f")
    for vector in vectors:
        numbers.extend(vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
