"""The user's source as a Python source distribution, made without running any of it.

Vertex AI's prebuilt containers install it with pip and run ``cloudai_job.task``; in other images
the same archive is unpacked from the mounted bucket. One input gives one archive, byte for byte.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Final

from cloudai import bootstrap
from cloudai.types import TrainingJob
from cloudai.types._base import invalid

PACKAGE: Final = "cloudai_job"
ROOT: Final = "cloudai_job-1.0"
ARCHIVE: Final = f"{ROOT}.tar.gz"
MODULE: Final = f"{PACKAGE}.task"

ALWAYS_IGNORED: Final = (
    ".git",
    "__pycache__",
    "*.pyc",
    ".venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    ".DS_Store",
)

MAX_BYTES: Final = 1 << 30
"""Of source: beyond it something other than source is in the folder."""
MAX_DEPTH: Final = 40
"""Of folders: a link in a circle gets there, and no source does."""


def files(spec: TrainingJob) -> list[Path]:
    """The files that travel, sorted; links are followed. Raises InvalidRequest for a source, entry
    or requirements that is not there, and for a link in a circle."""
    root = Path(spec.source or "").expanduser()
    if not root.is_dir():
        raise invalid("source", spec.source, "is not a directory")
    patterns = (*ALWAYS_IGNORED, *spec.ignore)
    found: list[Path] = []
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        inner = here.relative_to(root)
        folders[:] = sorted(name for name in folders if not _ignored(inner / name, patterns))
        if len(inner.parts) > MAX_DEPTH:
            raise invalid("source", folder, "is a link in a circle", "Add it to ignore.")
        found += [
            inner / name
            for name in names
            if not _ignored(inner / name, patterns) and (here / name).is_file()
        ]
    for field in ("entry", "requirements"):
        name = getattr(spec, field)
        if name is not None and Path(name) not in found:
            raise invalid(field, name, f"is not a file of the source {spec.source!r}")
    return sorted(found)


def _ignored(path: Path, patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:
        bare = pattern.strip("/").removeprefix("./")
        named = "/" not in bare and fnmatch.fnmatch(path.name, bare)
        if named or fnmatch.fnmatch(path.as_posix(), bare):
            return True
    return False


def build(spec: TrainingJob) -> bytes:
    """The archive."""
    root = Path(spec.source or "").expanduser()
    names = files(spec)
    size = sum((root / name).stat().st_size for name in names)
    if size > MAX_BYTES:
        raise invalid("source", spec.source, f"holds {size} bytes", "Leave data out by `ignore`.")
    here = Path(__file__).parent
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, text in (
            ("PKG-INFO", "Metadata-Version: 2.1\nName: cloudai-job\nVersion: 1.0\n"),
            ("setup.py", _setup(names)),
            (f"{PACKAGE}/__init__.py", ""),
            (f"{PACKAGE}/task.py", (here / "task.py").read_text(encoding="utf-8")),
            (f"{PACKAGE}/bootstrap.py", Path(bootstrap.__file__).read_text(encoding="utf-8")),
        ):
            _add(tar, name, text.encode(), 0o644)
        for name in names:
            path = root / name
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            _add(tar, f"{PACKAGE}/source/{name.as_posix()}", path.read_bytes(), mode)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    about = tarfile.TarInfo(f"{ROOT}/{name}")
    about.size = len(data)
    about.mode = mode
    tar.addfile(about, io.BytesIO(data))


def _setup(names: list[Path]) -> str:
    data = [f"source/{name.as_posix()}" for name in names]
    return (
        "from setuptools import setup\n"
        f"setup(name='cloudai-job', version='1.0', packages=[{PACKAGE!r}],\n"
        f"      package_data={{{PACKAGE!r}: {data!r}}}, zip_safe=False)\n"
    )
