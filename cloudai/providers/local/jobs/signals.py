"""The signals of a supervisor's process: those that tell it to stop, and the end of a child, which
wakes it. Imports the standard library alone, as the supervisor does."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress


class Signals:
    """A process of one thread that sleeps until a signal comes.

    Attributes
    ----------
    told: the number of the signal that told the process to stop; 0 while none has.
    """

    def __init__(self) -> None:
        self.told = 0
        self._wake = -1

    def listen(self) -> None:
        """Takes this process's signals over, for life."""
        read, write = os.pipe2(os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._wake = read
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell)
        signal.signal(signal.SIGHUP, lambda number, frame: None)
        # A mask of the client's would outlive exec.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _tell(self, number: int, frame: object) -> None:
        self.told = number

    def sleep(self, seconds: float) -> None:
        """Waits, and wakes early for a signal, such as a child's end."""
        select.select([self._wake], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._wake, 4096)
