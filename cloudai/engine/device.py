"""Which device and number type the local models run with. Imports torch on first use only."""

from __future__ import annotations

import os
from typing import Any, Final

from cloudai.engine import openmp
from cloudai.errors import ConfigError
from cloudai.types._base import invalid

# The adapters import this module before any that loads torch.
openmp.short(os.environ)

DTYPES: Final = ("float32", "bfloat16", "float16")


def pick(wanted: str | None) -> str:
    """The device to run on: ``wanted`` (the profile's key ``device``), or where it is None the
    first that is there of ``cuda``, ``mps`` and ``cpu``.

    Raises ConfigError for a device that this machine does not have.
    """
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = [f"cuda:{index}" for index in range(cards)]
    if torch.backends.mps.is_available():
        there.append("mps")
    there.append("cpu")
    if wanted is None:
        return there[0]
    name = f"{wanted}:0" if wanted == "cuda" else wanted
    if name not in there:
        raise ConfigError(
            f"the device {wanted!r} is not on this machine",
            provider="local",
            hint=f"Set the profile's `device` to one of: {', '.join(there)}; "
            "or leave it out to take the first",
        )
    return name


def chat_dtype(device: str) -> str:
    """The number type that chat models run fastest with on ``device``."""
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if device == "mps":
        return "float16"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 itself. Where it does not, torch emulates it: a
    prompt then takes four times as long as in float32 (measured on AVX2)."""
    import torch

    # Private in torch: a version without it counts as a CPU without bfloat16.
    probe: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    try:
        return bool(probe and probe())
    except RuntimeError:
        return False


def dtype(name: object, field: str = "native.dtype") -> Any:
    """The torch.dtype of that name. Raises InvalidRequest for one that is not in ``DTYPES``."""
    import torch

    if name not in DTYPES:
        raise invalid(field, name, "is no number type", f"Use one of: {', '.join(DTYPES)}.")
    return getattr(torch, str(name))


def moved(array: Any, device: str) -> Any:
    """A numpy array as a tensor on the device. To a GPU it goes out of pinned memory, so that
    nothing waits for it."""
    import torch

    made = torch.from_numpy(array)
    if device.startswith("cuda"):
        return made.pin_memory().to(device, non_blocking=True)
    return made.to(device)
