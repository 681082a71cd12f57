"""What jobs and models run in that name no image: Microsoft's, from a dated table (``images.json``,
written by ``scripts/azure_images.py``). Jobs get the curated image of their framework; models a
conda environment with the framework in it, on a base image."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from cloudai._core import images
from cloudai.errors import InvalidRequest
from cloudai.types import Violation
from cloudai.types._base import invalid

_HOST: Final = "mcr.microsoft.com"
_PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "": (),
    "pytorch": ("torch",),
    "tensorflow": ("tensorflow",),
    "sklearn": ("scikit-learn",),
    "huggingface": ("transformers", "torch"),
}
"""A framework's packages; a version is the first one's."""


@lru_cache(maxsize=1)
def table() -> images.Table:
    """The table of this release."""
    return images.read(Path(__file__).with_name("images.json"))


def job(framework: str, *, gpu: bool) -> str:
    """The image of a job. Raises InvalidRequest for a framework or a version that has none."""
    mend = "Name an image, or native.azure.environment"
    found = images.choose(table(), framework, "training", gpu=gpu, whose="Microsoft", mend=mend)
    return f"{_HOST}/{found.name}"


def base(*, gpu: bool) -> str:
    """What a model's conda environment is put on."""
    return f"{_HOST}/{images.choose(table(), '', 'serving', gpu=gpu, whose='Microsoft').name}"


def packages(framework: str, beside: list[str]) -> list[str]:
    """What pip installs for a framework beside a model: in the version that is asked for, else
    in that of the jobs' image.

    Parameters
    ----------
    beside: the handler's requirements; a package that they name is theirs to choose.

    Raises InvalidRequest for a framework that is not known.
    """
    name, _, version = framework.partition("==")
    if name not in _PACKAGES:
        known = ", ".join(sorted(filter(None, _PACKAGES)))
        raise invalid(
            "framework", framework, "is not known here", f"Use one of {known}, or an image."
        )
    if not version:
        trained = [row.version for row in table().images if row.framework == name]
        version = max(trained, key=images.numbers, default="")
    taken = {_name(line) for line in beside}
    found = [package for package in _PACKAGES[name] if package not in taken]
    return [
        f"{package}=={version}{'.*' if version.count('.') < 2 else ''}"
        if version and package == _PACKAGES[name][0]
        else package
        for package in found
    ]


def violations(framework: str) -> list[Violation]:
    """What is wrong with the framework of a model."""
    try:
        packages(framework, [])
    except InvalidRequest as error:
        return [Violation("framework", error.message, error.hint or "")]
    return []


def _name(line: str) -> str:
    found = re.match(r"[\w.-]+", line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
