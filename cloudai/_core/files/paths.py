"""Paths of this machine, as specs name them (plain, or as ``file:`` URIs) and as the system takes
them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from cloudai.types._base import invalid

_FILE: Final = "file://"


def here(uri: str) -> Path | None:
    """The absolute path that a path or a ``file:`` URI names, which is decoded (RFC 8089, section
    2: its path is percent-encoded); None for none, and for a place elsewhere, another machine's
    too."""
    if not uri.startswith(_FILE):
        return None if not uri or "://" in uri else Path(uri).expanduser().absolute()
    host, slash, path = uri.removeprefix(_FILE).partition("/")
    if host == "~":  # no host, and often written
        return (Path.home() / unquote(path)).absolute()
    return Path(unquote(slash + path)) if slash and host in {"", "localhost"} else None


def local_path(uri: str, field: str = "uri", mend: str = "Download it, and give its path.") -> Path:
    """The path of ``here``. Raises InvalidRequest for a place elsewhere."""
    path = here(uri)
    if path is None:
        raise invalid(field, uri, "is not on this machine", mend)
    return path


@contextmanager
def short(path: Path) -> Generator[str]:
    """A short name for a socket's path: Unix sockets allow 107 bytes (unix(7))."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
