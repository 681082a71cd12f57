"""Embeddings in Vertex AI's words: ``predict`` for the older models, ``embedContent`` for others.

Limits from "Get text embeddings", Vertex AI documentation (read 2025-11).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError, UnsupportedByProvider
from cloudai.formats.native import merge
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.types import EmbeddingRequest
from cloudai.types._base import invalid

MAX_TEXTS: Final = 250
"""Texts in one ``predict``."""
REQUEST_TOKENS: Final = 20_000
"""Of all texts of one ``predict``."""
MAX_TOKENS: Final = 16_000
"""Of a group, as ``tokens`` guesses them. A group that has more than a request takes all the same
is refused, and goes in halves."""

TASKS: Final = {
    "query": "RETRIEVAL_QUERY",
    "document": "RETRIEVAL_DOCUMENT",
    "similarity": "SEMANTIC_SIMILARITY",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}

# gemini-embedding-2 reads its task in the text, and passes over ``taskType`` ("Embeddings",
# ai.google.dev; "Get batch embeddings inferences", Google Cloud; both read 2026-11-30).
_WRITTEN: Final = {
    "query": "task: search result | query: {}",
    "document": "title: none | text: {}",
    "similarity": "task: sentence similarity | query: {}",
    "classification": "task: classification | query: {}",
    "clustering": "task: clustering | query: {}",
}

_IN_WORDS: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ " + bytes(range(128, 256))

# The longest vectors; models with another name are left to the service.
_DIMENSIONS: Final = {
    "text-embedding-005": 768,
    "text-multilingual-embedding-002": 768,
    "gemini-embedding-001": 3072,
    "gemini-embedding-2": 3072,
    "gemini-embedding-2-preview": 3072,
}


def one_by_one(model: str) -> bool:
    """Whether the model answers ``embedContent``, which makes one vector a call whatever it is
    sent (google-genai's rule, its ``t_is_vertex_embed_content_model``)."""
    name = model.rpartition("/")[2]
    return ("gemini" in name and name != "gemini-embedding-001") or "maas" in name


def check(request: EmbeddingRequest) -> None:
    """Refuses what the model cannot give."""
    name = request.model.rpartition("/")[2]
    limit = _DIMENSIONS.get(name)
    if request.dimensions is not None and limit is not None and request.dimensions > limit:
        raise invalid("dimensions", request.dimensions, f"is more than the {limit} of {name}")
    if request.task is not None and name.startswith(("textembedding-gecko@001", "multimodal")):
        raise UnsupportedByProvider(
            f"task on {name}", provider=PROVIDER, alternative="Use gemini-embedding-001"
        )


def groups(request: EmbeddingRequest) -> Iterator[tuple[str, ...]]:
    """The texts, cut into what one request takes."""
    name = request.model.rpartition("/")[2]
    # gemini-embedding-001 takes one text in a request, although it answers ``predict``.
    most = 1 if one_by_one(request.model) or name == "gemini-embedding-001" else MAX_TEXTS
    group: list[str] = []
    size = 0
    for text in request.texts:
        count = tokens(text)
        if group and (len(group) == most or size + count > MAX_TOKENS):
            yield tuple(group)
            group, size = [], 0
        group.append(text)
        size += count
    yield tuple(group)


def tokens(text: str) -> int:
    """A guess: three bytes of words are one, in English as in Chinese; each digit and each sign
    is one of its own (a UUID of 36 characters has some thirty)."""
    data = text.encode()
    alone = len(data.translate(None, _IN_WORDS))
    return alone + (len(data) - alone) // 3 + 1


def _content(request: EmbeddingRequest) -> tuple[dict[str, Any], str | None]:
    """The only text as the model reads it, and the task type where that is told beside it."""
    text = request.texts[0]
    task = TASKS[request.task] if request.task is not None else None
    if request.task is not None and "gemini-embedding-2" in request.model:
        text, task = _WRITTEN[request.task].format(text), None
    return {"parts": [{"text": text}]}, task


def keyed(model: str) -> bool:
    """Whether the lines of its batches carry a key."""
    return "gemini" in model or one_by_one(model)


def batch_line(request: EmbeddingRequest, key: str) -> dict[str, Any]:
    """One line of a batch. Gemini's models have a form of their own ("Get batch embeddings
    inferences", Google Cloud, read 2026-11-30)."""
    if not keyed(request.model):
        return encode(request)[1]["instances"][0]
    content, task = _content(request)
    config: dict[str, Any] = {"auto_truncate": request.truncate}
    if task is not None:
        config["task_type"] = task
    if request.dimensions is not None:
        config["output_dimensionality"] = request.dimensions
    body = {"content": content, "embed_content_config": config}
    return {"key": key, "request": merge(body, request.native)}


def encode(request: EmbeddingRequest) -> tuple[str, dict[str, Any]]:
    """The method and the body of one request."""
    if one_by_one(request.model):
        content, task = _content(request)
        config: dict[str, Any] = {"autoTruncate": request.truncate}
        if task is not None:
            config["taskType"] = task
        if request.dimensions is not None:
            config["outputDimensionality"] = request.dimensions
        body: dict[str, Any] = {"content": content, "embedContentConfig": config}
        return "embedContent", merge(body, request.native)
    task = TASKS[request.task] if request.task is not None else None
    instances: list[dict[str, str]] = [{"content": text} for text in request.texts]
    if task is not None:
        for instance in instances:
            instance["task_type"] = task
    parameters: dict[str, Any] = {"autoTruncate": request.truncate}
    if request.dimensions is not None:
        parameters["outputDimensionality"] = request.dimensions
    body = {"instances": instances, "parameters": parameters}
    return "predict", merge(body, request.native)


class _Statistics(msgspec.Struct):
    token_count: float = 0
    truncated: bool = False


class _Embedding(msgspec.Struct):
    values: list[float] = []
    statistics: _Statistics = msgspec.field(default_factory=_Statistics)


class _Prediction(msgspec.Struct):
    embeddings: _Embedding


class _Predicted(msgspec.Struct):
    predictions: list[_Prediction] = []


class _Counts(msgspec.Struct):
    promptTokenCount: int = 0


class _Embedded(msgspec.Struct):
    embedding: _Embedding
    usageMetadata: _Counts | None = None


_predicted = msgspec.json.Decoder(_Predicted)
_embedded = msgspec.json.Decoder(_Embedded)


class Vectors(msgspec.Struct):
    """What one request gave: float32, little-endian, one vector after the other."""

    data: bytes
    count: int
    dim: int
    tokens: int


def decode(method: str, body: bytes, count: int) -> Vectors:
    """The vectors of one answer. Raises ProviderError where there are not ``count`` of them, all
    of one length."""
    try:
        if method == "embedContent":
            found = _embedded.decode(body)
            rows = [found.embedding.values]
            tokens = found.usageMetadata.promptTokenCount if found.usageMetadata else 0
        else:
            predictions = _predicted.decode(body).predictions
            rows = [one.embeddings.values for one in predictions]
            tokens = int(sum(one.embeddings.statistics.token_count for one in predictions))
    except msgspec.DecodeError as error:
        raise ProviderError(f"the answer cannot be read: {error}", provider=PROVIDER) from None
    dim = len(rows[0]) if rows else 0
    if len(rows) != count or not dim or any(len(row) != dim for row in rows):
        raise ProviderError(
            f"{len(rows)} vectors came for {count} texts, or of several lengths", provider=PROVIDER
        )
    data = array("f")
    for row in rows:
        data.fromlist(row)
    if sys.byteorder == "big":
        data.byteswap()
    return Vectors(data.tobytes(), count, dim, tokens)
