"""Prebuilt container images. "Prebuilt containers for custom training" and "Deep Learning
Containers: Hugging Face", Google Cloud documentation (read 2025-11); their tags are frozen, so
that another version is named by ``image``."""

from __future__ import annotations

from typing import Final

from cloudai.types._base import invalid

_TRAINING: Final[dict[str, dict[str, str]]] = {
    "pytorch": {
        "2.4": "pytorch-{chip}.2-4.py310",
        "2.3": "pytorch-{chip}.2-3.py310",
        "2.2": "pytorch-{chip}.2-2.py310",
        "2.1": "pytorch-{chip}.2-1.py310",
    },
    "tensorflow": {
        "2.17": "tf-{chip}.2-17.py310",
        "2.16": "tf-{chip}.2-16.py310",
        "2.15": "tf-{chip}.2-15.py310",
    },
}
_HUGGINGFACE: Final = (
    "us-docker.pkg.dev/deeplearning-platform-release/gcr.io/"
    "huggingface-pytorch-training-cu121.2-3.transformers.4-48.ubuntu2204.py311"
)


def image(framework: str, location: str, *, gpu: bool) -> tuple[str, bool]:
    """The training image of ``"pytorch"``, ``"tensorflow==2.17"`` or ``"huggingface"``, and
    whether it is one of Vertex AI's own, which install a source distribution themselves. Without
    a version the newest. Raises InvalidRequest for one that there is not."""
    name, _, version = framework.partition("==")
    if name == "huggingface" and not version:
        return _HUGGINGFACE, False
    versions = _TRAINING.get(name)
    if versions is None:
        names = ", ".join([*_TRAINING, "huggingface"])
        raise invalid(
            "framework", framework, "has no prebuilt image", f"There are: {names}; or name image."
        )
    short = ".".join(version.split(".")[:2]) if version else next(iter(versions))
    if short not in versions:
        raise invalid(
            "framework",
            framework,
            "has no prebuilt image",
            f"Versions of {name}: {', '.join(versions)}; or name image.",
        )
    stem = versions[short].format(chip="gpu" if gpu else "cpu")
    return f"{repository(location)}-docker.pkg.dev/vertex-ai/training/{stem}:latest", True


def repository(location: str) -> str:
    """The nearest of the three repositories."""
    for start in ("europe", "asia"):
        if location.startswith(start):
            return start
    return "asia" if location.startswith(("australia", "me-")) else "us"
