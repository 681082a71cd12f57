"""The server's log: one JSON line an event, on standard error."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import msgspec


def log(event: str, level: str = "info", **fields: Any) -> None:
    """Writes one line. Inputs, outputs and headers never stand in it."""
    line = msgspec.json.encode({"time": round(time.time(), 3), "level": level, "event": event,
                                **fields})  # fmt: skip
    with contextlib.suppress(OSError):  # a full disk or a closed pipe must not end the server
        os.write(2, line + b"\n")
