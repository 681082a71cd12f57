"""The model without a server: a process that computes batches as fast as it can.

Started with what to compute as JSON (see ``serving.py``); says ``ready``, then answers each line
on its standard input, a number of seconds, with the inputs a second that it managed. 0 seconds
asks for the median seconds of one input alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def embedding(asked: dict[str, Any]) -> Callable[[list[Any]], object]:
    """Texts to vectors, tokenising included (``forward``: without it; ``plain``: with PyTorch's own
    linear layers)."""
    from cloudai.engine import packed

    if asked["plain"]:
        packed.lays_out = lambda device, dtype: False
    encoder = packed.PackedEncoder(Path(asked["model"]), asked["device"], asked["dtype"])
    if not asked["forward"]:
        return lambda inputs: encoder.encode_ids(encoder.tokenize(inputs))
    known: dict[int, list[list[int]]] = {}

    def forward(inputs: list[Any]) -> object:
        if id(inputs) not in known:
            known[id(inputs)] = encoder.tokenize(inputs)
        return encoder.encode_ids(known[id(inputs)])

    return forward


def handler(asked: dict[str, Any]) -> Callable[[list[Any]], object]:
    from cloudai._core.handlers.handler import load_handler

    return load_handler(Path(asked["model"])).predict


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    work = (handler if asked["handler"] else embedding)(asked)
    inputs, size = asked["inputs"], asked["batch"]
    batches = [inputs[at : at + size] for at in range(0, len(inputs), size)]
    for batch in batches:
        work(batch)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = float(line)
        if not seconds:
            spent: list[float] = []
            for value in inputs[: asked["alone"]]:
                begin = time.perf_counter()
                work([value])
                spent.append(time.perf_counter() - begin)
            print(sorted(spent)[len(spent) // 2], flush=True)
            continue
        done, turn, begin, used = 0, 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            work(batches[turn % len(batches)])
            done += len(batches[turn % len(batches)])
            turn += 1
        used = time.process_time() - used
        print(done / (time.perf_counter() - begin), used / done, flush=True)


if __name__ == "__main__":
    main()
