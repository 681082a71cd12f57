"""The suite's training script: standard library alone, told what to do by hyperparameters.

It reads what every provider hands over in the same way (``CLOUDAI_INPUT_<NAME>``,
``CLOUDAI_MODEL_DIR``, ``CLOUDAI_HPS``), logs a loss, and writes a model that ``handler.py``
serves.
"""

# ruff: noqa: T201 - its output is the log of the job
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Trains, in so far as the hyperparameters say."""
    told = json.loads(os.environ.get("CLOUDAI_HPS", "{}"))
    inputs = {
        name.removeprefix("CLOUDAI_INPUT_").lower(): _files(Path(place))
        for name, place in os.environ.items()
        if name.startswith("CLOUDAI_INPUT_")
    }
    print("conformance: training begins", flush=True)
    for step in range(3):
        print(f"step={step} loss={1 / (step + 1):.4f}", flush=True)
    end = time.monotonic() + told.get("seconds", 0)
    while time.monotonic() < end:
        time.sleep(0.05)
    if told.get("exit_code"):
        print("conformance: training fails, as told", file=sys.stderr, flush=True)
        raise SystemExit(told["exit_code"])
    model = Path(os.environ["CLOUDAI_MODEL_DIR"])
    model.mkdir(parents=True, exist_ok=True)
    (model / "model.json").write_text(json.dumps({"scale": told.get("scale", 2)}))
    (model / "seen.json").write_text(json.dumps({"hyperparameters": told, "inputs": inputs}))
    handler = Path(__file__).with_name("handler.py")
    (model / "handler.py").write_bytes(handler.read_bytes())
    print("conformance: training ends", flush=True)


def _files(place: Path) -> dict[str, str]:
    if place.is_file():
        return {place.name: place.read_text()}
    return {file.name: file.read_text() for file in sorted(place.iterdir()) if file.is_file()}


if __name__ == "__main__":
    main()
