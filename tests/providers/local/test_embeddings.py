"""Embeddings on this machine: a tiny BERT against transformers' own, and the embedded model."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _models_fixtures import _folder, embed, installed, profile

from cloudai.engine.encoder import batches
from cloudai.engine.packed import PackedEncoder
from cloudai.engine.padded import PaddedEncoder
from cloudai.errors import (
    CallTimeout,
    ConfigError,
    ContextOverflow,
    InvalidRequest,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.local.embeddings import LocalEmbeddings

WORDS = [f"w{at}" for at in range(60)]


def bert(path: Path, kind: str = "bert", **sentence: Any) -> Path:
    """A tiny random BERT or RoBERTa with one token a word; ``sentence``: the modules' configs."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertModel,
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaModel,
    )

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made = Tokenizer(
        models.WordLevel({w: at for at, w in enumerate([*special, *WORDS])}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    )
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
    }
    torch.set_num_threads(1)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    if kind == "bert":
        model = BertModel(BertConfig(**sizes))
    else:
        model = XLMRobertaModel(XLMRobertaConfig(**{**sizes, "type_vocab_size": 1}))
    torch.set_rng_state(state)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    if sentence:
        modules = ["Transformer", "Pooling", *sentence.pop("more", [])]
        paths = {"Transformer": "", "Pooling": "1_Pooling"}
        (path / "modules.json").write_text(
            json.dumps(
                [
                    {"idx": at, "path": paths.get(name, ""), "type": f"x.models.{name}"}
                    for at, name in enumerate(modules)
                ]
            )
        )
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(sentence.pop("pooling")))
        (path / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": sentence.pop("max_length", None)})
        )
        (path / "config_sentence_transformers.json").write_text(
            json.dumps({"prompts": sentence.pop("prompts", {})})
        )
        assert not sentence
    return path


@functools.cache
def tiny(kind: str = "bert") -> Path:
    return bert(_folder() / "model", kind)


def some_texts(count: int = 25) -> tuple[str, ...]:
    return tuple(" ".join(WORDS[at % 7 : at % 7 + 1 + at * 5 % 23]) for at in range(count))


@pytest.fixture
def embeddings(tmp_path: Path):
    mine = profile(tmp_path)
    yield LocalEmbeddings(mine)
    mine.close()


# ------------------------------------------------------------------ the encoder


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_packed_equals_transformers(kind: str):
    packed, padded = PackedEncoder(tiny(kind)), PaddedEncoder(tiny(kind))
    assert (packed.dim, packed.limit) == (padded.dim, padded.limit)
    ids = packed.tokenize(some_texts())
    assert ids == padded.tokenize(some_texts())
    whole = packed.encode_ids(ids)
    np.testing.assert_allclose(whole, padded.encode_ids(ids), atol=1e-5)
    assert (whole.dtype, whole.shape) == (np.float32, (25, 32))
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    for size in (1, 10, 64):
        np.testing.assert_allclose(packed.encode_ids(ids, max_tokens=size), whole, atol=1e-5)


def test_batches_hold_every_text_once_within_the_room():
    lengths = [3, 9, 1, 5, 5, 20, 2]
    groups = batches(lengths, 10)
    assert sorted(at for group in groups for at in group) == list(range(7))
    assert [[lengths[at] for at in group] for group in groups] == [[20], [9], [5, 5], [3, 2, 1]]
    assert batches([], 10) == []


