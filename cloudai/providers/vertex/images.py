"""Container images for jobs and endpoints that name none, from a dated table (``images.json``,
written by ``scripts/images.py``): framework, version, Python, chip and the end of availability,
after which Google may have removed an image. Another image is named by ``image``."""

from __future__ import annotations

import datetime
from functools import lru_cache
from pathlib import Path

from cloudai._core import images
from cloudai._core.handlers import travel
from cloudai._core.images import Image, Table, Use
from cloudai.types._base import invalid


@lru_cache(maxsize=1)
def table() -> Table:
    """The table of this release."""
    return images.read(Path(__file__).with_name("images.json"))


def choose(framework: str, use: Use, *, gpu: bool, today: datetime.date | None = None) -> Image:
    """See ``cloudai._core.images.choose``. Refuses one whose Python is too old for the endpoint
    server, too."""
    mend = "Name an image"
    if use == "serving":
        mend += ": `cloudai package` makes one with the server in it"
    found = images.choose(table(), framework, use, gpu=gpu, whose="Google", mend=mend, today=today)
    if use == "serving" and images.numbers(found.python) < travel.PYTHON:
        raise invalid(
            "framework", framework,
            f"has an image with Python {found.python}, and the server needs 3.11", f"{mend}.",
        )  # fmt: skip
    return found


def uri(image: Image, location: str) -> str:
    """An image in the nearest repository."""
    near = repository(location) if image.source == "vertex-ai" else "us"
    return f"{near}-docker.pkg.dev/{image.name}"


def repository(location: str) -> str:
    """The nearest of the three repositories."""
    for start in ("europe", "asia"):
        if location.startswith(start):
            return start
    return "asia" if location.startswith(("australia", "me-")) else "us"
