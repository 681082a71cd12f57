"""Serves the slope that train.py found."""

import json
from pathlib import Path


def load(model_dir: str) -> float:
    return json.loads((Path(model_dir) / "slope.json").read_text())


def predict(model: float, inputs: list[float]) -> list[float]:
    return [model * x for x in inputs]
