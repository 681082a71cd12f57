"""Embeddings of the fake provider: hashed bags of words.

Each word has a vector of +1 and -1 that its hash decides; a text's vector is their sum, made a
unit vector. So equal texts have equal vectors, and texts that share words are closer than texts
that share none.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from array import array
from functools import lru_cache
from typing import Final

from cloudai._core.profiles.config import Profile
from cloudai.errors import ContextOverflow
from cloudai.protocols import Call
from cloudai.providers.fake._state import FakeState
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage
from cloudai.types._base import invalid

WIDEST: Final = 4096
"""The most dimensions that can be asked for."""

_WORD: Final = re.compile(r"\w+")


class FakeEmbeddings:
    """The fake's embedding model: 64 dimensions unless asked or scripted otherwise."""

    def __init__(self, profile: Profile) -> None:
        self._cloud_state = profile.shared(FakeState.of)

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """Raises InvalidRequest for a dimension out of range, ContextOverflow for a text over
        the scripted limit, NotFound for an unknown model, and scripted errors."""
        with self._cloud_state.serving("embeddings.create", request, call):
            return self._reply(request)

    async def aembed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """The async twin of ``embed``."""
        async with self._cloud_state.aserving("embeddings.create", request, call):
            return self._reply(request)

    def _reply(self, request: EmbeddingRequest) -> EmbeddingReply:
        cloud_state = self._cloud_state
        model = cloud_state.known("embeddings", request.model)
        dim = (
            cloud_state.script.embeddings.dim if request.dimensions is None else request.dimensions
        )
        if not 1 <= dim <= WIDEST:
            raise invalid("dimensions", dim, f"is not from 1 to {WIDEST}")
        data = array("f")
        spent = 0
        for index, text in enumerate(request.texts):
            words = _WORD.findall(text.lower()) or [text]
            words = self._fit(words, request.truncate, index, model)
            spent += len(words)
            data.extend(vector(words, dim))
        if sys.byteorder == "big":
            data.byteswap()
        return EmbeddingReply(
            data=data.tobytes(),
            dim=dim,
            model=model,
            provider="fake",
            usage=Usage(input_tokens=spent),
            cost=0.0,
            request_id=f"fake-{next(cloud_state.counter)}",
        )

    def _fit(self, words: list[str], truncate: bool, index: int, model: str) -> list[str]:
        limit = self._cloud_state.script.embeddings.context
        if limit is None or len(words) <= limit:
            return words
        if truncate:
            return words[:limit]
        raise ContextOverflow(
            f"texts[{index}] has {len(words)} tokens, and {model} takes {limit}",
            tokens=len(words),
            limit=limit,
            provider="fake",
            field=f"texts[{index}]",
            hint="Shorten the text, or pass truncate=True",
        )


def vector(words: list[str], dim: int) -> list[float]:
    """The vector of length 1 of a text's words; each word adds a direction of its own."""
    total = [0.0] * dim
    for word in words:
        total = [sum(pair) for pair in zip(total, _signs(word, dim), strict=True)]
    length = math.sqrt(sum(value * value for value in total))
    if length == 0.0:  # the words cancel each other out: any fixed direction will do
        return [1.0, *([0.0] * (dim - 1))]
    return [value / length for value in total]


@lru_cache(maxsize=4096)
def _signs(word: str, dim: int) -> tuple[float, ...]:
    bits = int.from_bytes(hashlib.shake_128(word.encode()).digest((dim + 7) // 8), "little")
    return tuple(1.0 if bits >> place & 1 else -1.0 for place in range(dim))
