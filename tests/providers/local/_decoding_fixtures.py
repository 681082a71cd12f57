"""Small random models of the architectures that are decoded in a batch, and what asks them."""

from __future__ import annotations

import functools
import queue
from collections.abc import Sequence
from typing import Any

WIDTH = 199
_BASE = {
    "vocab_size": WIDTH,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MORE: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8,
                   "layer_types": ["sliding_attention", "full_attention"]},
    "Phi": {},
    "Phi3": {},
    "SmolLM3": {"no_rope_layers": [1, 0]},
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
                 "moe_intermediate_size": 16},
}  # fmt: skip
FAMILIES = sorted(_MORE)


@functools.cache
def model(family: str) -> Any:
    """One whose scores are far apart, as a trained model's are."""
    import torch
    import transformers

    config = getattr(transformers, f"{family}Config")(**_BASE, **_MORE[family])
    torch.set_num_threads(1)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    made = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    torch.set_rng_state(state)
    return made


def prompts(count: int, longest: int = 60) -> list[list[int]]:
    import torch

    chance = torch.Generator().manual_seed(3)
    sizes = torch.randint(1, longest, (count,), generator=chance).tolist()
    return [torch.randint(3, WIDTH, (size,), generator=chance).tolist() for size in sizes]


def greedy(plain: Any, prompt: Sequence[int], size: int) -> list[int]:
    """transformers' own greedy tokens."""
    import torch

    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        made = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=size, max_new_tokens=size, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return made[0, len(prompt) :].tolist()


class Asked:
    """A request of an engine."""

    def __init__(self, engine: Any, prompt: Sequence[int], limit: int, **fields: Any) -> None:
        from cloudai.engine.decoding.sampling import Sampling

        self.pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        ends = fields.pop("ends", frozenset())
        grammar = fields.pop("grammar", None)
        self.request = engine.submit(
            prompt, limit=limit, how=Sampling(**fields), ends=ends, sink=self.pieces.put,
            grammar=grammar,
        )  # fmt: skip

    def tokens(self) -> list[int]:
        made: list[int] = []
        while (piece := self.pieces.get(timeout=60)) is not None:
            if isinstance(piece, Exception):
                raise piece
            made += piece
        return made
