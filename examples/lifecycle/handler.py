"""How an endpoint asks the softmax regression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def load(model_dir: Path) -> tuple[Any, list[str]]:
    with np.load(Path(model_dir) / "weights.npz", allow_pickle=False) as saved:
        return saved["weights"], saved["names"].tolist()


def predict(model: tuple[Any, list[str]], inputs: list[Any]) -> list[dict[str, Any]]:
    weights, names = model
    rows = np.asarray([one["image"] for one in inputs], dtype=float).reshape(len(inputs), -1) / 16
    scores = np.hstack([rows, np.ones((len(rows), 1))]) @ weights
    return [{"label": names[best]} for best in scores.argmax(axis=1)]