@pytest.mark.parametrize(
    ("pooling", "more", "how", "length_one"),
    [
        ({"pooling_mode_cls_token": True}, ["Normalize"], "cls", True),
        ({"pooling_mode_max_tokens": True}, [], "max", False),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}, [], "mean", False),
        ({"pooling_mode": "mean"}, ["Normalize"], "mean", True),
    ],
)
def test_the_folder_says_how_to_pool(tmp_path: Path, pooling, more, how: str, length_one: bool):
    import torch

    path = bert(tmp_path / "m", pooling=pooling, more=more)
    packed, padded = PackedEncoder(path), PaddedEncoder(path)
    ids = packed.tokenize(some_texts(9))
    vectors = packed.encode_ids(ids)
    np.testing.assert_allclose(vectors, padded.encode_ids(ids), atol=1e-5)
    with torch.inference_mode():
        hidden = padded._model(input_ids=torch.tensor([ids[4]])).last_hidden_state[0]
    want = {"cls": hidden[0], "max": hidden.amax(0), "mean": hidden.mean(0)}[how]
    if length_one:
        want = want / want.norm()
    np.testing.assert_allclose(vectors[4], want.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "sentence",
    [
        {"pooling": {"pooling_mode_mean_tokens": True}, "more": ["LSTM"]},
        {"pooling": {"pooling_mode_mean_sqrt_len_tokens": True}},
        {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
    ],
)
def test_what_would_change_the_vectors_is_refused(tmp_path: Path, embeddings, sentence):
    with pytest.raises(ConfigError, match=r"LSTM|mean_sqrt_len|cls"):
        embeddings.embed(embed("w1", model=bert(tmp_path / "m", **sentence)), Call())


def test_prompts_by_task(tmp_path: Path, embeddings: LocalEmbeddings):
    path = bert(
        tmp_path / "m",
        pooling={"pooling_mode_mean_tokens": True},
        prompts={"query": "w9 ", "document": ""},
    )
    asked = embeddings.embed(embed("w1 w2", model=path, task="query"), Call())
    said = embeddings.embed(embed("w9 w1 w2", model=path), Call())
    assert asked.data == said.data
    assert embeddings.embed(embed("w1", model=path, task="document"), Call()).data == (
        embeddings.embed(embed("w1", model=path), Call()).data
    )


def test_pickled_weights_and_other_kinds_go_through_transformers(tmp_path: Path, embeddings):
    import torch
    from safetensors.torch import load_file

    old = Path(shutil.copytree(tiny(), tmp_path / "old"))
    torch.save(load_file(str(old / "model.safetensors")), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    one = embeddings.embed(embed(*some_texts(), model=old), Call())
    two = embeddings.embed(embed(*some_texts(), model=tiny()), Call())
    np.testing.assert_allclose(one.array, two.array, atol=1e-5)


# ------------------------------------------------------------------ requests


def test_order_and_batch_do_not_matter(embeddings: LocalEmbeddings):
    texts = some_texts()
    reply = embeddings.embed(embed(*texts, model=tiny()), Call())
    assert (len(reply), reply.dim, reply.provider, reply.cost) == (25, 32, "local", 0.0)
    assert reply.usage.input_tokens == sum(len(text.split()) + 2 for text in texts)
    for at, text in enumerate(texts):
        alone = embeddings.embed(embed(text, model=tiny()), Call())
        np.testing.assert_allclose(alone.array[0], reply.array[at], atol=1e-5)


def test_empty_input_is_named(embeddings: LocalEmbeddings):
    with pytest.raises(InvalidRequest, match="texts=.* is empty"):
        embeddings.embed(embed(model=tiny()), Call())
    for empty in ("", " \n\t"):
        with pytest.raises(InvalidRequest, match=r"texts\[1\]"):
            embeddings.embed(embed("w1", empty, model=tiny()), Call())


def test_overlong_input_is_an_error_or_cut(embeddings: LocalEmbeddings):
    long = " ".join(WORDS[:50])
    with pytest.raises(ContextOverflow) as raised:
        embeddings.embed(embed("w1", long, model=tiny()), Call())
    assert (raised.value.tokens, raised.value.limit) == (52, 40)
    assert "texts[1] has 52 tokens, and the model takes 40" in str(raised.value)
    reply = embeddings.embed(embed("w1", long, model=tiny(), truncate=True), Call())
    assert reply.usage.input_tokens == 3 + 40
    cut = embeddings.embed(embed(" ".join(WORDS[:38]), model=tiny()), Call())
    np.testing.assert_allclose(reply.array[1], cut.array[0], atol=1e-5)
    packed = PackedEncoder(tiny())
    with pytest.raises(ContextOverflow):
        packed.encode_ids(packed.tokenize([long]))


def test_dimensions(embeddings: LocalEmbeddings):
    assert embeddings.embed(embed("w1", model=tiny(), dimensions=32), Call()).dim == 32
    with pytest.raises(UnsupportedByProvider, match="dimensions=16.*gives 32"):
        embeddings.embed(embed("w1", model=tiny(), dimensions=16), Call())


def test_number_types(embeddings: LocalEmbeddings):
    exact = embeddings.embed(embed(*some_texts(), model=tiny()), Call()).array
    coarse = embeddings.embed(
        embed(*some_texts(), model=tiny(), native={"dtype": "bfloat16"}), Call()
    ).array
    assert coarse.dtype == np.float32
    assert ((exact * coarse).sum(1) > 0.99).all()
    assert not np.array_equal(exact, coarse)
    with pytest.raises(InvalidRequest, match="native.dtype='int8'"):
        embeddings.embed(embed("w1", model=tiny(), native={"dtype": "int8"}), Call())
    with pytest.raises(InvalidRequest, match="'dtype'"):
        embeddings.embed(embed("w1", model=tiny(), native={"dtyp": "int8"}), Call())


def test_a_deadline_that_has_passed(embeddings: LocalEmbeddings):
    with pytest.raises(CallTimeout):
        embeddings.embed(embed("w1", model=tiny()), Call(deadline=time.monotonic() - 1))


def test_damaged_models_are_named(embeddings: LocalEmbeddings, tmp_path: Path):
    cut = Path(shutil.copytree(tiny(), tmp_path / "cut"))
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=f"the model at {cut} cannot be loaded"):
        embeddings.embed(embed("w1", model=cut), Call())
    other = Path(shutil.copytree(tiny(), tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match="cannot be loaded: KeyError"):
        embeddings.embed(embed("w1", model=other), Call())
    (other / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="tokenizer"):
        embeddings.embed(embed("w1", model=other), Call())
    (other / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        embeddings.embed(embed("w1", model=other), Call())


def test_a_gguf_file_is_refused(embeddings: LocalEmbeddings, tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedByProvider, match="GGUF"):
        embeddings.embed(embed("w1", model=tmp_path / "x.gguf"), Call())


def test_threads_get_their_own_vectors(embeddings: LocalEmbeddings):
    want = {
        at: embeddings.embed(embed(*some_texts()[at:], model=tiny()), Call()) for at in range(4)
    }
    got: dict[int, Any] = {}

    def work(at: int) -> None:
        for _ in range(5):
            got[at] = embeddings.embed(embed(*some_texts()[at:], model=tiny()), Call())

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, reply in got.items():
        np.testing.assert_allclose(reply.array, want[at].array, atol=1e-5)


# ------------------------------------------------------------------ the embedded model


def test_the_embedded_model(tmp_path: Path):
    installed("embedding")
    embeddings = LocalEmbeddings(profile(tmp_path))
    texts = (
        "A man is playing a guitar.",
        "Someone plays an acoustic guitar.",
        "The stock market fell sharply today.",
    )
    reply = embeddings.embed(embed(*texts), Call())
    assert (reply.model, reply.dim, len(reply)) == ("all-minilm-l6-v2", 384, 3)
    close = reply.array @ reply.array.T
    assert close[0, 1] > 0.7
    assert abs(close[0, 2]) < 0.2
    assert abs(close[1, 2]) < 0.2
    alone = embeddings.embed(embed(texts[1], model="all-minilm-l6-v2"), Call())
    np.testing.assert_allclose(alone.array[0], reply.array[1], atol=1e-5)
    with pytest.raises(ContextOverflow, match="the model takes 256"):
        embeddings.embed(embed("word " * 400), Call())


def test_the_embedded_model_needs_no_transformers(tmp_path: Path):
    installed("embedding")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cloudai._core.profiles.config import Config\n"
        "from cloudai.protocols import Call\n"
        "from cloudai.types import EmbeddingRequest\n"
        "from cloudai.providers.local.embeddings import LocalEmbeddings\n"
        "mine = Config(start=Path(sys.argv[1])).profile('local', device='cpu')\n"
        "LocalEmbeddings(mine).embed(EmbeddingRequest(model='', texts=('a',)), Call())\n"
        "print('transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")
