"""Container images for jobs and endpoints that name none, from a dated table (``images.json``,
written by ``scripts/images.py``): framework, version, Python, chip and the end of availability,
after which Google may have removed an image. Another image is named by ``image``."""

from __future__ import annotations

import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import msgspec

from cloudai._core.handlers import travel
from cloudai.types._base import invalid, met

Use = Literal["training", "serving"]

SOON: Final = 90
"""Days before an image's end in which a plan warns of it."""


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the table.

    Parameters
    ----------
    source: a key of the table's sources. framework, version: what it is made for.
    python: its version. chips: ``"cpu"``, ``"gpu"``. use: ``"training"``, ``"serving"``.
    name: without the host. end: of its availability; None where none is told.
    """

    source: str
    framework: str
    version: str
    python: str
    chips: tuple[str, ...]
    use: tuple[Use, ...]
    name: str
    end: datetime.date | None = None

    def uri(self, location: str) -> str:
        """The image in the nearest repository."""
        near = repository(location) if self.source == "vertex-ai" else "us"
        return f"{near}-docker.pkg.dev/{self.name}"

    def ends_soon(self, today: datetime.date) -> str | None:
        """A warning, where it ends within ``SOON`` days."""
        if self.end is None or (self.end - today).days > SOON:
            return None
        return f"the image of {self.framework} {self.version} is there until {self.end}"


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All images; ``read`` is when."""

    read: datetime.date
    sources: dict[str, str]
    images: tuple[Image, ...]


@lru_cache(maxsize=1)
def table() -> Table:
    """The table of this release."""
    return msgspec.json.decode(
        Path(__file__).with_name("images.json").read_bytes(), type=met(Table)
    )


def choose(framework: str, use: Use, *, gpu: bool, today: datetime.date | None = None) -> Image:
    """The image of ``"pytorch"``, ``"pytorch==2.3"`` or ``"huggingface"``; without a version the
    newest that is still there. Raises InvalidRequest where there is none, or none any more, and
    for one whose Python is too old for the endpoint server."""
    today = today or datetime.date.today()
    name, _, version = framework.partition("==")
    short = ".".join(version.split(".")[:2])
    chip = "gpu" if gpu else "cpu"
    rows = [row for row in table().images if use in row.use and chip in row.chips]
    fitting = [row for row in rows if row.framework == name and short in ("", row.version)]
    there = [row for row in fitting if row.end is None or row.end >= today]
    mend = "Name an image"
    if use == "serving":
        mend += ": `cloudai package` makes one with the server in it"
    names = sorted(
        {f"{row.framework}=={row.version}" for row in rows if row.end is None or row.end >= today}
    )
    if names:
        mend += f". There are {', '.join(names)}"
    if not fitting:
        raise invalid("framework", framework, f"has no image for {use} on a {chip}", f"{mend}.")
    if not there:
        last = max(row.end for row in fitting if row.end is not None)
        raise invalid(
            "framework", framework,
            f"has no image any more: Google's was there until {last}", f"{mend}.",
        )  # fmt: skip
    found = max(there, key=lambda row: _numbers(row.version))
    if use == "serving" and _numbers(found.python) < travel.PYTHON:
        raise invalid(
            "framework", framework,
            f"has an image with Python {found.python}, and the server needs 3.11", f"{mend}.",
        )  # fmt: skip
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def repository(location: str) -> str:
    """The nearest of the three repositories."""
    for start in ("europe", "asia"):
        if location.startswith(start):
            return start
    return "asia" if location.startswith(("australia", "me-")) else "us"
