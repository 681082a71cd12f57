"""Counts which words praise and which blame: a naive Bayes classifier without any package.

The channel ``train`` holds train.jsonl, a text and a label each line.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path

from handler import words

channel = Path(os.environ["CLOUDAI_INPUT_TRAIN"])
rows = [json.loads(line) for line in (channel / "train.jsonl").read_text().splitlines()]
counts: dict[str, Counter[str]] = {row["label"]: Counter() for row in rows}
for row in rows:
    counts[row["label"]].update(set(words(row["text"])))
known = sorted(set().union(*counts.values()))
sizes = Counter(row["label"] for row in rows)
model = {
    "labels": sorted(counts),
    "weights": {
        word: [math.log((counts[label][word] + 1) / (sizes[label] + 2)) for label in sorted(counts)]
        for word in known
    },
}
(Path(os.environ["CLOUDAI_MODEL_DIR"]) / "model.json").write_text(json.dumps(model))
print(f"words={len(known)} labels={len(counts)}")
