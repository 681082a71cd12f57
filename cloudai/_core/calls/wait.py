"""How often to look at something that takes its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

FIRST: Final = 0.05
FIRST_REMOTE: Final = 0.1
CAP_LOCAL: Final = 0.5
CAP_REMOTE: Final = 10.0


def intervals(*, remote: bool, timeout: float | None) -> Iterator[float]:
    """Seconds to sleep before each further look: short at first, growing by a half, cut to
    what is left of ``timeout``; ends when nothing is."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_REMOTE if remote else FIRST
    cap = CAP_REMOTE if remote else CAP_LOCAL
    while True:
        if deadline is None:
            yield pause
        else:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            yield min(pause, left)
        pause = min(cap, pause * 1.5)
