"""Embeddings: texts into requests within the service's limits, vectors back."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError, UnsupportedByProvider
from cloudai.providers.azure.errors import request_id
from cloudai.types import EmbeddingRequest

MAX_TEXTS: Final = 2048
"""Texts in one request (CreateEmbeddingRequest.input.maxItems, spec read 2026-11)."""
MAX_BYTES: Final = 900_000
"""UTF-8 bytes of the texts of one request. The service's limit is 300,000 tokens (OpenAI's API
reference, read 2025-08); English has some four bytes a token. Texts that exceed the limit all
the same are split when the service says so."""

_encode: Final = msgspec.json.Encoder().encode


def split(texts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The texts in parts that fit one request each, in order."""
    if len(texts) <= MAX_TEXTS and sum(map(len, texts)) * 4 <= MAX_BYTES:
        yield texts  # the common case: no character takes more than four bytes
        return
    part: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if part and (len(part) == MAX_TEXTS or size + length > MAX_BYTES):
            yield tuple(part)
            part, size = [], 0
        part.append(text)
        size += length
    yield tuple(part)


def encode(request: EmbeddingRequest) -> bytes:
    """The body of one request. Raises UnsupportedByProvider for ``truncate``."""
    if request.truncate:
        raise UnsupportedByProvider(
            "truncate=True",
            provider="azure",
            alternative="The service refuses overlong texts and counts tokens only there: cut "
            "the texts, or use local or vertex, which cut them",
        )
    body: dict[str, Any] = {
        "model": request.model,
        "input": request.texts,
        "encoding_format": "base64",
    }
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if request.native:
        body.update(request.native)
    return _encode(body)


class _Vector(msgspec.Struct):
    embedding: str | list[float]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    model: str = ""
    usage: _Usage | None = None


class Part(msgspec.Struct, frozen=True):
    """The vectors of one request: little-endian float32, one after the other."""

    data: bytes
    dim: int
    model: str
    tokens: int


_decode: Final = msgspec.json.Decoder(_Answer).decode


def decode(content: bytes, headers: Mapping[str, str], count: int) -> Part:
    """The vectors of ``count`` texts in their order. Raises ProviderError for anything else."""
    try:
        answer = _decode(content)
        rows: list[bytes] = [b""] * len(answer.data)
        for item in answer.data:
            rows[item.index] = _row(item.embedding)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, IndexError) as error:
        raise _senseless(str(error), headers) from None
    if len(rows) != count:
        raise _senseless(f"{len(rows)} vectors for {count} texts", headers)
    size = len(rows[0])
    if not size or size % 4 or any(len(row) != size for row in rows):
        raise _senseless("vectors of different lengths", headers)
    return Part(
        b"".join(rows),
        size // 4,
        answer.model,
        answer.usage.prompt_tokens if answer.usage else 0,
    )


def _row(value: str | list[float]) -> bytes:
    if isinstance(value, str):
        return binascii.a2b_base64(value)
    return struct.pack(f"<{len(value)}f", *value)  # a model that knows no base64


def _senseless(why: str, headers: Mapping[str, str]) -> ProviderError:
    return ProviderError(
        f"the answer holds no embeddings ({why})",
        provider="azure",
        request_id=request_id(headers),
    )
