"""The suite of embeddings."""

# ruff: noqa: S101 - asserting is what a suite does
from __future__ import annotations

import math
from typing import Any

import pytest

from cloudai.errors import ConfigError, ContextOverflow, InvalidRequest, NotFound
from cloudai.testing.conformance.base import Api, Conformance, feature
from cloudai.types import EmbeddingReply


class EmbeddingsConformance(Conformance):
    """What every embedding model does."""

    capability = "embeddings"

    def _embed(self, api: Api, texts: Any, **about: Any) -> EmbeddingReply:
        return api.do(
            api.client.embeddings.create(texts, model=api.harness.embedding_model, **about)
        )

    def test_shape(self, api: Api) -> None:
        reply = self._embed(api, list(api.harness.similar))
        assert len(reply) == 3
        assert reply.dim > 1
        assert reply.array.shape == (3, reply.dim)
        assert str(reply.array.dtype) == "float32"
        assert all(math.isfinite(value) for row in reply.vectors for value in row)
        assert all(any(row) for row in reply.vectors)
        assert reply.usage.input_tokens > 0
        assert reply.provider == api.harness.provider
        assert reply.model
        assert reply.cost is None or reply.cost >= 0

    def test_one_text(self, api: Api) -> None:
        text = api.harness.similar[0]
        alone = self._embed(api, text)
        assert len(alone) == 1
        assert cosine(alone.vectors[0], self._embed(api, [text]).vectors[0]) > 0.999

    def test_a_batch_equals_its_texts_alone(self, api: Api) -> None:
        texts = [
            f"{text} {'And so on. ' * index}" for index, text in enumerate(api.harness.similar)
        ]
        texts = [texts[2], texts[0], texts[1], texts[0]]
        together = self._embed(api, texts).vectors
        for text, row in zip(texts, together, strict=True):
            assert cosine(row, self._embed(api, text).vectors[0]) > 0.999
        assert cosine(together[1], together[3]) > 0.999
        assert cosine(together[0], together[1]) < 0.999

    def test_many_texts_keep_their_order(self, api: Api) -> None:
        first, _, other = api.harness.similar
        texts = [f"{first if index % 3 else other} {index}" for index in range(70)]
        rows = self._embed(api, texts).vectors
        assert len(rows) == 70
        for index in (0, 34, 69):
            assert cosine(rows[index], self._embed(api, texts[index]).vectors[0]) > 0.999

    def test_meaning(self, api: Api) -> None:
        one, alike, other = self._embed(api, list(api.harness.similar)).vectors
        assert cosine(one, alike) > cosine(one, other)
        assert cosine(one, alike) > cosine(alike, other)

    @feature("dimensions")
    def test_dimensions(self, api: Api) -> None:
        whole = self._embed(api, api.harness.similar[0])
        asked = whole.dim // 2
        reply = self._embed(api, list(api.harness.similar), dimensions=asked)
        assert reply.dim == asked
        assert len(reply) == 3

    def test_several_at_once(self, api: Api) -> None:
        texts = [f"{api.harness.similar[0]} {index}" for index in range(6)]
        calls = [
            lambda text=text: api.client.embeddings.create(text, model=api.harness.embedding_model)
            for text in texts
        ]
        rows = [reply.vectors[0] for reply in api.together(calls)]
        for text, row in zip(texts, rows, strict=True):
            assert cosine(row, self._embed(api, text).vectors[0]) > 0.999

    @pytest.mark.parametrize("texts", [[], "", ["good", ""]], ids=["none", "empty", "one-empty"])
    def test_empty_texts(self, api: Api, texts: Any) -> None:
        with pytest.raises(InvalidRequest, match="texts"):
            self._embed(api, texts)

    def test_bad_dimensions(self, api: Api) -> None:
        with pytest.raises(InvalidRequest, match="dimensions"):
            self._embed(api, "Hello", dimensions=0)

    @feature("limit")
    def test_overlong_text(self, api: Api) -> None:
        text = api.harness.overlong
        if text is None:
            pytest.skip("the harness knows no limit")
        with pytest.raises(ContextOverflow) as caught:
            self._embed(api, ["good", text])
        error = caught.value
        for number in (error.tokens, error.limit):
            assert number is None or str(number) in str(error).replace(",", "")

    @feature("truncate")
    def test_truncate(self, api: Api) -> None:
        text = api.harness.overlong
        if text is None:
            pytest.skip("the harness knows no limit")
        reply = self._embed(api, ["good", text], truncate=True)
        assert len(reply) == 2
        assert all(any(row) for row in reply.vectors)

    def test_unknown_model(self, api: Api) -> None:
        with pytest.raises((NotFound, InvalidRequest, ConfigError)):
            api.do(api.client.embeddings.create("Hello", model=api.harness.unknown_model))

    def test_throttled_calls_go_through(self, api: Api) -> None:
        api.faults().throttle("embeddings.create", times=2, retry_after=0.02)
        assert len(self._embed(api, "Hello")) == 1

    def test_unavailable_service_is_tried_again(self, api: Api) -> None:
        api.faults().fail("embeddings.create", times=1)
        assert len(self._embed(api, "Hello")) == 1


def cosine(one: list[float], other: list[float]) -> float:
    """The cosine of the angle between two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
