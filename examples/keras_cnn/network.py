"""The network of ``../digits`` as a ``keras.Model``, and the backend that it runs on.

TensorFlow where it is installed; else Keras runs on PyTorch, and so does this example's test.
"""

from __future__ import annotations

import importlib.util
import os

if "KERAS_BACKEND" not in os.environ:  # Keras reads it once, when it is imported
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    os.environ["KERAS_BACKEND"] = "tensorflow" if has_tensorflow else "torch"

import keras
from keras import layers

WEIGHTS = "model.keras"


def network(classes: int, mean: float, variance: float) -> keras.Model:
    """Three convolution blocks, average pooling, two dense layers with dropout."""
    images = keras.Input((8, 8, 1))
    x = layers.Normalization(mean=mean, variance=variance)(images)
    for channels in (64, 128, 256):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)  # 0.99 needs longer trainings
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(images, layers.Dense(classes)(x), name="digits")
