"""Environments of their own for what the witnesses run: made where they are not there yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

CONSTRAINTS: Final = Path(__file__).resolve().parents[2] / "constraints.txt"

PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    # TorchServe imports pkg_resources, which newer setuptools no longer have.
    "pytorch": (
        "torch", "transformers", "sagemaker-pytorch-inference", "torchserve",
        "torch-model-archiver", "pyyaml", "setuptools<81",
    ),
    # The toolkit imports what transformers had until 4.41.
    "huggingface": (
        "sagemaker-huggingface-inference-toolkit", "multi-model-server", "transformers==4.41.2",
        "huggingface_hub==0.23.5", "torch==2.13.0",
        "setuptools<81",
    ),
    # Its own pins of Flask and others are not those of the tests.
    "azureml": ("azureml-inference-server-http", "numpy", "torch==2.13.0", "transformers>=5"),
    "kserve": ("kserve",),
}  # fmt: skip
_PINNED: Final = {"pytorch"}
"""Those whose packages are of the versions that the tests use."""


def python_of(environments: Path, name: str) -> Path:
    """The interpreter of the environment that has the packages of a name."""
    place = environments / name
    python = place / "bin" / "python"
    if not (place / "made").exists():
        print(f"making {place} with {' '.join(PACKAGES[name])}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        if name in _PINNED:
            pip += ["--constraint", str(CONSTRAINTS)]
        subprocess.run([*pip, *PACKAGES[name]], check=True)
        (place / "made").touch()
    return python


def clean_env(**more: str) -> dict[str, str]:
    """Nothing of this process's environment but what any program needs."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp"), **more}
