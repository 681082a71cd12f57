"""The GPUs of this machine, found without loading torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from typing import Final

import msgspec

from cloudai.types import Accelerator

_WORD: Final = re.compile(r"[A-Za-z0-9.]+")
_TOLERANCE: Final = 0.1
"""A card's own figure is some percent off the name's: an "80 GB" one reports 79.6 or 81.9."""


class Gpu(msgspec.Struct, frozen=True):
    """A GPU: its index, its vendor's name, GiB of memory."""

    index: int
    name: str
    memory: float


@cache
def _all() -> tuple[Gpu, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse(listed.stdout)


def parse(text: str) -> tuple[Gpu, ...]:
    """What ``nvidia-smi --query-gpu=index,name,memory.total`` printed."""
    found: list[Gpu] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[0].isdigit():
            found.append(Gpu(int(parts[0]), parts[1], float(parts[2]) / 1024))
    return tuple(found)


def gpus(device: str | None = None) -> tuple[Gpu, ...]:
    """The GPUs that a job may use: the profile's ``device`` and CUDA_VISIBLE_DEVICES count."""
    if device in {"cpu", "mps"}:
        return ()
    found = _all()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        chosen = {part.strip() for part in visible.split(",")}
        found = tuple(gpu for gpu in found if str(gpu.index) in chosen)
    if device and device.startswith("cuda:"):
        found = tuple(gpu for gpu in found if str(gpu.index) == device.removeprefix("cuda:"))
    return found


def matching(asked: Accelerator, here: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The GPUs here that are of the kind that was asked for."""

    def fits(gpu: Gpu) -> bool:
        if asked.name not in {word.upper() for word in _WORD.findall(gpu.name)}:
            return False
        return asked.memory is None or abs(gpu.memory / asked.memory - 1) <= _TOLERANCE

    return tuple(gpu for gpu in here if fits(gpu))


def describe(here: tuple[Gpu, ...]) -> str:
    """The GPUs in words."""
    if not here:
        return "no GPU"
    names = sorted({(gpu.name, round(gpu.memory)) for gpu in here})
    return ", ".join(
        f"{sum(gpu.name == name for gpu in here)} × {name} ({memory} GiB)" for name, memory in names
    )
