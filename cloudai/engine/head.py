"""What stands behind an embedding model's pooling: dense layers, and length 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from cloudai.engine.loading import unreadable
from cloudai.engine.sentence import SentenceConfig
from cloudai.errors import ConfigError

_ACTIVATIONS: Final[dict[str, Any]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
}
"""By the class's name in sentence-transformers' config of a Dense module."""


class Head:
    """Pooled vectors, float32, to the model's own.

    Attributes
    ----------
    dim: numbers in a vector.

    Raises ConfigError for a layer that is damaged or has another activation.
    """

    def __init__(self, config: SentenceConfig, dim: int, device: str) -> None:
        self.dim = dim
        self._normalize = config.normalize
        self._layers: list[tuple[Any, Any, Any]] = []
        for folder in config.dense:
            self._layers.append(_layer(folder, self.dim, device))
            self.dim = int(self._layers[-1][0].shape[0])

    def __call__(self, pooled: Any) -> Any:
        for weight, bias, activation in self._layers:
            pooled = activation(F.linear(pooled, weight, bias))
        return F.normalize(pooled, dim=1) if self._normalize else pooled


def _layer(folder: Path, width: int, device: str) -> tuple[Any, Any, Any]:
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        safe = folder / "model.safetensors"
        stored = (
            load_file(str(safe))
            if safe.is_file()
            else torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        )
        weight = stored["linear.weight"].to(device, torch.float32)
        bias = stored["linear.bias"].to(device, torch.float32) if about.get("bias", True) else None
        if weight.shape[1] != width:
            raise RuntimeError(f"it takes {weight.shape[1]} numbers and is given {width}")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        unreadable(folder, "dense layer", error)
    name = str(about.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"the dense layer at {folder} has the activation {name}",
            provider="local",
            hint=f"Known are {', '.join(_ACTIVATIONS)}",
        )
    return weight, bias, _ACTIVATIONS[name]
