"""Writes the table of Azure ML's images (``cloudai/providers/azure/ml/images.json``) from a clone
of Microsoft's repository of curated environments, Azure/azureml-assets, with its history:

    python scripts/azure_images.py azureml-assets

An environment that the repository still has is one that Microsoft maintains: of each framework the
newest is taken. Its number is not in the repository, which counts at its release; the notes that
mend an image name it ("Image: public/azureml/curated/NAME:NUMBER"), and so do those of the base
images. The greatest number that was named is taken. Microsoft tells no end of an image: it mends
the newest number of a maintained one ("Vulnerability management for Azure Machine Learning").
Rows of other sources stay as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent.parent / "cloudai" / "providers" / "azure" / "ml" / "images.json"
SOURCE = "azureml-assets"
FOLDER = "assets/training/general/environments"
FRAMEWORKS = {"PyTorch": "pytorch", "Tensorflow": "tensorflow", "Scikit-learn": "sklearn"}
BASE = "azureml/openmpi5.0-ubuntu24.04"
_TAG = re.compile(r'^  ([\w-]+): "?([\w.]+)"?\s*$', re.MULTILINE)
_PYTHON = re.compile(r"^- python=([\d.]+)", re.MULTILINE)


class Clone:
    """The repository."""

    def __init__(self, path: str) -> None:
        self.path = path

    def git(self, *what: str) -> str:
        done = subprocess.run(["git", "-C", self.path, *what], capture_output=True, text=True)
        return done.stdout

    def greatest(self, name: str, number: str, *paths: str) -> str:
        """The greatest number of an image that the history names; "" where it names none."""
        told = self.git("log", "--all", "-p", "--format=", f"-G{re.escape(name)}:", "--", *paths)
        found: list[str] = re.findall(rf"{re.escape(name)}:({number})", told)
        return max(
            found, key=lambda one: [int(part) for part in re.findall(r"\d+", one)], default=""
        )


def environments(clone: Clone) -> list[dict[str, Any]]:
    """The newest environment of each framework and chip."""
    newest: dict[tuple[str, bool], dict[str, Any]] = {}
    for folder in clone.git("ls-tree", "--name-only", "HEAD", f"{FOLDER}/").split():
        tags = dict(_TAG.findall(clone.git("show", f"HEAD:{folder}/spec.yaml")))
        label = next((one for one in FRAMEWORKS if one in tags), None)
        if label is None:
            continue
        name = f"azureml/curated/{folder.rpartition('/')[2]}"
        number = clone.greatest(name, r"\d+", folder)
        if not number:
            continue
        conda = clone.git("show", f"HEAD:{folder}/context/conda_dependencies.yaml")
        own = _PYTHON.search(conda)
        row: dict[str, Any] = {
            "source": SOURCE,
            "framework": FRAMEWORKS[label],
            "version": tags[label],
            "python": own[1] if own is not None else tags["Python"],
            # Images with CUDA run on a machine without a GPU as well.
            "chips": ["cpu", "gpu"] if "GPU" in tags else ["cpu"],
            "use": ["training"],
            "name": f"{name}:{number}",
            "end": None,
        }
        key = row["framework"], "GPU" in tags
        if key not in newest or _order(row) > _order(newest[key]):
            newest[key] = row
    return list(newest.values())


def _order(row: dict[str, Any]) -> list[int]:
    return [int(part) for part in row["version"].split(".")]


def base(clone: Clone) -> list[dict[str, Any]]:
    """What a conda environment is put on, on a machine without a GPU."""
    number = clone.greatest(BASE, r"20\d{6}\.v\d+", "assets")
    if not number:
        return []
    row = {"source": SOURCE, "framework": "", "version": "", "python": "3.10", "chips": ["cpu"]}
    return [{**row, "use": ["training", "serving"], "name": f"{BASE}:{number}", "end": None}]


def main(path: str) -> None:
    clone = Clone(path)
    table = json.loads(TARGET.read_text(encoding="utf-8"))
    rows = [row for row in table["images"] if row["source"] != SOURCE]
    rows += environments(clone) + base(clone)
    date = clone.git("log", "-1", "--format=%cs").strip()
    head = json.dumps({**table, "read": date, "images": []}, indent=2)
    body = ",\n".join("    " + json.dumps(row) for row in rows)
    made = head.replace('"images": []', f'"images": [\n{body}\n  ]')
    TARGET.write_text(made + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
