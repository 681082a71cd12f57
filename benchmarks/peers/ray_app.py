"""Ray Serve: @serve.batch of up to 64 that waits 2 ms, a replica a core."""

from __future__ import annotations

import os
import sys
import time

import ray
from ray import serve

WORKERS = int(os.environ["BENCH_WORKERS"])


@serve.deployment(
    num_replicas=WORKERS, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5}
)
class Embed:
    def __init__(self) -> None:
        from encoder import Encoder

        self.encoder = Encoder()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def many(self, texts):
        return [vector.tolist() for vector in self.encoder.embed(texts)]

    async def __call__(self, request):
        return {"embedding": await self.many((await request.json())["text"])}


ray.init(
    num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20
)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Embed.bind(), route_prefix="/embed")
while True:
    time.sleep(1)
