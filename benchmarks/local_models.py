"""What the local chat and embeddings cost beside transformers' own calls, on the same models.

``python benchmarks/local_models.py [--check]`` prints tokens a second of our token loop and of
``generate()`` (greedy, 48 new tokens, the embedded chat model), texts a second of the packed
encoder and of transformers with sorted, padded batches (400 texts of 5 to 30 words), and the
seconds to load; ``--check`` exits with 1 where ours is slower than 0.95 of transformers'. The two
take turns, and each figure is the best of the rounds: other work on the machine only slows. On a
CPU one thread works, and its own CPU time counts, for the same reason; ``--threads N`` counts
the clock's time with N threads instead.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from cloudai._core.state.home import default_home
from cloudai.engine import catalog
from cloudai.engine import device as _device
from cloudai.protocols import Call

TOKENS = 48
TEXTS = 400
WORDS = (
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "near", "some", "old",
    "river", "while", "music", "plays",
)  # fmt: skip
PROMPT = [
    {"role": "system", "content": "You are a concise, factual assistant."},
    {"role": "user", "content": "Write a long story about a dog."},
]


def best(
    rounds: int, units: int, clock: Callable[[], float], *calls: Callable[[], Any]
) -> list[float]:
    """Units a second of each call, taking turns."""
    rates = [0.0] * len(calls)
    for _ in range(rounds):
        for at, call in enumerate(calls):
            began = clock()
            call()
            rates[at] = max(rates[at], units / (clock() - began))
    return rates


def chat(rounds: int, device: str, clock: Callable[[], float]) -> float:
    import torch

    from cloudai.engine.generation import ChatModel, Sampling

    kind = _device.chat_dtype(device)
    folder = catalog.chat_folder(catalog.find("chat", "", home=default_home()), default_home())
    began = time.perf_counter()
    model = ChatModel(folder, device, kind)
    print(f"chat: {device}, {kind}, loaded in {time.perf_counter() - began:.1f} s")
    prompt = model.render(PROMPT)
    ids = torch.tensor([prompt], device=device)

    def ours() -> None:
        model.ends = frozenset()
        steps = model.generate(prompt, limit=TOKENS, sampling=Sampling(), call=Call())
        assert sum(map(len, steps)) == TOKENS

    def theirs() -> None:
        with torch.inference_mode():
            model.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=TOKENS,
                max_new_tokens=TOKENS,
                pad_token_id=0,
            )

    mine, other = best(rounds, TOKENS, clock, ours, theirs)
    print(f"chat: ours {mine:.1f} tokens/s, generate() {other:.1f}: {mine / other:.2f} times")
    return mine / other


def embeddings(rounds: int, device: str, clock: Callable[[], float]) -> float:
    from cloudai.engine.packed import PackedEncoder
    from cloudai.engine.padded import PaddedEncoder

    path = catalog.find("embedding", "", home=default_home()).path
    began = time.perf_counter()
    packed = PackedEncoder(path, device)
    print(f"embeddings: {device}, float32, loaded in {time.perf_counter() - began:.1f} s")
    padded = PaddedEncoder(path, device)
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) for _ in range(TEXTS)]
    mine, other = best(
        rounds,
        TEXTS,
        clock,
        lambda: packed.encode_ids(packed.tokenize(texts)),
        lambda: padded.encode_ids(padded.tokenize(texts)),
    )
    print(f"embeddings: packed {mine:.0f} texts/s, padded {other:.0f}: {mine / other:.2f} times")
    return mine / other


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    device = _device.pick(chosen.device)
    import torch

    torch.set_num_threads(chosen.threads or 1)
    clock = time.perf_counter if chosen.threads or device != "cpu" else time.process_time
    ratios = [part(chosen.rounds, device, clock) for part in (embeddings, chat)]
    return 1 if chosen.check and min(ratios) < 0.95 else 0


if __name__ == "__main__":
    sys.exit(main())
