"""Embeddings: Titan and Cohere on Bedrock, and SageMaker endpoints in the OpenAI format."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from cloudai._core.profiles.config import Profile
from cloudai.errors import HandlerError, ProviderError
from cloudai.protocols import Call
from cloudai.providers.aws import families
from cloudai.providers.aws.chat import converse, openai
from cloudai.providers.aws.embeddings import wire
from cloudai.providers.aws.models import TABLE
from cloudai.providers.aws.session import session
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage

_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}

_ENDPOINT_TEXTS: Final = 32
"""Texts in one request to a SageMaker endpoint: TEI's default limit (read 2026-11)."""

Vectors = tuple[list[list[float]], int, str | None]
"""The vectors, tokens, and the request's id."""


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
        if request.model.startswith(families.SAGEMAKER):
            vectors, tokens, request_id = self._endpoint(request, call)
        else:
            vectors, tokens, request_id = self._bedrock(request, call)
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

    def _bedrock(self, request: EmbeddingRequest, call: Call) -> Vectors:
        response = self._session.send(
            "bedrock-runtime",
            "InvokeModel",
            f"/model/{quote(request.model, safe='')}/invoke",
            converse.encode(wire.body(request)),
            _JSON,
            call,
        )
        request_id = response.headers.get("x-amzn-RequestId")
        counted = response.headers.get("X-Amzn-Bedrock-Input-Token-Count")
        return *wire.reply(request.model, response.data, counted, request_id), request_id

    def _endpoint(self, request: EmbeddingRequest, call: Call) -> Vectors:
        name = request.model.removeprefix(families.SAGEMAKER)
        plain = name in self._plain
        try:
            response = self._invoke(name, request, plain, call)
        except HandlerError as error:
            # TEI knows OpenAI's format on a path that SageMaker does not pass on: on
            # /invocations it misses its own field.
            if plain or "inputs" not in error.message:
                raise
            response = self._invoke(name, request, True, call)
            self._plain.add(name)
        request_id = response.headers.get("x-amzn-RequestId")
        return *openai.embed_reply(response.data, request_id), request_id

    def _invoke(self, name: str, request: EmbeddingRequest, plain: bool, call: Call) -> Any:
        form = openai.plain_embed_body if plain else openai.embed_body
        body = form(request.texts, name, request.dimensions)
        return self._session.send(
            "sagemaker-runtime",
            "InvokeEndpoint",
            f"/endpoints/{quote(name, safe='')}/invocations",
            converse.encode({**body, **request.native}),
            _JSON,
            call,
        )


def floats(vectors: list[list[float]]) -> bytes:
    """The vectors one after the other, little-endian float32."""
    numbers = array("f")
    for vector in vectors:
        numbers.extend(vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
