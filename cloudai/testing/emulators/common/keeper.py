"""Ties what an emulator runs to the life of the emulator's process, whatever ends that: SIGKILL
leaves no time to clean up.

A keeper, in a process and a session of its own, reads a pipe whose writing end this process alone
holds. At its end of file, which comes when this process ends in whatever way, the keeper kills all
that bear this process's mark in their environment, and ends. The mark passes on to children, those
that lead sessions of their own too.

The kernel's parent-death signal would not do here: it comes when the *thread* that started a
process ends, and an emulator starts them in threads that answer one connection. Nor could a
process slip through between its fork and its mark: until it has become the command, it holds the
writing end as well.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from cloudai._core.state import processes

MARK: Final = "CLOUDAI_EMULATOR_MARK"
"""The environment variable that what an emulator runs bears."""
_MAIN: Final = "from cloudai.testing.emulators.common.keeper import main; main()"
_PATIENCE: Final = 60.0
"""Seconds that a killed process may take to end, as one that waits for a disk."""


class _Keeper:
    """The one of this process; started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = ""

    def mark(self) -> str:
        with self._lock:
            if self._process is None:
                self._mark = os.urandom(16).hex()
                # An emulator may itself run in another one's job, whose end must not end the
                # keeper before its work.
                around = {name: text for name, text in os.environ.items() if name != MARK}
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _MAIN, self._mark],
                    env=around, stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            return self._mark

    def close(self) -> None:
        """Lets the keeper do its work, and waits for it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)

    def forget(self) -> None:
        """In a forked child: the pipe is the parent's."""
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.returncode = 0  # not this process's child: nothing to wait for
        self._lock = threading.Lock()  # a thread that is not here may hold the other
        self._process = None


_KEEPER: Final = _Keeper()
atexit.register(_KEEPER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_KEEPER.forget)


def kept(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that must not outlive this one."""
    return {**env, MARK: _KEEPER.mark()}


def main() -> None:
    """``python -c ... MARK``: the keeper."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # its end is that of the emulator, and no other
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    mark = sys.argv[1]
    while os.read(0, 4096):
        pass
    deadline = time.monotonic() + _PATIENCE
    while (left := processes.marked(mark, MARK)) and time.monotonic() < deadline:
        processes.send(left, signal.SIGKILL)
        time.sleep(0.01)
