"""LoRA: what it learns, and adapters beside their base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from _models_fixtures import ask, profile, random_llama

from cloudai.engine import adapters, finetuning
from cloudai.errors import ConfigError
from cloudai.protocols import Call
from cloudai.providers.local.chat import LocalChat

peft = pytest.importorskip("peft", reason="the extra peft is not installed")


def trained(folder: Path, answer: str, **more: Any) -> Path:
    """An adapter of the random Llama that answers so."""
    said = [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": answer}]
    data = folder / "train.jsonl"
    folder.mkdir()
    data.write_text(f"{json.dumps({'messages': said})}\n" * 4)
    about = {"n_epochs": 40, "batch_size": 4, "learning_rate": 0.03, "lora_rank": 4, **more}
    trainer = finetuning.Trainer(random_llama(), "cpu", about)
    trainer.run(trainer.load(data), [], folder)
    trainer.write(folder / "model")
    return folder / "model"


@pytest.fixture
def chat(tmp_path: Path):
    mine = profile(tmp_path / "home")
    yield LocalChat(mine)
    mine.close()


def says(chat: LocalChat, model: str | Path) -> str:
    return chat.create(ask("sky?", model=model, max_tokens=8), Call()).text


def test_i15_6_adapters_beside_their_base(chat: LocalChat, tmp_path: Path) -> None:
    plain = says(chat, random_llama())
    blue = trained(tmp_path / "a", "blue")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in blue.iterdir()}
    assert not (blue / "model.safetensors").exists()
    grey = tmp_path / "home" / "models" / "grey"
    grey.parent.mkdir(parents=True)
    shutil.copytree(trained(tmp_path / "b", "grey"), grey)
    assert says(chat, blue) == "blue"
    assert says(chat, "grey") == "grey"
    assert says(chat, random_llama()) == plain
    models = list(chat._held._held.values())
    weights = [one.model.model.embed_tokens.weight.data_ptr() for one in models]
    assert len(models) == 3
    assert len(set(weights)) == 1  # one copy
    assert all(one.engine is not None for one in models)
    # As peft itself has it.
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(random_llama())
    with adapters.hushed():
        theirs = peft.PeftModel.from_pretrained(base, blue).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    mine = next(one for one in models if one.path == blue)
    with torch.inference_mode():
        expected = theirs(ids).logits[0, -1]
    call = mine.engine.runner.bound
    with torch.inference_mode():
        call.release()
        found = mine.model(ids).logits[0, -1]
        call.bind()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_i15_6_an_adapter_of_another_kind_or_without_its_base(
    chat: LocalChat, tmp_path: Path
) -> None:
    folder = trained(tmp_path / "a", "blue", n_epochs=1)
    about = json.loads((folder / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(random_llama())
    for change, message in (
        ({"peft_type": "PREFIX_TUNING"}, "of the kind PREFIX_TUNING"),
        ({"base_model_name_or_path": "/no/such/base"}, "/no/such/base.*does not exist"),
        ({"base_model_name_or_path": None}, "None"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ConfigError, match=message):
            says(chat, folder)
    (folder / "adapter_config.json").write_text(json.dumps(about))
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ConfigError, match="the adapter at .* cannot be loaded"):
        says(chat, folder)
