"""Cross-encoders on this machine: a query and each document read together, one score a pair.

Models: folders of a sequence classification model with one label, as sentence-transformers'
CrossEncoder takes them. The score is its: the sigmoid of the model's number, unless config.json
names another activation (``sentence_transformers.activation_fn``, or
``sbert_ce_default_activation_function`` of older versions).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

import torch

from cloudai.engine import catalog, loading
from cloudai.engine import device as _device
from cloudai.engine.encoder import CPU_TOKENS, GPU_TOKENS, batches, no_room
from cloudai.engine.packed import positions
from cloudai.engine.pool import Held
from cloudai.errors import ConfigError, ContextOverflow, InvalidRequest
from cloudai.protocols import Call
from cloudai.types import Ranked, RerankReply, RerankRequest, Usage
from cloudai.types._base import invalid, unknown

_NATIVE: Final = ("dtype",)
_ACTIVATIONS: Final[dict[str, Any]] = {
    "Sigmoid": torch.sigmoid,
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
}


class CrossEncoder:
    """Pairs of texts to scores. Safe to use from several threads: they take turns, a batch each."""

    def __init__(self, path: Path, device: str, dtype: str) -> None:
        self.device = device
        self._tokenizer: Any = loading.tokenizer(path)
        self._model: Any = loading.model(path, "ranking", device, _device.dtype(dtype))
        config: Any = self._model.config
        if config.num_labels != 1:
            raise ConfigError(
                f"the model at {path} has {config.num_labels} labels, so it is no cross-encoder "
                "that ranks",
                provider="local",
                hint="Name one with a single label",
            )
        said = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
        said = said or getattr(config, "sbert_ce_default_activation_function", None) or "Sigmoid"
        name = str(said).rpartition(".")[2].removesuffix("()")
        if name not in _ACTIVATIONS:
            raise ConfigError(
                f"the model at {path} asks for the activation {name}",
                provider="local",
                hint=f"Known are {', '.join(_ACTIVATIONS)}",
            )
        self._activation = _ACTIVATIONS[name]
        self.limit = min(
            positions(config.to_dict()), int(min(self._tokenizer.model_max_length, 10**9))
        )
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        config.pad_token_id = self._tokenizer.pad_token_id
        self._turn = threading.Lock()

    def scores(
        self, query: str, documents: tuple[str, ...], truncate: bool, call: Call
    ) -> tuple[int, list[float]]:
        """How many tokens the pairs have, and a score a document."""
        with self._turn:  # the truncation is set on the shared tokenizer
            made = self._tokenizer(
                [query] * len(documents),
                list(documents),
                truncation="only_second" if truncate else False,
                max_length=self.limit if truncate else None,
                verbose=False,
            )
        lengths = [len(ids) for ids in made["input_ids"]]
        for at, size in enumerate(lengths):
            if size > self.limit:
                raise ContextOverflow(
                    f"documents[{at}] has {size} tokens with the query, and the model takes "
                    f"{self.limit}",
                    tokens=size,
                    limit=self.limit,
                    field=f"documents[{at}]",
                    provider="local",
                    hint="Split it, or pass truncate=True to cut it",
                )
        found = [0.0] * len(documents)
        most = CPU_TOKENS if self.device == "cpu" else GPU_TOKENS
        for group in batches(lengths, most):
            call.remaining()
            rows = {name: [made[name][at] for at in group] for name in made}
            with self._turn, torch.inference_mode():
                padded = self._tokenizer.pad(rows, return_tensors="pt").to(self.device)
                try:
                    logits = self._model(**padded).logits[:, 0].float()
                except torch.OutOfMemoryError as error:
                    raise no_room(self.device) from error
            for at, score in zip(group, self._activation(logits).tolist(), strict=True):
                found[at] = score
        return sum(lengths), found


class RerankModels:
    """Ranking, as ``cloudai.protocols.Embeddings`` says; parameters as of
    ``cloudai.engine.chat.ChatModels``."""

    def __init__(self, *, home: Path, device: str | None = None, held: Held | None = None) -> None:
        self._home = home
        self._device = device
        self._held = held if held is not None else Held()

    def rerank(self, request: RerankRequest, call: Call) -> RerankReply:
        """The documents, the most useful first.

        Raises ConfigError (no such model, device or file), ContextOverflow for a document beyond
        the model's limit unless ``truncate`` is set, CallTimeout, CapacityError.
        """
        for key, value in request.native.items():
            if key not in _NATIVE:
                raise InvalidRequest(
                    str(unknown("key of native for local ranking", key, _NATIVE)),
                    field=f"native.{key}",
                    value=value,
                )
        if not request.model:
            raise invalid("model", "", "is not given", "Name a cross-encoder's folder.")
        found = catalog.find("ranking", request.model, home=self._home)
        dtype = str(request.native.get("dtype", "float32"))
        device = _device.pick(self._device)
        encoder = self._held.get(
            ("ranking", str(found.path), device, dtype),
            lambda: CrossEncoder(found.path, device, dtype),
        )
        tokens, scores = encoder.scores(request.query, request.documents, request.truncate, call)
        order = sorted(range(len(scores)), key=lambda at: -scores[at])
        return RerankReply(
            ranking=tuple(Ranked(at, scores[at]) for at in order[: request.top_n]),
            model=found.name,
            provider="local",
            usage=Usage(input_tokens=tokens),
            cost=0.0,
        )
