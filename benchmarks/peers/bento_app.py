"""BentoML: its adaptive batching of up to 64, a worker a core."""

import os

import bentoml
import numpy as np


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 60, "concurrency": 512}
)
class Embed:
    def __init__(self) -> None:
        from encoder import Encoder

        self.encoder = Encoder()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def embed(self, texts: list[str]) -> np.ndarray:
        return self.encoder.embed(texts)
