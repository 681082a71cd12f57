"""A model folder of MiniLM's shape with random weights, where the real ones are not there: for
speed they are as good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def random_weights(source: Path, target: Path) -> str:
    """Copies the folder's small files (config.json, tokenizer.json, modules.json, …) and makes
    the ``model.safetensors`` that its config.json describes."""
    import torch
    from safetensors.torch import save_file

    shutil.copytree(source, target, dirs_exist_ok=True)
    about = json.loads((source / "config.json").read_text())
    size, wide = about["hidden_size"], about["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (about["vocab_size"], size),
        "embeddings.position_embeddings.weight": (about["max_position_embeddings"], size),
        "embeddings.token_type_embeddings.weight": (about["type_vocab_size"], size),
        "embeddings.LayerNorm.weight": (size,),
        "embeddings.LayerNorm.bias": (size,),
    }
    for layer in range(about["num_hidden_layers"]):
        own = f"encoder.layer.{layer}."
        for name, rows, columns in (
            ("attention.self.query", size, size),
            ("attention.self.key", size, size),
            ("attention.self.value", size, size),
            ("attention.output.dense", size, size),
            ("intermediate.dense", wide, size),
            ("output.dense", size, wide),
        ):
            shapes[f"{own}{name}.weight"] = (rows, columns)
            shapes[f"{own}{name}.bias"] = (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{own}{name}.weight"] = shapes[f"{own}{name}.bias"] = (size,)
    made = torch.Generator().manual_seed(7)
    save_file(
        {
            name: torch.ones(shape)
            if name.endswith("LayerNorm.weight")
            else torch.randn(shape, generator=made) * 0.03
            for name, shape in shapes.items()
        },
        str(target / "model.safetensors"),
    )
    return str(target)
