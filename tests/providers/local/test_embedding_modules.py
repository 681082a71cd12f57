"""Embedding models with modules behind the transformer, against sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _models_fixtures import embed, profile
from support.models import END, byte_tokenizer

from cloudai.errors import ConfigError, UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.providers.local.embeddings import LocalEmbeddings

TEXTS = ("The sky is blue.", "Hi", "A much longer text, of which others have to be padded: " * 3)
PROMPTS = {"query": "Ask: ", "document": "", "STS": "Like: "}


def folder(
    path: Path, family: str, pooling: str, *, dense: tuple[str, ...] = (), normalize: bool = True,
    new: bool = False, **about: Any,
) -> Path:  # fmt: skip
    """A sentence-transformers folder with a tiny random model, its pooling and dense layers."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import processors
    from transformers import (
        BertConfig,
        BertModel,
        Gemma3TextConfig,
        Gemma3TextModel,
        Qwen3Config,
        Qwen3Model,
    )

    shape: dict[str, Any] = {
        "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 512, "pad_token_id": END,
    }  # fmt: skip
    torch.manual_seed(5)
    if family == "bert":
        model: Any = BertModel(BertConfig(**shape))
    elif family == "qwen3":
        model = Qwen3Model(Qwen3Config(**shape, num_key_value_heads=2, head_dim=8))
    else:
        model = Gemma3TextModel(
            Gemma3TextConfig(**shape, num_key_value_heads=1, head_dim=8, sliding_window=16,
                             use_bidirectional_attention=True)
        )  # fmt: skip
    model.save_pretrained(path)
    coder = byte_tokenizer(model_max_length=300)
    coder.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", END)]
    )  # what Qwen3-Embedding's does with its own end
    coder.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **about}))
    modules = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalize]
    listed: list[dict[str, Any]] = []
    for at, name in enumerate(modules):
        where = "" if not at else f"{at}_{name}"
        (path / where).mkdir(exist_ok=True)
        listed.append({"idx": at, "name": str(at), "path": where,
                       "type": f"sentence_transformers.models.{name}"})  # fmt: skip
    (path / "modules.json").write_text(json.dumps(listed))
    # ``new`` as sentence-transformers 6 writes it: one name instead of a switch a mode.
    switches = {"pooling_mode": pooling} if new else {
        f"pooling_mode_{name}": name.startswith(pooling)
        for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken", "weightedmean_tokens")
    }  # fmt: skip
    pool = {"word_embedding_dimension": 32, **switches, "include_prompt": True}
    if new:
        pool = {"embedding_dimension": 32, **switches, "include_prompt": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pool))
    width = 32
    for at, activation in enumerate(dense, 2):
        size = 48 if at == 2 else 24
        layer = torch.nn.Linear(width, size)
        about_layer = {"in_features": width, "out_features": size, "bias": True,
                       "activation_function": f"torch.nn.modules.{activation}"}  # fmt: skip
        (path / f"{at}_Dense" / "config.json").write_text(json.dumps(about_layer))
        weights = {f"linear.{name}": value.data for name, value in layer.named_parameters()}
        save_file(weights, str(path / f"{at}_Dense" / "model.safetensors"))
        width = size
    (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": PROMPTS}))
    return path


@pytest.fixture
def embeddings(tmp_path: Path):
    mine = profile(tmp_path)
    yield LocalEmbeddings(mine)
    mine.close()


KINDS: list[dict[str, Any]] = [
    {"family": "qwen3", "pooling": "lasttoken"},
    {"family": "qwen3", "pooling": "lasttoken", "new": True},
    {"family": "qwen3", "pooling": "weightedmean", "normalize": False},
    {"family": "gemma3", "pooling": "mean", "dense": ("linear.Identity", "linear.Identity")},
    {"family": "bert", "pooling": "cls", "dense": ("activation.Tanh",)},
    {"family": "bert", "pooling": "weightedmean"},
    {"family": "bert", "pooling": "lasttoken"},
    {"family": "bert", "pooling": "mean", "dense": ("activation.Tanh",), "normalize": False},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_i15_5_as_sentence_transformers(
    embeddings: LocalEmbeddings, tmp_path: Path, kind: dict[str, Any]
) -> None:
    theirs = pytest.importorskip(
        "sentence_transformers", reason="the witness is too heavy for the dev group"
    )
    path = folder(tmp_path / "m", **kind)
    model = theirs.SentenceTransformer(str(path), device="cpu")
    for task, name in ((None, None), ("query", "query"), ("similarity", "STS")):
        expected = model.encode(list(TEXTS), prompt_name=name)
        found = embeddings.embed(embed(*TEXTS, model=path, task=task), Call()).array
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3], KINDS[4]])
def test_i15_5_a_text_alone_is_as_among_others(
    embeddings: LocalEmbeddings, tmp_path: Path, kind: dict[str, Any]
) -> None:
    path = folder(tmp_path / "m", **kind)
    together = embeddings.embed(embed(*TEXTS, model=path), Call())
    for at, text in enumerate(TEXTS):
        alone = embeddings.embed(embed(text, model=path), Call()).array
        np.testing.assert_allclose(alone[0], together.array[at], atol=1e-5)
    assert together.dim == {"qwen3": 32, "gemma3": 24, "bert": 48}[kind["family"]]
    assert together.usage.input_tokens == sum(len(text) + 1 for text in TEXTS)


