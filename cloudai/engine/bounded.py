"""An end for pure Python that may have none: a model's chat template is a program that came with
the model, and Jinja's sandbox bounds what it reaches, not how long it loops."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final


class Late(BaseException):
    """Raised in the thread whose time is over. No ``Exception``, which a template's machinery
    would catch."""


class _Entry:
    def __init__(self, seconds: float) -> None:
        self.thread = threading.get_ident()
        self.end = time.monotonic() + seconds
        self.fired = False


class _Watch:
    """One thread for all that is bounded; it sleeps until the nearest end."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._entries: set[_Entry] = set()
        self._thread: threading.Thread | None = None

    def add(self, entry: _Entry) -> None:
        with self._change:
            self._entries.add(entry)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="cloudai-bounded", daemon=True
                )
                self._thread.start()
            self._change.notify()

    def drop(self, entry: _Entry) -> None:
        with self._change:
            self._entries.discard(entry)

    def _run(self) -> None:
        with self._change:
            while True:
                now = time.monotonic()
                for entry in [one for one in self._entries if one.end <= now]:
                    self._entries.discard(entry)
                    entry.fired = True
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(entry.thread), ctypes.py_object(Late)
                    )
                ends = [one.end - now for one in self._entries]
                self._change.wait(max(min(ends), 0.0) if ends else None)


_WATCH: Final = _Watch()
if hasattr(os, "register_at_fork"):
    # The thread is not in a child, and another may have held the lock.
    os.register_at_fork(after_in_child=_WATCH.__init__)


@contextmanager
def within(seconds: float) -> Generator[None]:
    """Bounds what runs in this thread. Raises ``Late`` in it once the time is over: at the next
    step of Python's, not inside a call of a library."""
    entry = _Entry(seconds)
    try:
        _WATCH.add(entry)
        yield
    except Late:
        raise
    except BaseException:
        _settled(entry)
        raise
    else:
        _settled(entry)


def _settled(entry: _Entry) -> None:
    """Past here no ``Late`` is on its way; one that was is taken."""
    try:
        _WATCH.drop(entry)
        while entry.fired:
            time.sleep(0.001)
    except Late:
        return
