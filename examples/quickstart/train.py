"""Fits y = 2x by gradient descent: the smallest job that has a loss and a model."""

import argparse
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--rate", type=float, default=0.1)
arguments = parser.parse_args()

xs = [0.5, 1.0, 1.5, 2.0]
slope = 0.0
for epoch in range(arguments.epochs):
    gradient = sum(2 * (slope * x - 2 * x) * x for x in xs) / len(xs)
    slope -= arguments.rate * gradient
    loss = sum((slope * x - 2 * x) ** 2 for x in xs) / len(xs)
    print(f"epoch={epoch} loss={loss:.4f}")

model = Path(os.environ["CLOUDAI_MODEL_DIR"])
(model / "slope.json").write_text(json.dumps(slope))
