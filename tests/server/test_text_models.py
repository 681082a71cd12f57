"""Model directories without a handler: embeddings, a classifier and chat, behind real servers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_server import Start

torch = pytest.importorskip("torch", reason="the extra local is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="the extra local is not installed")
transformers = pytest.importorskip("transformers", reason="the extra local is not installed")

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "sky",
    "is",
    "blue",
    "green",
    "a",
    "cat",
    "sat",
    "on",
    "mat",
    "hello",
    "world",
]


def bert(folder: Path, kind: str) -> Path:
    """A tiny random BERT with a tokenizer, as save_pretrained writes it."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16, num_labels=3,
        id2label={0: "red", 1: "green", 2: "blue"},
    )  # fmt: skip
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


def test_embeddings(start: Start, tmp_path: Path) -> None:
    server = start("--model", f"tiny={bert(tmp_path / 'm', 'BertModel')}", "--device", "cpu")
    texts = ["the sky is blue", "a cat sat on the mat", "hello"]
    plain = server.http.post("/v1/embeddings", json={"model": "tiny", "input": texts}).json()
    assert [one["index"] for one in plain["data"]] == [0, 1, 2]
    assert plain["usage"]["prompt_tokens"] == 6 + 8 + 3
    vectors = np.array([one["embedding"] for one in plain["data"]], np.float32)
    assert vectors.shape == (3, 32)
    asked = {"model": "tiny", "input": texts[1], "encoding_format": "base64"}
    packed = server.http.post("/v1/embeddings", json=asked).json()["data"][0]["embedding"]
    np.testing.assert_allclose(
        np.frombuffer(base64.b64decode(packed), "<f4"), vectors[1], atol=1e-5
    )
    same = server.http.post("/predict", json={"inputs": [texts[0], {"text": texts[1]}]}).json()
    np.testing.assert_allclose(same["outputs"], vectors[:2], atol=1e-5)
    long = {"inputs": ["the " * 40]}
    refused = server.http.post("/predict", json=long)
    assert refused.status_code == 400
    assert "has 42 tokens, and the model takes 16" in refused.json()["error"]["message"]
    cut = server.http.post("/predict", json={**long, "params": {"truncate": True}})
    assert cut.status_code == 200
    for bad in ([""], [3], [["a", "b"]]):
        assert server.http.post("/predict", json={"inputs": bad}).status_code == 400
    nameless = server.http.post("/invocations", json={"input": texts}).json()
    assert nameless["data"] == plain["data"]
    openai = pytest.importorskip("openai", reason="the extra azure is not installed")
    url = f"{server.http.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        made = client.embeddings.create(model="tiny", input=texts)  # it asks for base64
        np.testing.assert_allclose([one.embedding for one in made.data], vectors, atol=1e-5)
    absent = server.http.post("/v1/embeddings", json={"model": "gpt", "input": "x"})
    assert absent.status_code == 404
    assert server.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{}]}
    ).status_code == 400  # fmt: skip


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
def test_a_broken_model_is_an_error_and_no_null(start: Start, tmp_path: Path, kind: str) -> None:
    folder = bert(tmp_path / "m", kind)
    weights = safetensors.load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][5:8] = float("nan")
    safetensors.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    server = start("--model", str(folder), "--device", "cpu")
    asked = server.http.post("/predict", json={"inputs": ["the sky is blue"]})
    assert asked.status_code == 500
    assert "NaN or infinity" in asked.json()["error"]["message"]
    assert server.http.post("/predict", json={"inputs": ["hello world"]}).status_code == 200


def test_a_classifier(start: Start, tmp_path: Path) -> None:
    folder = bert(tmp_path / "m", "BertForSequenceClassification")
    server = start("--model", str(folder), "--device", "cpu")
    answer = server.http.post("/predict", json={"inputs": ["the sky is blue", "hello world"]})
    for output in answer.json()["outputs"]:
        assert set(output["probabilities"]) == {"red", "green", "blue"}
        assert sum(output["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert output["confidence"] == max(output["probabilities"].values())
        assert output["probabilities"][output["label"]] == output["confidence"]
    assert "cloudai_confidence_count" in server.http.get("/metrics").text


def test_chat_whole_and_streamed(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    vocab = {word: at for at, word in enumerate(WORDS)}
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    coder = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]"
    )
    coder.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}hello"
    coder.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=128, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    server = start("--model", f"tiny={folder}", "--device", "cpu", "--dtype", "float32")
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "the sky"}],
        "max_tokens": 6,
        "temperature": 0,
    }
    whole = server.http.post("/v1/chat/completions", json=body).json()
    assert whole["object"] == "chat.completion"
    text = whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] >= 1
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    pieces: list[dict[str, object]] = []
    with server.http.stream("POST", "/v1/chat/completions", json=streamed) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line) for line in lines[:-1]]
    joined = "".join(
        choice["delta"].get("content", "") for piece in pieces for choice in piece["choices"]
    )
    assert joined == text
    assert pieces[-1]["usage"] == whole["usage"]
    for bad, param, code in (
        ({"messages": []}, "messages", "invalid_value"),
        ({"n": 2}, "n", "invalid_value"),
        ({"logit_bias": {"1": 5}}, "logit_bias", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"max_tokens": 100000}, "messages", "context_length_exceeded"),
    ):
        for more in ({}, {"stream": True}):
            refused = server.http.post("/v1/chat/completions", json={**body, **bad, **more})
            assert refused.status_code == 400, refused.text
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", code), error
            assert error["param"] == param, error
    assert server.http.post("/predict", json={"inputs": ["the sky"]}).status_code == 200
    # SageMaker's and Azure ML's routes take the same bodies, without a model's name.
    nameless = {name: value for name, value in streamed.items() if name != "model"}
    for path in ("/invocations", "/score"):
        with server.http.stream("POST", path, json=nameless) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert [line for line in answer.iter_lines() if line][-1] == "data: [DONE]"
    invoked = server.http.post("/invocations", json={**nameless, "stream": False}).json()
    assert invoked["choices"][0]["message"]["content"] == text
    assert server.http.post("/invocations", json=["the sky"]).json() == [text]
    with_openai(str(server.http.base_url), body, text)


def with_openai(url: str, body: dict[str, Any], text: str) -> None:
    """OpenAI's own client against the server."""
    openai = pytest.importorskip("openai", reason="the extra azure is not installed")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "cloudai"
        whole = client.chat.completions.create(**body)
        assert whole.choices[0].message.content == text
        pieces = client.chat.completions.create(**body, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
            client.chat.completions.create(**{**body, "model": "gpt"})
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(**{**body, "temperature": 9})
