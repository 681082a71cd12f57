"""The end of what an SDK asks: it gives up each request for itself, and may need several.

``within`` is the end of all that are made inside it, by ``sdk.session``.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from cloudai.errors import CloudAIError

LONG: Final = 3600.0
"""Seconds for what has no deadline, such as a large file."""

_until: ContextVar[float] = ContextVar("cloudai_sdk_until", default=float("inf"))


@contextmanager
def within(seconds: float) -> Generator[None]:
    """All that SDKs ask in here has ended ``seconds`` from now, or with an outer ``within``. Not
    around a ``yield``: the caller's own requests would fall under it."""
    until = _until.get()
    _until.set(min(until, time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.set(until)


def left(most: float = LONG) -> float:
    """Seconds that a request in here has, at most ``most``. Not below 0."""
    return max(0.0, min(most, _until.get() - time.monotonic()))


def deadline() -> float | None:
    """``time.monotonic()`` at which it ends; None where nothing is bounded."""
    until = _until.get()
    return None if until == float("inf") else until


def cause(error: BaseException | None) -> CloudAIError | None:
    """The failure of our transport that an SDK's error hides."""
    while error is not None and not isinstance(error, CloudAIError):
        error = error.__cause__ or error.__context__
    return error
