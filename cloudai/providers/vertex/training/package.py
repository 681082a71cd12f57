"""The user's source as an archive that a job unpacks from the mounted bucket, made without running
any of it. One input gives one archive, byte for byte."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from cloudai import bootstrap
from cloudai._core.files import pack
from cloudai._core.files.tree import source
from cloudai.types import TrainingJob
from cloudai.types._base import invalid

ROOT: Final = "cloudai_job"
ARCHIVE: Final = f"{ROOT}.tar.gz"

MAX_BYTES: Final = 1 << 30
"""Of source: beyond it something other than source is in the folder."""


def build(spec: TrainingJob, home: Path | None = None) -> bytes:
    """The archive. Raises InvalidRequest as ``files.tree.source`` does."""
    found = source(spec, home)
    if found.size > MAX_BYTES:
        problem = f"holds {found.size} bytes"
        raise invalid("source", spec.source, problem, "Leave data out by `ignore`.")
    files: dict[str, Path | bytes] = {
        "task.py": Path(__file__).with_name("task.py").read_bytes(),
        "bootstrap.py": Path(bootstrap.__file__).read_bytes(),
    }
    files |= {f"source/{name}": path for name, path in found.files.items()}
    out = io.BytesIO()
    pack.write(out, files, ROOT)
    return out.getvalue()
