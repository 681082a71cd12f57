"""Small models made on the spot."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START, END = 256, 257

TOOLS = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL{{ c.function | tojson }}END{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def template(mark: str = "", end: str = "", asks: str = ASKS) -> str:
    """What the templates of Qwen, Llama and Mistral have in common, with a format's marks."""
    return TOOLS + TURNS.replace("CALL", mark).replace("END", end) + asks


HERMES = template("\n<tool_call>\n", "\n</tool_call>")
LLAMA = template("{# ipython #}") + '{# "parameters" #}'
MISTRAL = template("[TOOL_CALLS][", "]")
MISTRAL_ARGS = template("[TOOL_CALLS]") + "{# [ARGS] #}"
ASKS_THINKING = "{# enable_thinking <think> #}"


def byte_symbols() -> list[str]:
    """The letter that stands for each byte in byte-level tokenizers (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(byte if byte in plain else next(moved)) for byte in range(256)]


def byte_tokenizer(**settings: Any) -> Any:
    """A tokenizer with one token a byte, so that every other letter is spread over several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(
        models.BPE(vocab={symbol: at for at, symbol in enumerate(byte_symbols())}, merges=[])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        **settings,
    )


def writes(
    path: Path,
    *pieces: str,
    template: str = TEMPLATE,
    special: tuple[str, ...] = (),
    loop: bool = False,
) -> Path:
    """A Llama that writes these texts one after the other, a token each, behind a prompt that ends
    with a newline. No two may be alike, and none a single letter; ``special`` of them are special
    tokens. ``loop``: then it begins anew."""
    import torch
    from tokenizers import AddedToken
    from transformers import LlamaConfig, LlamaForCausalLM

    assert len(set(pieces)) == len(pieces), "each piece once"
    coder = byte_tokenizer(chat_template=template)
    coder.add_tokens([AddedToken(one, special=one in special, normalized=False) for one in pieces])
    ids = [coder.convert_tokens_to_ids(one) for one in pieces]
    size = len(coder)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size + size % 2, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=4096, tie_word_embeddings=False,
        bos_token_id=START, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    torch.set_num_threads(1)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, config.hidden_size))
        model.lm_head.weight.zero_()
        model.lm_head.weight[END].fill_(0.1)  # what was not foreseen ends it
        model.lm_head.weight[ord("]")].fill_(0.05)
        for last, following in itertools.pairwise([ord("\n"), *ids, ids[0] if loop else END]):
            model.lm_head.weight[following, last] = 1.0
    model.save_pretrained(path)
    coder.save_pretrained(path)
    return path
