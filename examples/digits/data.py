"""The digits: 1797 images that people wrote, 8 by 8 pixels of 0 to 16, from scikit-learn."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def write(folder: Path, seed: int = 0) -> None:
    """Writes four fifths as ``train/train.npz``; the rest as ``test.jsonl``, one image a line,
    and ``test_labels.json``."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.images))
    held_out, train = np.split(order, [len(order) // 5])
    (folder / "train").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "train" / "train.npz",
        images=digits.images[train].astype(np.uint8),
        labels=digits.target[train].astype(np.uint8),
        names=np.array([str(name) for name in digits.target_names]),
    )
    lines = (json.dumps({"image": image.tolist()}) for image in digits.images[held_out].astype(int))
    (folder / "test.jsonl").write_text("".join(f"{line}\n" for line in lines))
    labels = [str(label) for label in digits.target[held_out]]
    (folder / "test_labels.json").write_text(json.dumps(labels))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write")
    write(parser.parse_args().folder)
