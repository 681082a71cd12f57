"""Process trees: how none is left behind. Standard library only; the supervisor imports it.

On Linux the kernel does the work: a worker asks to be killed when its parent dies
(PR_SET_PDEATHSIG), the supervisor adopts whatever its workers leave (PR_SET_CHILD_SUBREAPER),
and every process of a job carries the job's token in its environment. Elsewhere the process
group is what there is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

LINUX: Final = sys.platform == "linux"
TOKEN: Final = "CLOUDAI_JOB_TOKEN"  # noqa: S105 (the variable's name; the token marks, it opens nothing)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc: Any = ctypes.CDLL(None) if LINUX else None


def die_with(parent: int) -> None:
    """Has the kernel kill this process when ``parent`` dies; it survives ``exec``."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os._exit(128 + signal.SIGKILL)


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its descendants leave behind."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """The processes below ``root``, zombies left out."""
    below: dict[int, list[int]] = {}
    for pid, parent, state in _table():
        if state not in "ZX":
            below.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        for child in below.get(queue.pop(), ()):
            found.append(child)
            queue.append(child)
    return found


def _table() -> list[tuple[int, int, str]]:
    """Every process: its id, its parent's, and the letter of its state."""
    rows: list[tuple[int, int, str]] = []
    if LINUX:
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat") as file:
                    # The name in parentheses may hold anything, so what follows the last one.
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                    rows.append((int(name), int(parent), state))
        return rows
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,state="], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        pid, parent, state = line.split()[:3]
        rows.append((int(pid), int(parent), state[0]))
    return rows


def marked(token: str, name: str = TOKEN) -> list[int]:
    """The processes, other than this one, that carry a job's token in the environment variable
    ``name``: what is left of a job whose supervisor was killed. A process id that was used again
    does not carry it."""
    needle = f"{name}={token}"
    found: list[int] = []
    if LINUX:
        mark = needle.encode()
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(name))
        return found
    listed = subprocess.run(
        ["ps", "-axEwwo", "pid=,command="], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        if needle in line.split():
            found.append(int(line.split()[0]))
    return [pid for pid in found if pid != os.getpid()]


def send(pids: Iterable[int], number: int) -> None:
    """Signals each process that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
