"""The loaded models of this process: one copy each, however many clients and threads ask."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")


class _Entry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.value: Any = None


class Pool:
    """Shared values by key. A value is made once, and dropped when its last user gives it up;
    whoever still works with it keeps it alive until then."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}

    def acquire(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made with ``make`` by the first who asks; the others wait for
        it. A failed ``make`` raises, and the next one tries again."""
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                if entry.value is None:
                    entry.value = make()
                return cast("T", entry.value)
        except BaseException:
            self.release(key)
            raise

    def release(self, key: Hashable) -> None:
        """Gives up one use of ``key``."""
        with self._guard:
            entry = self._entries.get(key)
            if entry is None:
                return
            entry.users -= 1
            if entry.users <= 0:
                del self._entries[key]

    def loaded(self) -> list[Hashable]:
        """The keys of all that is loaded or being loaded."""
        with self._guard:
            return list(self._entries)

    def after_fork(self) -> None:
        """In a forked child: new locks, for a thread that is not here may hold the old ones;
        what the parent was still loading is forgotten."""
        self._guard = threading.Lock()
        self._entries = {k: e for k, e in self._entries.items() if e.value is not None}
        for entry in self._entries.values():
            entry.lock = threading.Lock()


POOL: Final = Pool()


class Held:
    """What one user (a profile, a served model) has taken from the pool."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The shared value of ``key``; this holder counts as one user of it."""
        found = self._held.get(key)
        if found is not None:
            return cast("T", found)
        value = POOL.acquire(key, make)
        with self._lock:
            if key not in self._held:
                self._held[key] = value
                return value
        POOL.release(key)
        return value

    def close(self) -> None:
        """Gives everything back; models that nobody else uses are freed."""
        with self._lock:
            held, self._held = list(self._held), {}
        for key in held:
            POOL.release(key)


def _in_child() -> None:
    POOL.after_fork()
    # The tokenizers library switches its threads off in a forked child and prints a warning
    # about it, unless this says so beforehand.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
