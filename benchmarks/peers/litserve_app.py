"""LitServe: batches of up to 64 that wait 2 ms, a worker a core."""

from __future__ import annotations

import os
import sys

import litserve


class Embed(litserve.LitAPI):
    def setup(self, device):
        from encoder import Encoder

        self.encoder = Encoder()

    def decode_request(self, request):
        return request["text"]

    def predict(self, inputs):
        return list(self.encoder.embed(inputs))

    def encode_response(self, output):
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    api = Embed(max_batch_size=64, batch_timeout=0.002, api_path="/embed")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"])
    )
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning"
    )
