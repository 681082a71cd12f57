"""Embeddings on this machine with PyTorch, from the embedded default model or a folder.

- Vectors are computed in float32, exactly alike for a text alone and among others (to 1e-5);
  ``native={"dtype": "bfloat16"}`` trades that for two to three times the speed on CPUs with
  AVX512-BF16 and on GPUs (cosines shift by 0.001 at most, measured); other CPUs emulate it at a
  seventh of the speed.
- ``task`` puts the model's own prompt for it before each text, where the folder names one
  (``config_sentence_transformers.json``, as E5's do); else it changes nothing. The embedded
  model knows no tasks.
- ``usage.input_tokens`` counts all tokens that the model read, special ones included.
- BERT's family runs without padding and without transformers; any other architecture runs
  through transformers' AutoModel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloudai.engine import catalog, sentence
from cloudai.engine import device as _device
from cloudai.engine.packed import PackedEncoder, overlong, supports
from cloudai.engine.padded import PaddedEncoder
from cloudai.engine.pool import Held
from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.types import EmbeddingReply, EmbeddingRequest, Usage
from cloudai.types._base import invalid, unknown

_NATIVE: Final = ("dtype",)


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
        UnsupportedByProvider for other ``dimensions`` than the model's own, CallTimeout.
        """
        _check(request)
        name = request.model or self._default
        found = catalog.find("embedding", name, home=self._home)
        encoder = self._load(found, request.native.get("dtype", "float32"))
        if request.dimensions not in (None, encoder.dim):
            raise UnsupportedByProvider(
                f"dimensions={request.dimensions}",
                provider="local",
                alternative=f"{found.name} gives {encoder.dim}, and was not made to be cut; "
                "leave dimensions out, or name a model of that size",
                field="dimensions",
            )
        texts = request.texts
        prompt = encoder.config.prompts.get(request.task or "", "")
        if prompt:
            texts = tuple(prompt + text for text in texts)
        call.remaining()
        ids = encoder.tokenize(texts, truncate=request.truncate)
        for at, one in enumerate(ids):
            if len(one) > encoder.limit:
                raise overlong(at, len(one), encoder.limit)
        vectors = encoder.encode_ids(ids, before=call.remaining)
        return EmbeddingReply(
            data=vectors.astype("<f4", copy=False).tobytes(),
            dim=encoder.dim,
            model=found.name,
            provider="local",
            usage=Usage(input_tokens=sum(map(len, ids))),
            cost=0.0,
        )

    def _load(self, found: catalog.Found, dtype: str) -> PackedEncoder | PaddedEncoder:
        if found.gguf:
            raise UnsupportedByProvider(
                "a GGUF file as an embedding model",
                provider="local",
                alternative="Name a Hugging Face or sentence-transformers folder",
                field="model",
            )
        _device.dtype(dtype)
        device = _device.pick(self._device)

        def make() -> PackedEncoder | PaddedEncoder:
            return open_encoder(found, device, dtype)

        key = ("embedding", str(found.path), device, dtype)
        return self._held.get(key, make)


def open_encoder(found: catalog.Found, device: str, dtype: str) -> PackedEncoder | PaddedEncoder:
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
