"""What the emulated services share: the clock, the lock, the record of requests."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime
from typing import Any

from cloudai.testing.emulators.common.answers import Answers
from cloudai.testing.emulators.common.fates import Fates
from cloudai.testing.emulators.vertex._http import Refused, Request


class Clock:
    """The time that life cycles go by: the wall clock's, made faster, and moved by hand.

    Parameters
    ----------
    speed: seconds that go by in one second; 0 stands still until ``advance``.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._began = time.monotonic()
        self._base = time.time()
        self._extra = 0.0

    def now(self) -> float:
        """Unix seconds."""
        return self._base + (time.monotonic() - self._began) * self.speed + self._extra

    def advance(self, seconds: float) -> None:
        """Lets seconds go by at once."""
        self._extra += seconds


class VertexState:
    """State that the services share; ``lock`` is held while a request is handled. ``url`` is the
    emulator's, once it serves; ``told`` are outcomes of the next ones, by their common names."""

    def __init__(self, project: str, location: str, clock: Clock) -> None:
        self.project = project
        self.location = location
        self.clock = clock
        self.url = ""
        self.told = Fates("vertex")
        self.answers = Answers()
        self.lock = threading.RLock()
        self.requests: list[Request] = []
        self.ignored: list[str] = []
        self._numbers = itertools.count(1_000_000_001)

    def number(self) -> str:
        """A new resource's number."""
        return str(next(self._numbers))

    def parent(self, project: str, location: str) -> str:
        """The resource name of a location. Raises Refused for another project or place."""
        if project != self.project:
            raise Refused(
                403,
                "PERMISSION_DENIED",
                f"Permission denied on resource project {project} (or it may not exist).",
            )
        if location not in {self.location, "global"}:
            raise Refused(400, "INVALID_ARGUMENT", f"Unsupported region for Vertex AI: {location}")
        return f"projects/{project}/locations/{location}"


def stamp(seconds: float) -> str:
    """A google.protobuf.Timestamp in JSON."""
    when = datetime.fromtimestamp(seconds, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def page(items: list[Any], query: dict[str, str], name: str) -> dict[str, Any]:
    """One page of a list, by pageSize and pageToken."""
    size = int(query.get("pageSize") or 0) or 100
    begin = int(query.get("pageToken") or 0)
    found: dict[str, Any] = {name: items[begin : begin + size]}
    if begin + size < len(items):
        found["nextPageToken"] = str(begin + size)
    return {key: value for key, value in found.items() if value}


def fits(item: dict[str, Any], text: str) -> bool:
    """Whether a resource passes a list filter: comparisons joined by AND (AIP-160's part that
    Vertex AI documents: ``labels.KEY="V"``, ``labels.KEY:*``, ``display_name="…"``,
    ``state="…"``). Raises Refused for what is none."""
    import re

    for one in filter(None, (part.strip() for part in text.split(" AND "))):
        match = re.fullmatch(r'([\w.-]+)\s*(:|=|!=)\s*("([^"]*)"|[\w*-]+)', one)
        if match is None:
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid filter: {one}")
        value = match[4] if match[4] is not None else match[3]
        held: Any = item
        for name in match[1].split(".", 1):
            camel = re.sub(r"_(\w)", lambda m: m[1].upper(), name)
            held = held.get(name, held.get(camel)) if isinstance(held, dict) else None
        good = held is not None if value == "*" else str(held) == value
        if good == (match[2] == "!="):
            return False
    return True
