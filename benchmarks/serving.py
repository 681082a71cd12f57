"""The endpoint server against the model's own throughput, in one run.

    python benchmarks/serving.py [--dtype float32] [--seconds 8] [--rounds 2] [--model DIR]

The ceiling: as many processes of one thread as there are cores, each tokenising and encoding
texts in batches as fast as it can (embeddings), or calling ``predict`` on full batches (--handler).
Then our server, one text a request, at concurrency 1, 16 and 64. The rounds alternate, so that a
machine that others use too disturbs both alike; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOPICS = (
    "time year people way day man thing woman life child world school state family student "
    "group country problem hand part place case week company system program question work "
    "government number night point home water room mother area money story fact month lot "
    "right study book eye job word business issue side kind head house service friend "
    "father power hour game line "
)
WORDS = TOPICS.split()

CEILING = """
import json, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
asked = json.loads(sys.argv[1])
if asked["handler"]:
    from cloudai._core.handler import load_handler
    handler = load_handler(Path(asked["model"]))
    inputs = asked["inputs"]
    work = lambda: handler.predict(inputs)
else:
    from cloudai.providers.local._packed import PackedEncoder
    encoder = PackedEncoder(Path(asked["model"]), "cpu", asked["dtype"])
    inputs = asked["inputs"]
    work = lambda: encoder.encode_ids(encoder.tokenize(inputs))
work()
print("ready", flush=True)
sys.stdin.readline()
# One input at a time, in the first process alone: what concurrency 1 is compared with.
alone = []
if asked["alone"]:
    for value in inputs[:200]:
        begin = time.perf_counter()
        if asked["handler"]:
            handler.predict([value])
        else:
            encoder.encode_ids(encoder.tokenize([value]))
        alone.append(time.perf_counter() - begin)
    print(sorted(alone)[len(alone) // 2], flush=True)
    sys.exit()
done, begin = 0, time.perf_counter()
while time.perf_counter() - begin < asked["seconds"]:
    work()
    done += len(inputs)
print(done / (time.perf_counter() - begin))
"""


def texts(count: int, seed: int = 7) -> list[str]:
    """Texts of 5 to 60 words, about 17 in the mean."""
    rng = random.Random(seed)
    lengths = (min(60, max(5, int(rng.lognormvariate(2.7, 0.6)))) for _ in range(count))
    return [" ".join(rng.choice(WORDS) for _ in range(n)).capitalize() + "." for n in lengths]


def ceiling(model: str, inputs: list[Any], cores: int, seconds: float, **about: Any) -> float:
    """Inputs a second of ``cores`` processes of one thread each."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    asked = json.dumps(
        {"model": model, "inputs": inputs, "seconds": seconds, "alone": seconds == 0, **about}
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CEILING, asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        for _ in range(cores)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in running)


class Server:
    """Our server, in a process of its own."""

    def __init__(self, model: str, *arguments: str) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "cloudai.server", "--model", model]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), *arguments], stderr=self.log
        )
        end = time.monotonic() + 120
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                raise SystemExit(self.log.read().decode())
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/models") as answer:
                models = json.load(answer)["models"]
        except OSError:
            return False
        # All workers, not only the first: a load on half of them measures half.
        return bool(models) and models[0]["variants"][0]["ready"] >= self.workers

    workers = 1

    def load(self, bodies: list[str], concurrency: int, seconds: float) -> dict[str, Any]:
        asked = {"port": self.port, "path": "/predict", "bodies": bodies,
                 "concurrency": concurrency, "seconds": seconds}  # fmt: skip
        ran = subprocess.run(
            [sys.executable, str(HERE / "_load.py")],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(ran.stdout)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", help="a model directory (default: the embedded MiniLM)")
    parser.add_argument("--inputs", help="a JSON list of inputs, for a model with a handler")
    parser.add_argument("--access-log", action="store_true")
    options = parser.parse_args()
    model = options.model
    if model is None:
        from cloudai.providers.local import _models

        model = str(_models.find("embedding", "", home=Path("/nonexistent")).path)
    inputs: list[Any] = texts(512)
    if options.inputs:
        inputs = json.loads(Path(options.inputs).read_text())
    cores = len(os.sched_getaffinity(0))
    bodies = [json.dumps({"inputs": [value]}) for value in inputs]
    arguments = ["--dtype", options.dtype, "--workers", str(cores), "--device", "cpu"]
    if not options.access_log:
        arguments.append("--no-access-log")
    ceilings: list[float] = []
    alone: list[float] = []
    rates: dict[int, list[dict[str, Any]]] = {1: [], 16: [], 64: []}
    Server.workers = cores
    for _ in range(options.rounds):
        about = {"dtype": options.dtype, "handler": bool(options.inputs)}
        alone.append(ceiling(model, inputs[:512], 1, 0, **about) * 1e3)
        ceilings.append(ceiling(model, inputs[:512], cores, options.seconds, **about))
        server = Server(model, *arguments)
        try:
            server.load(bodies, 64, 2.0)  # warm
            for concurrency, found in rates.items():
                found.append(server.load(bodies, concurrency, options.seconds))
        finally:
            server.stop()
    top = statistics.median(ceilings)
    print(f"cores {cores}, {options.dtype}; ceiling {top:.0f}/s, of {[round(c) for c in ceilings]}")
    print(f"one input alone, without a server: p50 {statistics.median(alone):.2f} ms")
    for concurrency, found in rates.items():
        rate = statistics.median(one["rps"] for one in found)
        print(
            f"concurrency {concurrency:3}: {rate:7.0f}/s  {rate / top:5.2f} of the ceiling  "
            f"p50 {statistics.median(one['p50_ms'] for one in found):.1f} ms  "
            f"p99 {statistics.median(one['p99_ms'] for one in found):.1f} ms  "
            f"{found[-1]['statuses']}"
        )


if __name__ == "__main__":
    main()
