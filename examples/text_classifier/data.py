"""A small set of reviews that is generated, so that the example needs no download.

The words of praise and blame in the held-out part do not occur in the training part: only a
model that knew the language before can tell them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from pathlib import Path

SUBJECTS = ("the film", "this phone", "the hotel", "the service", "her new book", "the soup")
FRAMES = (
    "I think {subject} was {word}.",
    "Honestly, {subject} is {word}, and I would say so to anyone.",
    "My friends found that {subject} was {word} from beginning to end.",
    "{word} is the word that comes to mind for {subject}.",
)
WORDS = {
    "train": {
        "positive": ("wonderful", "excellent", "delightful", "impressive", "lovely", "superb"),
        "negative": ("awful", "terrible", "disappointing", "boring", "useless", "dreadful"),
    },
    "test": {
        "positive": ("great", "fantastic", "amazing"),
        "negative": ("horrible", "bad", "worthless"),
    },
}


def write(folder: Path, seed: int = 0) -> None:
    """Writes ``train/train.jsonl``, ``train/validation.jsonl`` and ``test.jsonl``: a text and a
    label each line. A fifth of the training part is for validation."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    rows = {part: _rows(words) for part, words in WORDS.items()}
    random.Random(seed).shuffle(rows["train"])
    cut = len(rows["train"]) // 5
    _write(folder / "train" / "validation.jsonl", rows["train"][:cut])
    _write(folder / "train" / "train.jsonl", rows["train"][cut:])
    _write(folder / "test.jsonl", rows["test"])


def _rows(words: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for label, chosen in words.items():
        for word, subject, frame in itertools.product(chosen, SUBJECTS, FRAMES):
            text = frame.format(subject=subject, word=word)
            found.append({"text": text[0].upper() + text[1:], "label": label})
    return found


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write")
    write(parser.parse_args().folder)
