"""A container in small: a folder stands at ``/opt/ml`` for one process and its children.

Where Linux lets its users have namespaces, the folder really is mounted there, so that paths
written into scripts hold too, in whatever language. Elsewhere ``/opt/ml`` is replaced in the
command's own words, and scripts are on their environment (``SM_MODEL_DIR``, …), as they should be.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = "/opt/ml"

# $1: the folder; the rest: the command. /opt is made anew, with all that was in it, where it
# lacks the place to mount at; nothing of it is seen from outside.
_MOUNT: Final = """
set -e
root="$1"; shift
if [ ! -d /opt/ml ]; then
  kept="$root/.opt"; mkdir -p "$kept"
  if [ -d /opt ]; then mount --rbind /opt "$kept"; fi
  mount -t tmpfs tmpfs /opt
  for one in "$kept"/* "$kept"/.[!.]*; do
    name="${one##*/}"
    if [ -d "$one" ]; then mkdir "/opt/$name"; mount --rbind "$one" "/opt/$name"
    elif [ -e "$one" ]; then cp -P "$one" "/opt/$name"; fi
  done
  mkdir /opt/ml
fi
mount --rbind "$root" /opt/ml
cd "$(pwd | sed "s|^$root|/opt/ml|")"
exec "$@"
"""
_NAMESPACE: Final = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, "sh"]


@functools.cache
def mounts() -> bool:
    """Whether this machine lets the folder be mounted: tried once."""
    import tempfile

    if shutil.which("unshare") is None or not os.path.isdir("/opt"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "here").touch()
        tried = subprocess.run(
            [*_NAMESPACE, folder, "test", "-e", f"{ROOT}/here"],
            capture_output=True, check=False, timeout=30,
        )  # fmt: skip
    return tried.returncode == 0


def command(words: Sequence[str], folder: Path) -> list[str]:
    """The command with ``folder`` at ``/opt/ml``."""
    if mounts():
        return [*_NAMESPACE, str(folder), *words]
    return [word.replace(ROOT, str(folder)) for word in words]


def root(folder: Path) -> str:
    """Where the process itself finds the folder."""
    return ROOT if mounts() else str(folder)
