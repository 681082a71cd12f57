"""The endpoint server as it travels with a model into a container that does not have it.

Nothing of ours is fetched from an index by its name there: the wheel is made of the files of this
very package, and what it needs is installed by version and hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Final

from cloudai import _version
from cloudai._version import __version__

FOLDER: Final = ".cloudai"
"""Where it lies beside the model."""
PYTHON: Final = (3, 11)
"""The oldest Python that the wheel runs on."""

_INFO: Final = f"cloudai-{__version__}.dist-info"
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip can hold: one input, one wheel


def files(requirements: list[str]) -> dict[str, bytes]:
    """What goes into ``FOLDER``, by name.

    Parameters
    ----------
    requirements: what the model's handler needs, as its owner wrote it, one a line.
    """
    made = {
        f"cloudai-{__version__}-py3-none-any.whl": wheel(),
        "server.txt": Path(__file__).with_name("server_pins.txt").read_bytes(),
    }
    if requirements:
        made["own.txt"] = "".join(f"{line}\n" for line in requirements).encode()
    return made


@lru_cache(maxsize=1)
def wheel() -> bytes:
    """This package as a wheel ("Binary distribution format" 1.0), the same for the same files."""
    root = Path(_version.__file__).parent
    held = {
        f"cloudai/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held[f"{_INFO}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: cloudai\nVersion: {__version__}\n"
        f"Requires-Python: >={'.'.join(map(str, PYTHON))}\n"
    ).encode()
    held[f"{_INFO}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: cloudai\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},{_digest(held[name])},{len(held[name])}\n" for name in sorted(held))
    held[f"{_INFO}/RECORD"] = f"{record}{_INFO}/RECORD,,\n".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(held):
            about = zipfile.ZipInfo(name, _DATE)
            about.external_attr = 0o644 << 16
            packed.writestr(about, held[name], zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _digest(data: bytes) -> str:
    found = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return "sha256=" + found.decode().rstrip("=")
