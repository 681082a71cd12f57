"""An encoder for the architectures that the packed one does not know, through transformers."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cloudai.engine import device as _device
from cloudai.engine import loading
from cloudai.engine.encoder import Encoder
from cloudai.engine.head import Head
from cloudai.engine.packed import positions
from cloudai.engine.sentence import SentenceConfig, read
from cloudai.errors import MissingExtra


class PaddedEncoder(Encoder):
    """Texts to vectors, with the methods of ``PackedEncoder``. Texts of like length are padded
    together."""

    def __init__(self, path: Path, device: str = "cpu", dtype: str = "float32") -> None:
        if importlib.util.find_spec("transformers") is None:
            raise MissingExtra("transformers", extra="local", provider="local")
        super().__init__()
        self.path = path
        self.device = device
        self.config: SentenceConfig = read(path)
        self._tokenizer: Any = loading.tokenizer(self.config.folder)
        self._model: Any = loading.model(
            self.config.folder, "embedding", device, _device.dtype(dtype)
        )
        config: Any = self._model.config.get_text_config()
        self._model.config.use_cache = False  # of a decoder, which reads each text once
        self._head = Head(self.config, int(config.hidden_size), device)
        self.dim = self._head.dim
        self.limit = min(
            self.config.max_length or 10**9,
            positions(self.config.model),
            int(min(self._tokenizer.model_max_length, 10**9)),
        )
        self._text = threading.Lock()

    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
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

    def _forward(self, group: Sequence[Sequence[int]]) -> Any:
        width = max(map(len, group))
        pad: int = self._tokenizer.pad_token_id or 0
        rows = [[*one, *[pad] * (width - len(one))] for one in group]
        ids = torch.tensor(rows, device=self.device)
        sizes = torch.tensor([len(one) for one in group], device=self.device)
        mask = torch.arange(width, device=self.device)[None, :] < sizes[:, None]
        out: Any = self._model(input_ids=ids, attention_mask=mask.long())
        hidden = out.last_hidden_state.float()
        how = self.config.pooling
        if how == "cls":
            pooled = hidden[:, 0]
        elif how == "lasttoken":
            pooled = hidden[torch.arange(len(group), device=self.device), sizes - 1]
        elif how == "max":
            pooled = hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        else:
            weights = mask.float()
            if how == "weightedmean":
                weights *= torch.arange(1, width + 1, device=self.device)
            pooled = (hidden * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)
        return self._head(pooled)
