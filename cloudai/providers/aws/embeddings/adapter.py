"""Embeddings: Titan and Cohere on Bedrock, and SageMaker endpoints in the OpenAI format."""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import quote

from cloudai._core.profiles.config import Profile
from cloudai.errors import HandlerError, ProviderError
from cloudai.protocols import Call
from cloudai.providers.aws import catalog, families
from cloudai.providers.aws.chat import converse, openai
from cloudai.providers.aws.embeddings import wire
from cloudai.providers.aws.session import session
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage

_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}

_AT_ONCE: Final = 16
"""Requests under way for one call, whose texts do not fit into one request (Titan: any)."""

_ENDPOINT_TEXTS: Final = 32
"""Texts in one request to a SageMaker endpoint: TEI's default limit (read 2026-11)."""

Part = tuple[bytes, int, int, int, str | None]
"""Vectors as float32, how many, their length, tokens, and the request's id."""


class AwsEmbeddings:
    """Embeddings on AWS. The model is Bedrock's, or ``sagemaker:NAME``, whose container speaks
    OpenAI's format or TEI's."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self._session.base("bedrock-runtime")  # made here, not on the first call's time
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._plain: set[str] = set()

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """One vector a text, in their order, over as many requests as it takes."""
        endpoint = request.model.startswith(families.SAGEMAKER)
        if not endpoint:
            self._session.check_arn("model", request.model)
            wire.check(request)
        size = _ENDPOINT_TEXTS if endpoint else wire.per_request(request.model)
        parts = [request.texts[at : at + size] for at in range(0, len(request.texts), size)]
        one = self._endpoint if endpoint else self._bedrock
        found = self._all([lambda part=part: one(request, part, call) for part in parts])
        count = sum(part[1] for part in found)
        lengths = {part[2] for part in found}
        request_id = found[0][4]
        if count != len(request.texts) or len(lengths) != 1:
            raise ProviderError(
                f"{request.model} gave {count} vectors of lengths {sorted(lengths)} for "
                f"{len(request.texts)} texts",
                provider="aws",
                request_id=request_id,
            )
        tokens = sum(part[3] for part in found)
        return EmbeddingReply(
            data=b"".join(part[0] for part in found),
            dim=lengths.pop(),
            model=request.model,
            provider="aws",
            usage=Usage(input_tokens=tokens),
            cost=catalog.embedding_cost(request.model, tokens),
            request_id=request_id,
        )

    def _all(self, work: list[Callable[[], Part]]) -> list[Part]:
        """The results in order, a few requests at once; the first failure ends it."""
        if len(work) == 1:
            return [work[0]()]
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_AT_ONCE, "cloudai-aws-embed")
        under_way: list[Future[Part]] = [self._pool.submit(one) for one in work]
        try:
            return [future.result() for future in under_way]
        finally:
            for future in under_way:
                future.cancel()

    def _bedrock(self, request: EmbeddingRequest, texts: tuple[str, ...], call: Call) -> Part:
        response = self._session.send(
            "bedrock-runtime",
            "InvokeModel",
            f"/model/{quote(request.model, safe='')}/invoke",
            converse.encode(wire.body(request, texts)),
            _JSON,
            call,
        )
        request_id = response.headers.get("x-amzn-RequestId")
        counted = response.headers.get("X-Amzn-Bedrock-Input-Token-Count")
        vectors, tokens = wire.reply(request.model, response.data, counted, request_id)
        return _packed(vectors, tokens, request_id)

    def _endpoint(self, request: EmbeddingRequest, texts: tuple[str, ...], call: Call) -> Part:
        name = request.model.removeprefix(families.SAGEMAKER)
        plain = name in self._plain
        try:
            response = self._invoke(name, request, texts, plain, call)
        except HandlerError as error:
            # TEI knows OpenAI's format on a path that SageMaker does not pass on: on
            # /invocations it misses its own field.
            if plain or "inputs" not in error.message:
                raise
            response = self._invoke(name, request, texts, True, call)
            self._plain.add(name)
        request_id = response.headers.get("x-amzn-RequestId")
        vectors, tokens = openai.embed_reply(response.data, request_id)
        return _packed(vectors, tokens, request_id)

    def _invoke(
        self,
        name: str,
        request: EmbeddingRequest,
        texts: tuple[str, ...],
        plain: bool,
        call: Call,
    ) -> Any:
        form = openai.plain_embed_body if plain else openai.embed_body
        body = form(texts, name, request.dimensions)
        return self._session.send(
            "sagemaker-runtime",
            "InvokeEndpoint",
            f"/endpoints/{quote(name, safe='')}/invocations",
            converse.encode({**body, **request.native}),
            _JSON,
            call,
        )

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _packed(vectors: list[list[float]], tokens: int, request_id: str | None) -> Part:
    # At once, since a list of floats takes eight times the room.
    length = len(vectors[0]) if vectors else 0
    return floats(vectors), len(vectors), length, tokens, request_id


def floats(vectors: list[list[float]]) -> bytes:
    """The vectors one after the other, little-endian float32."""
    numbers = array("f")
    for vector in vectors:
        numbers.extend(vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
