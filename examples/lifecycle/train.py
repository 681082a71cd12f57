"""Fits a softmax regression to the digits, with numpy alone: the script of a training job."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

hyperparameters = json.loads(os.environ["CLOUDAI_HPS"])
with np.load(Path(os.environ["CLOUDAI_INPUT_TRAIN"]) / "train.npz", allow_pickle=False) as data:
    images, labels = data["images"].reshape(len(data["images"]), -1) / 16.0, data["labels"]
    names = data["names"].tolist()

wanted = np.eye(len(names))[labels]
weights = np.zeros((images.shape[1] + 1, len(names)))
rows = np.hstack([images, np.ones((len(images), 1))])
for epoch in range(1, hyperparameters["epochs"] + 1):
    scores = rows @ weights
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    weights -= hyperparameters["lr"] * rows.T @ (chances - wanted) / len(rows)
    loss = -np.log(chances[np.arange(len(labels)), labels]).mean()
    accuracy = (chances.argmax(axis=1) == labels).mean()
    print(f"epoch={epoch} loss={loss:.4f} accuracy={accuracy:.4f}", flush=True)

model_dir = Path(os.environ["CLOUDAI_MODEL_DIR"])
np.savez(model_dir / "weights.npz", weights=weights, names=names)
