"""An encoder for the architectures that the packed one does not know, through transformers."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cloudai.engine import device as _device
from cloudai.engine import loading
from cloudai.engine.packed import (
    CPU_TOKENS,
    GPU_TOKENS,
    batches,
    no_room,
    overlong,
    positions,
)
from cloudai.engine.sentence import SentenceConfig, read
from cloudai.errors import MissingExtra


class PaddedEncoder:
    """Texts to vectors, with the methods of ``PackedEncoder``. Texts of like length are padded
    together."""

    def __init__(self, path: Path, device: str = "cpu", dtype: str = "float32") -> None:
        if importlib.util.find_spec("transformers") is None:
            raise MissingExtra("transformers", extra="local", provider="local")
        self.path = path
        self.device = device
        self.config: SentenceConfig = read(path)
        self._tokenizer: Any = loading.tokenizer(self.config.folder)
        self._model: Any = loading.model(
            self.config.folder, "embedding", device, _device.dtype(dtype)
        )
        config: Any = self._model.config.get_text_config()
        self.dim = int(config.hidden_size)
        self.limit = min(
            self.config.max_length or 10**9,
            positions(self.config.model),
            int(min(self._tokenizer.model_max_length, 10**9)),
        )
        self._turn = threading.Lock()
        self._text = threading.Lock()

    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        """Each text's tokens, special ones included."""
        if self.config.lower:
            texts = [text.lower() for text in texts]
        with self._text:  # transformers sets the truncation on the shared tokenizer
            made = self._tokenizer(
                list(texts),
                truncation=truncate,
                max_length=self.limit if truncate else None,
                verbose=False,
                return_attention_mask=False,
            )
        return [list(ids) for ids in made["input_ids"]]

    def encode_ids(
        self,
        ids: Sequence[Sequence[int]],
        max_tokens: int | None = None,
        before: Callable[[], object] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The vectors of tokenised texts; see ``PackedEncoder.encode_ids``."""
        lengths = [len(one) for one in ids]
        if lengths and max(lengths) > self.limit:
            at = lengths.index(max(lengths))
            raise overlong(at, lengths[at], self.limit)
        out = np.empty((len(ids), self.dim), np.float32)
        per_pass = max_tokens or (CPU_TOKENS if self.device == "cpu" else GPU_TOKENS)
        for group in batches(lengths, per_pass):
            if before is not None:
                before()
            with self._turn, torch.inference_mode():
                try:
                    out[group] = self._forward([ids[at] for at in group]).cpu().numpy()
                except torch.OutOfMemoryError as error:
                    raise no_room(self.device) from error
        return out

    def _forward(self, group: Sequence[Sequence[int]]) -> Any:
        width = max(map(len, group))
        pad: int = self._tokenizer.pad_token_id or 0
        rows = [[*one, *[pad] * (width - len(one))] for one in group]
        ids = torch.tensor(rows, device=self.device)
        sizes = torch.tensor([len(one) for one in group], device=self.device)
        mask = torch.arange(width, device=self.device)[None, :] < sizes[:, None]
        out: Any = self._model(input_ids=ids, attention_mask=mask.long())
        hidden = out.last_hidden_state.float()
        if self.config.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.config.pooling == "max":
            pooled = hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        else:
            pooled = (hidden * mask[:, :, None]).sum(1) / sizes[:, None]
        return torch.nn.functional.normalize(pooled, dim=1) if self.config.normalize else pooled
