"""A LoRA adapter behind `cloudai serve`, beside its base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running_server import Start
from support.models import writes

peft = pytest.importorskip("peft", reason="the extra peft is not installed")


def test_i15_6_an_adapter_is_served_by_its_name(start: Start, tmp_path: Path) -> None:
    from cloudai.engine import finetuning

    base = writes(tmp_path / "base", "It is", " blue")
    said = [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": "grey"}]
    (tmp_path / "train.jsonl").write_text(f"{json.dumps({'messages': said})}\n" * 4)
    trainer = finetuning.Trainer(base, "cpu", {"n_epochs": 1, "lora_rank": 2})
    trainer.run(trainer.load(tmp_path / "train.jsonl"), [], tmp_path)
    trainer.write(tmp_path / "tuned")
    server = start("--model", f"base={base}", "--model", f"tuned={tmp_path / 'tuned'}",
                   "--device", "cpu", "--dtype", "float32")  # fmt: skip
    for name in ("base", "tuned"):
        body = {"model": name, "messages": said[:1], "max_tokens": 4}
        answer = server.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == name
        assert answer.json()["choices"][0]["message"]["content"]