def test_i15_5_dimensions_where_the_model_was_trained_for_them(
    embeddings: LocalEmbeddings, tmp_path: Path
) -> None:
    some = folder(tmp_path / "a", "bert", "mean", matryoshka_dimensions=[8, 16])
    whole = embeddings.embed(embed(*TEXTS, model=some), Call()).array
    cut = embeddings.embed(embed(*TEXTS, model=some, dimensions=8), Call())
    assert cut.dim == 8
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut.array, expected, atol=1e-6)
    with pytest.raises(UnsupportedByProvider, match="may be cut to 8, 16"):
        embeddings.embed(embed("a", model=some, dimensions=12), Call())
    for size in (0, 33):
        with pytest.raises(UnsupportedByProvider):
            embeddings.embed(embed("a", model=some, dimensions=size), Call())
    any_ = folder(tmp_path / "b", "bert", "mean", is_matryoshka=True)
    assert embeddings.embed(embed("a", model=any_, dimensions=12), Call()).dim == 12
    plain = folder(tmp_path / "c", "bert", "mean")
    assert embeddings.embed(embed("a", model=plain, dimensions=32), Call()).dim == 32
    with pytest.raises(UnsupportedByProvider, match="not made to be cut.*is_matryoshka"):
        embeddings.embed(embed("a", model=plain, dimensions=8), Call())


def test_i15_5_what_is_not_known_is_refused(embeddings: LocalEmbeddings, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", "bert", "mean", dense=("activation.Softsign",))
    with pytest.raises(ConfigError, match="activation Softsign"):
        embeddings.embed(embed("a", model=path), Call())
    (path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="dense layer at .*2_Dense cannot be loaded"):
        embeddings.embed(embed("a", model=path), Call())


def test_i15_5_texts_are_tokenised_beside_a_gpu(monkeypatch, tmp_path: Path) -> None:
    """The order of texts and the places in errors stay, part by part."""
    from cloudai.engine import embeddings as engine
    from cloudai.engine.packed import PackedEncoder
    from cloudai.errors import ContextOverflow

    monkeypatch.setattr(engine, "AHEAD", 2)
    path = folder(tmp_path / "m", "bert", "mean")
    encoder, beside = PackedEncoder(path), PackedEncoder(path)
    texts = ("one", "three", "5", "seven of them", "nine")
    count, whole = engine._encoded(encoder, texts, False, Call())
    beside.device = "mps"  # what it says; its work is the CPU's
    beside._forward = encoder._forward
    encoder = beside
    parts, found = engine._encoded(encoder, texts, False, Call())
    assert parts == count
    np.testing.assert_allclose(found, whole, atol=1e-6)
    with pytest.raises(ContextOverflow, match=r"texts\[3\]"):
        engine._encoded(encoder, ("a", "b", "c", "d" * 600), False, Call())
