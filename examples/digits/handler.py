"""The network, and how an endpoint or a batch asks it.

The network stands here, and ``train.py`` takes it from here, so that this one file is all that
serving needs beside the model directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

WEIGHTS = "model.pt"
ABOUT = "model.json"


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


class DigitsCNN(nn.Module):
    """Three convolution blocks, adaptive average pooling, two linear layers with dropout.

    Parameters
    ----------
    classes: how many labels. mean, std: of the training images' pixels.
    """

    def __init__(self, classes: int = 10, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.features = nn.Sequential(block(1, 64), block(64, 128), block(128, 256))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(256, 128),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(128, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images of shape (n, 1, 8, 8)."""
        return self.head(self.features((images - self.mean) / self.std))


def load(model_dir: Path) -> tuple[DigitsCNN, list[str]]:
    about = json.loads((Path(model_dir) / ABOUT).read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = DigitsCNN(len(about["labels"]), about["mean"], about["std"])
    # weights_only: a model file must not be able to run code.
    state = torch.load(Path(model_dir) / WEIGHTS, map_location=device, weights_only=True)
    network.load_state_dict(state)
    return network.to(device, memory_format=torch.channels_last).eval(), about["labels"]


def predict(model: tuple[DigitsCNN, list[str]], inputs: list[Any]) -> list[dict[str, Any]]:
    """For ``{"image": 8 rows of 8 numbers, 0 to 16}`` each: the label and the confidence."""
    network, labels = model
    images = [one.get("image") if isinstance(one, dict) else one for one in inputs]
    for index, image in enumerate(images):
        if not _is_image(image):
            raise ValueError(f"input {index} is not 8 rows of 8 numbers")
    batch = torch.tensor(images, dtype=torch.float32).unsqueeze(1)
    with torch.inference_mode():
        device = next(network.parameters()).device
        chances = network(batch.to(device, memory_format=torch.channels_last)).softmax(1).cpu()
    confidences, best = chances.max(1)
    return [
        {"label": labels[digit], "confidence": confidence}
        for digit, confidence in zip(best.tolist(), confidences.tolist(), strict=True)
    ]


def _is_image(image: Any) -> bool:
    return (
        isinstance(image, list)
        and len(image) == 8
        and all(
            isinstance(row, list)
            and len(row) == 8
            and all(isinstance(pixel, (int, float)) for pixel in row)
            for row in image
        )
    )
