"""The model that the peers serve: cloudai's packed encoder, one thread."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cloudai.engine.packed import PackedEncoder


class Encoder:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._packed = PackedEncoder(
            Path(os.environ["BENCH_MODEL"]), "cpu", os.environ["BENCH_DTYPE"]
        )
        self.embed(["warm up"] * 8)

    def embed(self, texts: list[str]):
        return self._packed.encode_ids(self._packed.tokenize(texts))
