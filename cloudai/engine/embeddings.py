"""Embeddings on this machine with PyTorch, from the embedded default model or a folder.

- Vectors are computed in float32, exactly alike for a text alone and among others (to 1e-5);
  ``native={"dtype": "bfloat16"}`` trades that for two to three times the speed on CPUs with
  AVX512-BF16 and on GPUs (cosines shift by 0.001 at most, measured); other CPUs emulate it at a
  seventh of the speed.
- ``task`` puts the model's own prompt for it before each text, where the folder names one
  (``config_sentence_transformers.json``, as E5's do); else it changes nothing. The embedded
  model knows no tasks.
- ``dimensions`` cuts the vectors of a model that was trained for it (matryoshka), which its
  config.json says; others are refused.
- ``usage.input_tokens`` counts all tokens that the model read, special ones included.
- BERT's family runs without padding and without transformers; any other architecture runs
  through transformers' AutoModel.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from cloudai.engine import catalog, sentence
from cloudai.engine import device as _device
from cloudai.engine.encoder import Encoder, overlong
from cloudai.engine.packed import PackedEncoder, supports
from cloudai.engine.padded import PaddedEncoder
from cloudai.engine.pool import Held
from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage
from cloudai.types._base import invalid, unknown

_NATIVE: Final = ("dtype",)
AHEAD: Final = 4096
"""Texts that are tokenised at once while a GPU computes."""
Vectors: TypeAlias = npt.NDArray[np.float32]


class EmbeddingModels:
    """Embeddings, as ``cloudai.protocols.Embeddings``. Models load on the first request and
    stay loaded until ``held`` is closed; threads share one copy.

    Parameters
    ----------
    as of ``cloudai.engine.chat.ChatModels``.
    """

    def __init__(
        self, *, home: Path, default: str = "", device: str | None = None, held: Held | None = None
    ) -> None:
        self._home = home
        self._default = default
        self._device = device
        self._held = held if held is not None else Held()

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        """One vector a text, in their order.

        Raises ConfigError (no such model, device or file), InvalidRequest for an empty list or
        text, ContextOverflow for a text beyond the model's limit unless ``truncate`` is set,
        UnsupportedByProvider for ``dimensions`` that the model was not trained for, CallTimeout.
        """
        _check(request)
        name = request.model or self._default
        found = catalog.find("embedding", name, home=self._home)
        encoder = self._load(found, request.native.get("dtype", "float32"))
        cut = request.dimensions
        if not encoder.config.fits(cut, encoder.dim):
            sizes = ", ".join(str(one) for one in encoder.config.sizes or ())
            why = f"and may be cut to {sizes}" if sizes else "and was not made to be cut"
            raise UnsupportedByProvider(
                f"dimensions={cut}",
                provider="local",
                alternative=f"{found.name} gives {encoder.dim}, {why}; leave dimensions out, or "
                'name a model of that size. One that was trained for it says so by "is_matryoshka" '
                "in its config.json",
                field="dimensions",
            )
        texts = request.texts
        prompt = encoder.config.prompt(request.task)
        if prompt:
            texts = tuple(prompt + text for text in texts)
        call.remaining()
        tokens, vectors = _encoded(encoder, texts, request.truncate, call)
        vectors = shortened(encoder, vectors, cut)
        return EmbeddingReply(
            data=vectors.astype("<f4", copy=False).tobytes(),
            dim=vectors.shape[1],
            model=found.name,
            provider="local",
            usage=Usage(input_tokens=tokens),
            cost=0.0,
        )

    def _load(self, found: catalog.Found, dtype: str) -> Encoder:
        if found.gguf:
            raise UnsupportedByProvider(
                "a GGUF file as an embedding model",
                provider="local",
                alternative="Name a Hugging Face or sentence-transformers folder",
                field="model",
            )
        _device.dtype(dtype)
        device = _device.pick(self._device)

        def make() -> Encoder:
            return open_encoder(found, device, dtype)

        key = ("embedding", str(found.path), device, dtype)
        return self._held.get(key, make)


def _encoded(
    encoder: Encoder, texts: tuple[str, ...], truncate: bool, call: Call
) -> tuple[int, Vectors]:
    """How many tokens the texts have, and their vectors. Beside a GPU the next texts are
    tokenised while these are computed."""

    def computed(ids: list[list[int]], start: int = 0) -> tuple[int, Vectors]:
        for index, one in enumerate(ids):
            if len(one) > encoder.limit:
                raise overlong(start + index, len(one), encoder.limit)
        return sum(map(len, ids)), encoder.encode_ids(ids, before=call.remaining)

    if encoder.device == "cpu" or len(texts) <= AHEAD:
        return computed(encoder.tokenize(texts, truncate=truncate))
    made: list[tuple[int, Vectors]] = []
    with ThreadPoolExecutor(1, "tokenise") as other:
        coming = other.submit(encoder.tokenize, texts[:AHEAD], truncate=truncate)
        for start in range(0, len(texts), AHEAD):
            ids = coming.result()
            following = texts[start + AHEAD : start + 2 * AHEAD]
            coming = other.submit(encoder.tokenize, following, truncate=truncate)
            made.append(computed(ids, start))
    return sum(count for count, _ in made), np.concatenate([vectors for _, vectors in made])


def shortened(encoder: Encoder, vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first numbers of each vector, brought to length 1 again where the model's own are."""
    if dimensions in (None, encoder.dim):
        return vectors
    cut = vectors[:, :dimensions]
    if not encoder.config.normalize:
        return np.ascontiguousarray(cut)
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def open_encoder(found: catalog.Found, device: str, dtype: str) -> Encoder:
    """The fastest encoder that can run the folder's model."""
    config = sentence.read(found.path)
    if supports(config):
        return PackedEncoder(found.path, device, dtype)
    return PaddedEncoder(found.path, device, dtype)


def _check(request: EmbeddingRequest) -> None:
    if not request.texts:
        raise invalid("texts", request.texts, "is empty", "Give at least one text.")
    for at, text in enumerate(request.texts):
        if not text.strip():
            raise invalid(
                f"texts[{at}]",
                text,
                "is empty",
                "Leave it out, or give it a word; a vector of nothing means nothing.",
            )
    for key, value in request.native.items():
        if key not in _NATIVE:
            raise InvalidRequest(
                str(unknown("key of native for local embeddings", key, _NATIVE)),
                field=f"native.{key}",
                value=value,
            )
