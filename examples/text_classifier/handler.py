"""How an endpoint or a batch asks the classifier: texts in; label, confidence and all
probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def load(model_dir: Path) -> tuple[Any, Any]:
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), AutoTokenizer.from_pretrained(model_dir)


def predict(model: tuple[Any, Any], inputs: list[Any]) -> list[dict[str, Any]]:
    network, tokenizer = model
    texts = [one["text"] if isinstance(one, dict) else one for one in inputs]
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"input {index} is no text")
    encoded = tokenizer(texts, truncation=True, max_length=128, padding=True, return_tensors="pt")
    with torch.inference_mode():
        rows = network(**encoded.to(network.device)).logits.float().softmax(-1).tolist()
    labels = network.config.id2label
    answers = []
    for row in rows:
        best = max(range(len(row)), key=row.__getitem__)
        chances = {labels[index]: chance for index, chance in enumerate(row)}
        answers.append({"label": labels[best], "confidence": row[best], "probabilities": chances})
    return answers
