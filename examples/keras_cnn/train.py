"""Trains the digits network with Keras: the script of a training job.

It knows nothing of cloudai and runs wherever a script runs: it reads CLOUDAI_*, else
SageMaker's SM_* or Vertex AI's AIP_*.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from network import WEIGHTS, keras, network  # it picks Keras's backend first

REPORT_EVERY = 100  # batches


def directory(default: str, *names: str) -> Path:
    """The first of these variables that is set, as a directory."""
    found = next((os.environ[name] for name in names if os.environ.get(name)), default)
    return Path(found.replace("gs://", "/gcs/"))


Step = Callable[[Any, Any], tuple[Any, Any]]


def tensorflow_step(model: keras.Model, optimizer: Any, loss_of: Any) -> Step:
    """One step of training, compiled by ``tf.function``."""
    import tensorflow as tf

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = loss_of(labels, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss, logits

    # As tensors, so that every batch takes the one compiled graph.
    return lambda images, labels: step(tf.constant(images), tf.constant(labels))


def torch_step(model: keras.Model, optimizer: Any, loss_of: Any) -> Step:
    """The same step where Keras runs on PyTorch."""
    import torch

    def step(images: Any, labels: Any) -> tuple[Any, Any]:
        model.zero_grad()
        logits = model(images, training=True)
        loss = loss_of(labels, logits)
        loss.backward()
        weights = model.trainable_weights
        with torch.no_grad():
            optimizer.apply([weight.value.grad for weight in weights], weights)
        return loss.detach(), logits.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    channel = directory("data/train", "CLOUDAI_INPUT_TRAIN", "SM_CHANNEL_TRAIN")
    model_dir = directory("model", "CLOUDAI_MODEL_DIR", "SM_MODEL_DIR", "AIP_MODEL_DIR")
    with np.load(channel / "train.npz", allow_pickle=False) as data:
        images = data["images"].astype(np.float32)[..., None]
        labels, names = data["labels"].astype(np.int64), data["names"].tolist()

    model = network(len(names), float(images.mean()), float(images.var()))
    steps = len(images) // options.batch_size
    schedule = keras.optimizers.schedules.CosineDecay(options.lr, options.epochs * steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-2)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    backend = keras.backend.backend()
    make = tensorflow_step if backend == "tensorflow" else torch_step
    step = make(model, optimizer, loss_of)
    print(f"keras {keras.__version__} on {backend}", flush=True)

    order = np.random.default_rng(options.seed)
    for epoch in range(1, options.epochs + 1):
        losses: list[float] = []
        right = seen = 0
        shuffled = order.permutation(len(images))
        for index in range(steps):
            chosen = shuffled[index * options.batch_size : (index + 1) * options.batch_size]
            loss, logits = step(images[chosen], labels[chosen])
            losses.append(float(loss))
            guesses = keras.ops.convert_to_numpy(logits).argmax(axis=1)
            right, seen = right + int((guesses == labels[chosen]).sum()), seen + len(chosen)
            number = (epoch - 1) * steps + index + 1
            if number % REPORT_EVERY == 0 or index == steps - 1:
                print(
                    f"epoch={epoch} step={number} loss={np.mean(losses):.4f} "
                    f"accuracy={right / seen:.4f}",
                    flush=True,
                )
    model_dir.mkdir(parents=True, exist_ok=True)
    model.save(model_dir / WEIGHTS)
    (model_dir / "labels.json").write_text(json.dumps(names))


if __name__ == "__main__":
    main()
