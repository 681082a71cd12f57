"""Small models made on the spot, and the embedded ones where they are installed."""

from __future__ import annotations

import atexit
import fcntl
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from support.models import END, START, TEMPLATE, byte_tokenizer

from cloudai._core.profiles.config import Config, Profile
from cloudai.engine import catalog, gguf
from cloudai.errors import ConfigError
from cloudai.types import ChatRequest, EmbeddingRequest, Message

VOCABULARY = 258


def profile(home: Path, **keys: Any) -> Profile:
    return Config(start=home).profile("local", home=str(home), device="cpu", **keys)


def ask(text: str = "Hi", *, model: str | Path = "", **fields: Any) -> ChatRequest:
    messages = fields.pop("messages", (Message("user", text),))
    return ChatRequest(model=str(model), messages=messages, **fields)


def embed(*texts: str, model: str | Path = "", **fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest(model=str(model), texts=texts, **fields)


def installed(kind: Any) -> None:
    """Skips where the embedded model is not installed."""
    try:
        catalog.find(kind, "", home=Path("/nowhere"))
    except ConfigError as error:
        pytest.skip(str(error))


def llama(path: Path, *, context: int = 512, says: str | None = None, template: str = TEMPLATE):
    """A Llama of few weights with the byte tokenizer.

    ``says``: what it always answers greedily, of letters whose bytes are all different; None
    gives random weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=VOCABULARY + 6 if says is not None else 32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    torch.set_num_threads(1)  # a second one gains such tensors nothing, and waits under load
    torch_state = torch.get_rng_state()
    torch.manual_seed(7)
    model = LlamaForCausalLM(config)
    if says is not None:
        chain = [ord("\n"), *says.encode(), END]
        assert len(set(chain)) == len(chain), "each byte once"
        with torch.no_grad():
            # Layers that add nothing: the next token depends on the last one alone.
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY, config.hidden_size))
            model.lm_head.weight.zero_()
            for last, following in itertools.pairwise(chain):
                model.lm_head.weight[following, last] = 1.0
    else:
        with torch.no_grad():
            model.lm_head.weight.mul_(40)  # logits far apart, as in a trained model
    torch.set_rng_state(torch_state)
    model.save_pretrained(path)
    byte_tokenizer(chat_template=template or None).save_pretrained(path)
    return path


@functools.cache
def scripted(says: str, context: int = 512) -> Path:
    return llama(_folder() / "model", says=says, context=context)


@functools.cache
def random_llama(context: int = 512) -> Path:
    return llama(_folder() / "model", context=context)


@functools.cache
def real_home() -> Path:
    """A home with the embedded chat model converted: by one of two processes at once, after a
    third was killed in the middle, beside what an earlier one left."""
    installed("chat")
    home = _folder()
    found = catalog.find("chat", "", home=home)
    folder = home / "models"
    left = folder / ".making-left"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    code = (
        "import sys; from pathlib import Path; from cloudai.engine import gguf as _convert\n"
        "print(_convert.ensure(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, str(found.path), found.key, str(folder)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    killed = start()
    limit = time.monotonic() + 60
    while not _is_locked(folder / ".lock"):
        assert time.monotonic() < limit, "the conversion did not begin"
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not gguf.ready(found.key, folder)
    both = [start(), start()]
    for process in both:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        assert out.strip() == str(gguf.place(found.key, folder))
    return home


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="cloudai-test-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
