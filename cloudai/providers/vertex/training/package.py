"""The user's source as a Python source distribution, made without running any of it.

Vertex AI's prebuilt containers install it with pip and run ``cloudai_job.task``; in other images
the same archive is unpacked from the mounted bucket. One input gives one archive, byte for byte.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cloudai import bootstrap
from cloudai._core.files import pack
from cloudai._core.files.tree import source
from cloudai.types import TrainingJob
from cloudai.types._base import invalid

PACKAGE: Final = "cloudai_job"
ROOT: Final = "cloudai_job-1.0"
ARCHIVE: Final = f"{ROOT}.tar.gz"
MODULE: Final = f"{PACKAGE}.task"

MAX_BYTES: Final = 1 << 30
"""Of source: beyond it something other than source is in the folder."""


def build(spec: TrainingJob, home: Path | None = None) -> bytes:
    """The archive. Raises InvalidRequest as ``files.tree.source`` does."""
    found = source(spec, home)
    if found.size > MAX_BYTES:
        problem = f"holds {found.size} bytes"
        raise invalid("source", spec.source, problem, "Leave data out by `ignore`.")
    files: dict[str, Path | bytes] = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: cloudai-job\nVersion: 1.0\n",
        "setup.py": _setup(found.files).encode(),
        f"{PACKAGE}/__init__.py": b"",
        f"{PACKAGE}/task.py": Path(__file__).with_name("task.py").read_bytes(),
        f"{PACKAGE}/bootstrap.py": Path(bootstrap.__file__).read_bytes(),
    }
    files |= {f"{PACKAGE}/source/{name}": path for name, path in found.files.items()}
    out = io.BytesIO()
    pack.write(out, files, ROOT)
    return out.getvalue()


def _setup(names: Iterable[str]) -> str:
    data = [f"source/{name}" for name in names]
    return (
        "from setuptools import setup\n"
        f"setup(name='cloudai-job', version='1.0', packages=[{PACKAGE!r}],\n"
        f"      package_data={{{PACKAGE!r}: {data!r}}}, zip_safe=False)\n"
    )
