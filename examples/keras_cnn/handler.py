"""How an endpoint or a batch asks the Keras network: the same inputs and outputs as
``../digits/handler.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import network
import numpy as np
from network import keras


def load(model_dir: Path) -> tuple[Any, list[str]]:
    model = keras.models.load_model(Path(model_dir) / network.WEIGHTS, safe_mode=True)
    return model, json.loads((Path(model_dir) / "labels.json").read_text())


def predict(model: tuple[Any, list[str]], inputs: list[Any]) -> list[dict[str, Any]]:
    """For ``{"image": 8 rows of 8 numbers, 0 to 16}`` each: the label and the confidence."""
    net, labels = model
    images = np.asarray([one["image"] for one in inputs], dtype=np.float32)
    if images.shape[1:] != (8, 8):
        raise ValueError(f"the images are {images.shape[1:]}, not (8, 8)")
    chances = keras.ops.convert_to_numpy(keras.ops.softmax(net(images[..., None], training=False)))
    return [{"label": labels[row.argmax()], "confidence": float(row.max())} for row in chances]
