"""The suite's handler: multiplies numbers by the model's scale, and says texts in capitals.

An input ``{"value": x}`` is answered ``{"value": …}``. The input ``"bad"`` raises; ``params`` may
have ``add`` (added to numbers) and ``seconds`` (slept for each input).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def load(model_dir: Path) -> dict[str, Any]:
    """The model: its scale."""
    return json.loads((Path(model_dir) / "model.json").read_text())


def predict(model: dict[str, Any], inputs: list[Any], params: dict[str, Any]) -> list[Any]:
    """One output for each input."""
    time.sleep(params.get("seconds", 0) * len(inputs))
    return [_one(model["scale"], value, params.get("add", 0)) for value in inputs]


def _one(scale: float, value: Any, add: float) -> Any:
    if isinstance(value, dict):
        return {name: _one(scale, inner, add) for name, inner in value.items()}
    if isinstance(value, str):
        if value == "bad":
            raise ValueError("this input is bad")
        return value.upper()
    return value * scale + add
