"""The local chat engine against transformers' own ways, with random weights of real shapes.

    python benchmarks/engine.py --device cuda --shape 8b --what one,many,gaps,transformers
    python benchmarks/engine.py --device cuda --shape 8b --what serve
    python benchmarks/engine.py --device cpu --shape 135m --what one,many,transformers

Each line of the output is one JSON object. A piece takes less than 8 minutes. It needs torch (with
CUDA for a GPU), transformers, and what cloudai's extras ``local`` and ``server`` name; on a machine
without a registry, carry the wheels of msgspec, platformdirs, typer, httptools, orjson and uvloop
and put them and the checkout on PYTHONPATH. The model's folder is made under ``--folder``, which
should be in memory (16 GB for 8b), and is kept for the next piece.

- one: a text alone, before and after compiling, as a fraction of what memory allows: its read
  bandwidth by the bytes of the weights.
- many: 128 callers (``--callers``), each with one request after the other, prompts of 32 to 256
  tokens and answers of 64 to 256, with temperature and top_p, as text; counted while all ask.
- gaps: 64 texts run; the first token of a newcomer, and the gaps between the others' tokens.
- serve: the same callers at ``cloudai serve``, streaming.
- transformers: generate alone (and with a static cache, compiled), and continuous batching of 128
  requests with and without its CUDA graphs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tell(**row: Any) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}),
          flush=True)  # fmt: skip


def make(shape: str, folder: Path, device: str) -> Path:
    """A folder with random weights, and a tokenizer of one token a byte and many longer ones."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    place = folder / shape
    if (place / "done").exists():
        return place
    width = SHAPES[shape]["vocab_size"]
    config = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=8192, bos_token_id=0, eos_token_id=width - 1,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(place, max_shard_size="4GB")
    del model
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: at for at, letter in enumerate(sorted(letters))}
    chance = random.Random(0)
    while len(vocabulary) < width - 1:
        word = "Ġ" + "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 7)))
        vocabulary.setdefault(word, len(vocabulary))
    vocabulary["<|end|>"] = width - 1
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", chat_template=TEMPLATE
    ).save_pretrained(place)
    (place / "done").touch()
    return place


def bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes."""
    import torch

    size = (4 << 30) if device.startswith("cuda") else (1 << 28)
    data = torch.zeros(size, dtype=torch.uint8, device=device)
    other, best = torch.empty_like(data), 0.0
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(4):
            other.copy_(data)
        int(other[0])
        best = max(best, 8 * size / (time.perf_counter() - began))
    return best


class Asking:
    """The engine as callers in this process see it: requests in, text out."""

    def __init__(self, place: Path, device: str) -> None:
        from cloudai.engine.chat import ChatModels

        began = time.perf_counter()
        self.chats = ChatModels(home=place.parent / "home", device=device)
        self.place = place
        self.ask("warm", 1)
        self.seconds = time.perf_counter() - began
        (self.model,) = self.chats._held._held.values()

    def stream(self, text: str, limit: int, **fields: Any) -> Any:
        from cloudai.protocols import Call
        from cloudai.types import ChatRequest, Message

        request = ChatRequest(
            model=str(self.place), messages=(Message("system", ""), Message("user", text)),
            max_tokens=limit, **fields,
        )  # fmt: skip
        return self.chats.stream(request, Call())

    def ask(self, text: str, limit: int, **fields: Any) -> int:
        usage = None
        for chunk in self.stream(text, limit, **fields):
            usage = chunk.usage or usage
        return usage.output_tokens if usage is not None else 0


def prompt(chance: random.Random, size: int) -> str:
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=size))


def rate_alone(asking: Asking, tokens: int) -> float:
    """Tokens a second of one text, between its 8th token and its last."""
    from cloudai.engine.decoding.sampling import Sampling

    marks: list[float] = []
    over = threading.Event()

    def sink(piece: Any) -> None:
        if isinstance(piece, list):
            marks.append(time.perf_counter())
        else:
            over.set()

    ids = asking.model.encode(prompt(random.Random(1), 128))
    asking.model.engine.submit(ids, limit=tokens, how=Sampling(), ends=frozenset(), sink=sink)
    over.wait()
    return (len(marks) - 8) / (marks[-1] - marks[7])


def one(asking: Asking, device: str, shape: str) -> None:
    weights = sum(w.numel() * w.element_size() for w in asking.model.model.parameters())
    limit = bandwidth(device) / weights
    tokens = 192 if device.startswith("cuda") else 48
    rate_alone(asking, 16)
    before = max(rate_alone(asking, tokens) for _ in range(2))
    row = {"of_limit": before / limit, "limit": limit, "loading_s": asking.seconds}
    tell(what="one", shape=shape, device=device, state="as loaded", tok_s=before, **row)
    compiled = getattr(asking.model.engine.runner, "_compiled", None)
    if compiled is not None:
        began = time.perf_counter()
        done = compiled.wait(300)
        waited = time.perf_counter() - began
        rate_alone(asking, 16)
        after = max(rate_alone(asking, tokens) for _ in range(3))
        tell(what="one", shape=shape, device=device, state="compiled", tok_s=after, done=done,
             of_limit=after / limit, limit=limit, compile_s=waited)  # fmt: skip


def many(asking: Asking, device: str, shape: str, callers: int, seconds: float) -> None:
    for fields in ({}, {"temperature": 0.8, "top_p": 0.95}):
        made, since, until = [0] * callers, time.perf_counter() + seconds / 3, 0.0
        until = since + seconds

        def caller(at: int, fields: dict[str, Any], made: list[int], since: float,
                   until: float) -> None:  # fmt: skip
            chance = random.Random(at)
            while time.perf_counter() < until:
                text, limit = prompt(chance, chance.randint(32, 256)), chance.randint(64, 256)
                before = 0
                for chunk in asking.stream(text, limit, **fields):
                    now = time.perf_counter()
                    if chunk.usage is not None:
                        # Of a text that runs past an end of the time, the part in it counts.
                        share = (min(now, until) - max(before, since)) / (now - before)
                        made[at] += round(chunk.usage.output_tokens * max(0.0, min(1.0, share)))
                    before = before or now

        threads = [
            threading.Thread(target=caller, args=(at, fields, made, since, until))
            for at in range(callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tell(what="many", shape=shape, device=device, callers=callers, tok_s=sum(made) / seconds,
             sampling=bool(fields))  # fmt: skip


def gaps(asking: Asking, device: str, shape: str, running: int) -> None:
    from cloudai.engine.decoding.sampling import Sampling

    engine, chance = asking.model.engine, random.Random(2)
    marks: list[list[float]] = []

    def begin(size: int, limit: int) -> list[float]:
        mine: list[float] = []
        engine.submit(
            asking.model.encode(prompt(chance, size)), limit=limit, how=Sampling(),
            ends=frozenset(),
            sink=lambda piece: mine.append(time.perf_counter()) if piece else None,
        )  # fmt: skip
        return mine

    def first(size: int) -> float:
        began = time.perf_counter()
        mine = begin(size, 4)
        while not mine:
            time.sleep(0.0002)
        return mine[0] - began

    first(200)
    alone = min(first(200) for _ in range(3))
    marks = [begin(chance.randint(32, 256), 600) for _ in range(running)]
    while min(map(len, marks)) < 100:
        time.sleep(0.01)
    came: list[float] = []
    for _ in range(10):
        came.append(first(200))
        time.sleep(0.1)
    while not engine.idle:
        time.sleep(0.01)
    steps = sorted(
        after - before for mine in marks for before, after in itertools.pairwise(mine[50:])
    )
    median, late = steps[len(steps) // 2], steps[int(len(steps) * 0.99)]
    came.sort()
    tell(what="gaps", shape=shape, device=device, running=running, step_ms=median * 1e3,
         p99_ms=late * 1e3, p99_of_median=late / median, worst_ms=steps[-1] * 1e3,
         newcomer_ms=came[5] * 1e3, newcomer_worst_ms=came[-1] * 1e3, alone_ms=alone * 1e3,
         newcomer_steps=(came[5] - alone) / median)  # fmt: skip


def serve(place: Path, device: str, shape: str, callers: int, seconds: float) -> None:
    """Streams of a server in a process of its own, read by another."""
    port = 8300
    command = [sys.executable, "-m", "cloudai.cli", "serve", f"m={place}", "--port", str(port),
               "--device", device, "--timeout", "120"]  # fmt: skip
    env = {**os.environ, "CLOUDAI_HOME": str(place.parent / "home")}
    server = subprocess.Popen(command, env=env, stdout=sys.stderr)
    try:
        asyncio.run(_streams(port, device, shape, callers, seconds))
    finally:
        server.terminate()
        server.wait(20)


async def _streams(port: int, device: str, shape: str, callers: int, seconds: float) -> None:
    async def ask(text: str, limit: int) -> tuple[int, float]:
        body = json.dumps(
            {"model": "m", "stream": True, "stream_options": {"include_usage": True},
             "messages": [{"role": "system", "content": ""}, {"role": "user", "content": text}],
             "max_tokens": limit, "temperature": 0.8, "top_p": 0.95}
        ).encode()  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        first, answer = 0.0, b""
        while piece := await reader.read(1 << 16):
            first = first or time.perf_counter()
            answer = (answer + piece)[-2000:]
        writer.close()
        found = answer.rfind(b'"completion_tokens":')
        if found < 0:
            raise RuntimeError(answer.decode(errors="replace"))
        return int(answer[found + 20 :].split(b",")[0].split(b"}")[0]), first

    for _ in range(600):
        try:
            await ask("warm", 4)
            break
        except (OSError, RuntimeError):  # it loads the model
            await asyncio.sleep(0.2)
    made = 0.0

    async def caller(at: int, since: float, until: float) -> None:
        nonlocal made
        chance = random.Random(at)
        while time.perf_counter() < until:
            text, limit = prompt(chance, chance.randint(32, 256)), chance.randint(64, 256)
            tokens, first = await ask(text, limit)
            now = time.perf_counter()
            share = (min(now, until) - max(first, since)) / (now - first)
            made += tokens * max(0.0, min(1.0, share))

    # A first round, in which graphs are captured and layers compiled.
    for warming in (True, False):
        made = 0.0
        since = time.perf_counter() + (40 if warming else seconds / 3)
        until = since + (1 if warming else seconds)
        await asyncio.gather(*(caller(at, since, until) for at in range(callers)))
    tell(what="serve", shape=shape, device=device, callers=callers, tok_s=made / seconds,
         sampling=True)  # fmt: skip


def transformers(place: Path, device: str, shape: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    gpu = device.startswith("cuda")
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).to(device).eval()
    model.generation_config.eos_token_id = None
    new = 128 if gpu else 32
    ways: list[tuple[str, dict[str, Any]]] = [("generate", {})]
    if gpu:
        ways.append(("generate, static cache, compiled", {"cache_implementation": "static"}))
    ids = torch.randint(10, 1000, (1, 128), device=device)
    for name, fields in ways:
        rates: list[float] = []
        for _ in range(3):
            began = time.perf_counter()
            with torch.inference_mode():
                model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                               min_new_tokens=new, max_new_tokens=new, **fields)  # fmt: skip
            if gpu:
                torch.cuda.synchronize()
            rates.append(new / (time.perf_counter() - began))
        tell(what="transformers", shape=shape, device=device, way=name, tok_s=max(rates))
    if not gpu:
        return
    from transformers import ContinuousBatchingConfig

    chance = random.Random(0)
    requests = [[chance.randint(10, 4000) for _ in range(chance.randint(32, 256))]
                for _ in range(128)]  # fmt: skip
    settings = GenerationConfig(max_new_tokens=160, min_new_tokens=160, do_sample=False,
                                eos_token_id=None, pad_token_id=0)  # fmt: skip
    for graphs in (False, True):
        found: list[float] = []
        for _ in range(2):
            began = time.perf_counter()
            out = model.generate_batch(
                inputs=requests, generation_config=settings, progress_bar=False,
                continuous_batching_config=ContinuousBatchingConfig(use_cuda_graph=graphs),
            )  # fmt: skip
            torch.cuda.synchronize()
            tokens = sum(len(one.generated_tokens) for one in out.values())
            found.append(tokens / (time.perf_counter() - began))
        tell(what="transformers", shape=shape, device=device, tok_s=max(found),
             way=f"continuous batching of 128{' with graphs' if graphs else ''}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default="135m", choices=sorted(SHAPES))
    parser.add_argument("--what", default="one,many")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/cloudai-engine"))
    parser.add_argument("--callers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=12)
    given = parser.parse_args()
    device = "cuda:0" if given.device == "cuda" else given.device
    callers = given.callers or (128 if device.startswith("cuda") else 16)
    place = make(given.shape, given.folder, device)
    wanted = given.what.split(",")
    if "transformers" in wanted:
        transformers(place, device, given.shape)
    if "serve" in wanted:
        serve(place, device, given.shape, callers, given.seconds)
    if {"one", "many", "gaps"} & set(wanted):
        asking = Asking(place, device)
        if "one" in wanted:
            one(asking, device, given.shape)
        if "many" in wanted:
            many(asking, device, given.shape, callers, given.seconds)
        if "gaps" in wanted:
            gaps(asking, device, given.shape, callers // 2)


if __name__ == "__main__":
    main()
