"""Archives as we write them: the same bytes for the same files."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

_DATE: Final = 315_619_200
"""2 January 1980. Older toolkits make a wheel of a source, and zip holds no date before 1980,
in no time zone; a file's own date would change the archive."""


def write(out: IO[bytes], files: Mapping[str, Path | bytes], folder: str = "") -> None:
    """Writes a tar.gz: no owners, one date, and of the modes only whether it may be executed.

    Parameters
    ----------
    files: by name, in the order they are written. folder: in which all of them lie.
    """
    # Level 6 packs sources nearly as well as 9, in a third of the time.
    with (
        gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in files.items():
            about = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            about.mtime = _DATE
            if isinstance(content, bytes):
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
                continue
            found = content.stat()
            about.size = found.st_size
            about.mode = 0o755 if found.st_mode & 0o100 else 0o644
            with content.open("rb") as data:
                archive.addfile(about, data)
