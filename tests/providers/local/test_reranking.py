"""Cross-encoders, against sentence-transformers, and through the client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _models_fixtures import random_llama
from support.models import END, byte_tokenizer

from cloudai.client import AsyncClient, Client
from cloudai.errors import ConfigError, ContextOverflow, InvalidRequest, UnsupportedByProvider

QUERY = "What is blue?"
DOCUMENTS = ["A cat.", "The sky is blue, and so is the sea on most days.", "Blue", "No."]


def cross_encoder(path: Path, labels: int = 1, **about: Any) -> Path:
    import torch
    from tokenizers import processors
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=90, pad_token_id=END, num_labels=labels,
        initializer_range=0.4,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    said = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**said, **about}))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    coder = byte_tokenizer(model_max_length=90, model_input_names=names)
    coder.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[("<|im_start|>", 256), ("<|im_end|>", END)],
    )
    coder.save_pretrained(path)
    return path


@pytest.fixture
def client(tmp_path: Path):
    with Client("local", home=str(tmp_path / "home"), device="cpu") as made:
        yield made


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_i15_5_ranks_as_sentence_transformers(client: Client, tmp_path: Path, about: Any) -> None:
    theirs = pytest.importorskip(
        "sentence_transformers", reason="the witness is too heavy for the dev group"
    )
    path = cross_encoder(tmp_path / "m", **about)
    model = theirs.CrossEncoder(str(path), device="cpu")
    expected = model.rank(QUERY, DOCUMENTS)
    reply = client.embeddings.rerank(QUERY, DOCUMENTS, model=str(path))
    assert [one.index for one in reply.ranking] == [one["corpus_id"] for one in expected]
    for ours, other in zip(reply.ranking, expected, strict=True):
        assert ours.score == pytest.approx(float(other["score"]), abs=1e-5)


async def test_i15_5_the_best_documents_come_first(client: Client, tmp_path: Path) -> None:
    path = str(cross_encoder(tmp_path / "m"))
    reply = client.embeddings.rerank(QUERY, DOCUMENTS, model=path)
    scores = [one.score for one in reply.ranking]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(DOCUMENTS)
    assert (reply.provider, reply.cost) == ("local", 0.0)
    assert reply.usage.input_tokens == sum(len(QUERY) + len(one) + 3 for one in DOCUMENTS)
    best = client.embeddings.rerank(QUERY, DOCUMENTS, model=path, top_n=2)
    assert best.ranking == reply.ranking[:2]
    alone = client.embeddings.rerank(QUERY, DOCUMENTS[:1], model=path)
    (same,) = [one.score for one in reply.ranking if one.index == 0]
    assert alone.ranking[0].score == pytest.approx(same, abs=1e-5)
    async with AsyncClient("local", home=str(tmp_path / "home"), device="cpu") as other:
        assert (await other.embeddings.rerank(QUERY, DOCUMENTS, model=path)) == reply


def test_i15_5_what_cannot_be_ranked(client: Client, tmp_path: Path) -> None:
    path = str(cross_encoder(tmp_path / "m"))
    rerank = client.embeddings.rerank
    with pytest.raises(ContextOverflow, match=r"documents\[1\] has \d+ tokens with the query"):
        rerank(QUERY, ["a", "b" * 200], model=path)
    assert rerank(QUERY, ["a", "b" * 200], model=path, truncate=True).usage.input_tokens == 107
    with pytest.raises(InvalidRequest, match=r"documents\[1\]"):
        rerank(QUERY, ["a", " "], model=path)
    with pytest.raises(InvalidRequest, match="documents"):
        rerank(QUERY, [], model=path)
    with pytest.raises(InvalidRequest, match="Name a cross-encoder"):
        rerank(QUERY, ["a"])
    with pytest.raises(ConfigError, match="has 3 labels"):
        rerank(QUERY, ["a"], model=str(cross_encoder(tmp_path / "n", labels=3)))
    with pytest.raises(ConfigError):
        rerank(QUERY, ["a"], model=str(random_llama()))


def test_i15_5_a_provider_without_such_models_says_so() -> None:
    with Client("fake") as fake, pytest.raises(UnsupportedByProvider, match="cross-encoder"):
        fake.embeddings.rerank(QUERY, DOCUMENTS)
