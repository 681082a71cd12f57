"""What the service answers to a text: its label, the confidence and all probabilities."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

WARMUP = ["the film was lovely"]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def load(model_dir: Path) -> dict[str, Any]:
    return json.loads((Path(model_dir) / "model.json").read_text())


def predict(model: dict[str, Any], inputs: list[Any]) -> list[dict[str, Any]]:
    return [_one(model, one["text"] if isinstance(one, dict) else one) for one in inputs]


def _one(model: dict[str, Any], text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an input is no text")
    nothing = [0.0] * len(model["labels"])
    rows = [model["weights"].get(word, nothing) for word in set(words(text))]
    scores = [sum(column) for column in zip(nothing, *rows, strict=True)]
    shares = [math.exp(score - max(scores)) for score in scores]
    chances = [share / sum(shares) for share in shares]
    best = max(range(len(chances)), key=chances.__getitem__)
    return {
        "label": model["labels"][best],
        "confidence": chances[best],
        "probabilities": dict(zip(model["labels"], chances, strict=True)),
    }
