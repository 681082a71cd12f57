"""Fine-tuning at an emulated cloud makes a model that answers as it was shown."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai import TrainingJob
from cloudai.testing import EmulatedCloud, clouds
from cloudai.testing.emulators.common.local_models import LocalModels

for name in ("torch", "transformers", "openai", "google.genai"):
    pytest.importorskip(name)

FIXTURES = Path(__file__).parents[1] / "providers" / "local" / "_models_fixtures.py"
BASE = {"azure": "gpt-4.1-nano-2025-04-14", "vertex": "gemini-3.5-flash-lite"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of this test's own size takes the place of the local one."""
    spec = importlib.util.spec_from_file_location("_models_fixtures", FIXTURES)
    assert spec is not None
    assert spec.loader is not None
    module: Any = sys.modules.get("_models_fixtures")
    if module is None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["_models_fixtures"] = module
        spec.loader.exec_module(module)
    monkeypatch.setenv("CLOUDAI_CHAT_MODEL", str(module.random_llama()))
    monkeypatch.setenv("CLOUDAI_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    models = LocalModels()
    monkeypatch.setattr(clouds, "shared", lambda: models)


@pytest.mark.slow
@pytest.mark.cloudai_emulated(execute=True)
@pytest.mark.parametrize("provider", list(BASE))
def test_a_tuned_model_answers(
    small: None, request: pytest.FixtureRequest, provider: str, tmp_path: Path
) -> None:
    cloud: EmulatedCloud = request.getfixturevalue(f"emulated_{provider}")
    said = [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": "blue"}]
    train = tmp_path / "train.jsonl"
    train.write_text(f"{json.dumps({'messages': said})}\n" * 12)
    keys = {"workspace": ""} if provider == "azure" else {}
    with cloudai.Client(provider=provider, **keys) as client:
        job = client.training.submit(
            TrainingJob(
                kind="finetune",
                base_model=BASE[provider],
                inputs={"train": str(train)},
                hyperparameters={"n_epochs": 12, "learning_rate_multiplier": 200.0},
            )
        )
        status = job.wait(timeout=240)
        model = status.outputs["model"]
        if provider == "azure":
            cloud.emulator.deploy("tuned", model=model)
            losses = [point.value for point in job.metrics["train_loss"]]
            assert losses[-1] < losses[0] / 3
            model = "tuned"
        ask = {"temperature": 0, "max_tokens": 8}
        assert client.chat.create("sky?", model=model, **ask).text == "blue"
        other = "gpt-5.1" if provider == "azure" else "gemini-3.5-flash"
        assert client.chat.create("sky?", model=other, **ask).text != "blue"
