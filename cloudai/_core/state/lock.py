"""Locks that the life of their owner holds: unlike a process id, a lock is never another
process's, and a kill or a reboot frees it. Standard library only: supervisors import it."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

try:
    import fcntl
except ModuleNotFoundError:  # Windows: creates are told apart by their provider alone
    fcntl = None  # type: ignore[assignment]

_FIRST: Final = 0.005
_LONGEST: Final = 0.1
"""Seconds between two tries at a lock."""


def held(path: Path) -> bool:
    """Whether somebody holds the lock."""
    if fcntl is None:
        return False
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextmanager
def taken(path: Path, seconds: float = 0.0) -> Generator[bool]:
    """Holds the lock for a while; gives False where another still holds it after ``seconds``, or
    its folder is gone. The file stays."""
    file = kept(path, seconds)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def kept(path: Path, seconds: float = 0.0) -> int | None:
    """Takes the lock for as long as this process lives, or until the descriptor is closed; None
    where another still holds it after ``seconds``, or its folder is gone. Whoever looks whether
    somebody holds it does so himself for an instant: give it a second."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except FileNotFoundError:
        return None
    end, pause = time.monotonic() + seconds, _FIRST
    while not _locked(file):
        if time.monotonic() >= end:
            os.close(file)
            return None
        time.sleep(pause)
        pause = min(_LONGEST, pause * 1.5)
    return file


def _locked(file: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Held:
    """A lock file that is there only while it is held: between threads, and processes."""

    def __init__(self, file: int, path: Path) -> None:
        self._file = file
        self._path = path
        _held.add(self)

    def free(self) -> None:
        """Lets it go, and removes the file first: whoever waits finds another."""
        _held.discard(self)
        with suppress(OSError):
            self._path.unlink()
        os.close(self._file)

    def after_fork(self) -> None:
        # The lock is the parent's; a copy of its descriptor would hold it past the parent's end.
        with suppress(OSError):
            os.close(self._file)


_held: weakref.WeakSet[Held] = weakref.WeakSet()


def attempt(path: Path) -> Held | None:
    """The lock, where nobody holds it. Raises OSError."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _locked(file):
                os.close(file)
                return None
            # The one before us may have removed the file between our open and our lock.
            with suppress(FileNotFoundError):
                if os.fstat(file).st_ino == path.stat().st_ino:
                    return Held(file, path)
        except BaseException:
            with suppress(OSError):
                os.close(file)
            raise
        os.close(file)


def wait(path: Path, seconds: float) -> Held | None:
    """The lock, once it is free; None where that takes longer than ``seconds``."""
    end = time.monotonic() + seconds
    pause = _FIRST
    while (found := attempt(path)) is None:
        left = end - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause = min(_LONGEST, pause * 1.5)
    return found


def _after_fork() -> None:
    for one in list(_held):
        one.after_fork()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
