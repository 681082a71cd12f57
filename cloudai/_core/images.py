"""Vendors' container images as dated tables: what a provider without tables of its vendor's own
chooses one from. A script of ``scripts/`` writes each table from what its vendor publishes."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

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


def read(path: Path) -> Table:
    """The table of this release."""
    return msgspec.json.decode(path.read_bytes(), type=met(Table))


def choose(
    table: Table,
    framework: str,
    use: Use,
    *,
    gpu: bool,
    whose: str,
    mend: str = "Name an image",
    today: datetime.date | None = None,
) -> Image:
    """The image of ``"pytorch"``, ``"pytorch==2.3"`` or ``"huggingface"``; without a version the
    newest that is still there. Raises InvalidRequest where there is none, or none any more.

    Parameters
    ----------
    whose: the vendor. mend: what to do where there is none, without its full stop.
    """
    today = today or datetime.date.today()
    name, _, version = framework.partition("==")
    short = ".".join(version.split(".")[:2])
    chip = "gpu" if gpu else "cpu"
    rows = [row for row in table.images if use in row.use and chip in row.chips]
    fitting = [row for row in rows if row.framework == name and short in ("", row.version)]
    there = [row for row in fitting if row.end is None or row.end >= today]
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
            f"has no image any more: {whose}'s was there until {last}", f"{mend}.",
        )  # fmt: skip
    return max(there, key=lambda row: numbers(row.version))


def numbers(version: str) -> tuple[int, ...]:
    """A version to be compared."""
    return tuple(int(part) for part in version.split(".") if part)
