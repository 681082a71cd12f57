"""A command of an emulated job. A container's end is the end of all that is in it: so here nothing
that a command started outlives it, not in a session of its own either."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from cloudai._core.state import processes
from cloudai.testing.emulators.common import keeper

_MARK: Final = "CLOUDAI_EMULATED_JOB"
_LAST: Final = 2.0
"""Seconds in which the last lines arrive, once nobody is left to write any."""


class Command:
    """Starts it, in a session of its own. Raises OSError where it cannot be started.

    Parameters
    ----------
    out: a file for its output; None: it is followed.
    """

    def __init__(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], out: IO[bytes] | None
    ) -> None:
        self._mark = os.urandom(16).hex()
        self._cleared = False
        self._process = subprocess.Popen(
            words, cwd=cwd, env={**keeper.kept(env), _MARK: self._mark},
            stdin=subprocess.DEVNULL, stdout=out or subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._clear()
        return code

    def wait(self) -> int:
        """The exit code, once it has ended."""
        code = self._process.wait()
        self._clear()
        return code

    def follow(self, heard: Callable[[str], object]) -> int:
        """Tells each line of its output, whatever its bytes, and gives the exit code."""
        reader = threading.Thread(target=self._read, args=(heard,), daemon=True)
        reader.start()
        code = self.wait()
        reader.join(_LAST)
        return code

    def _read(self, heard: Callable[[str], object]) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        with self._process.stdout as lines:
            for line in lines:
                heard(line.decode("utf-8", "replace").rstrip("\n"))

    def signal(self, number: signal.Signals) -> None:
        """Signals it and what it started, where it runs."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _clear(self) -> None:
        if self._cleared:
            return
        self._cleared = True
        while left := processes.marked(self._mark, _MARK):
            processes.send(left, signal.SIGKILL)
