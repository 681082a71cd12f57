"""A job's log: the script's own output, straight into a file.

Nothing stands between the script and its log: no pipe that could fill up and block it, nothing
that is lost when the supervisor is killed. The times are kept beside it: the supervisor looks
at the file's length ten times a second and, where it grew, appends (length, time) to
``<log>.times``. A line's time is that of the first such entry past its beginning.

Standard library only; the supervisor imports it.
"""

from __future__ import annotations

import json
import os
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from cloudai._core.metrics import MetricPatterns

MAIN: Final = "log"
PAGE: Final = 1 << 20
"""Bytes of each log file that one page reads at most."""

_ENTRY: Final = struct.Struct("<Qd")


METRIC_SECONDS: Final = 0.5

Point: TypeAlias = tuple[str, int, float, float]
"""Of a metric: its name, step, value and time."""


class Line(NamedTuple):
    text: str
    time: float
    source: str


def files(folder: Path) -> list[Path]:
    """The job's log files: the main one first, then one a rank."""
    ranks = [path for path in folder.glob("log.rank*") if path.suffix != ".times"]
    return [folder / MAIN, *sorted(ranks, key=lambda path: (len(path.name), path.name))]


def source(path: Path) -> str:
    """Which process wrote the file: ``"rank0"``; empty for the main log."""
    return path.name.partition(".")[2]


class Clock:
    """Keeps the times of one log file while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times = path.with_name(path.name + ".times")
        self._size = _size(path)

    def tick(self) -> None:
        """Notes the time if the log grew since the last tick."""
        size = _size(self._path)
        if size <= self._size:
            return
        self._size = size
        with open(self._times, "ab") as file:
            file.write(_ENTRY.pack(size, time.time()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Times:
    """The entries of ``<log>.times``, bisected in the file rather than read whole: a day of
    steady output makes a million."""

    def __init__(self, log: Path) -> None:
        self._path = log.with_name(log.name + ".times")
        self._last = log.stat().st_mtime
        self._lengths: list[int] = []
        self._times: list[float] = []

    def load(self, start: int, end: int) -> None:
        """Reads the entries that cover the bytes from ``start`` to ``end``."""
        self._lengths, self._times = [], []
        try:
            with open(self._path, "rb") as file:
                count = os.fstat(file.fileno()).st_size // _ENTRY.size
                low, high = 0, count
                while low < high:
                    middle = (low + high) // 2
                    file.seek(middle * _ENTRY.size)
                    if _ENTRY.unpack(file.read(_ENTRY.size))[0] <= start:
                        low = middle + 1
                    else:
                        high = middle
                file.seek(low * _ENTRY.size)
                while len(entry := file.read(_ENTRY.size)) == _ENTRY.size:
                    length, when = _ENTRY.unpack(entry)
                    self._lengths.append(length)
                    self._times.append(when)
                    if length >= end:
                        break
        except FileNotFoundError:
            return

    def at(self, offset: int) -> float:
        index = bisect_right(self._lengths, offset)
        # Not noted yet (or never: the supervisor was killed): the file's last write.
        return self._times[index] if index < len(self._times) else self._last


def read(folder: Path, cursor: str | None, ended: bool) -> tuple[list[Line], str]:
    """The lines past the cursor, by time, and the next cursor.

    A last line without its end is held back until it is complete or the job has ended.
    Raises ValueError for a cursor that is none.
    """
    offsets: dict[str, int] = {}
    if cursor:
        given = json.loads(cursor)
        if not isinstance(given, dict):
            raise ValueError(cursor)
        offsets = {str(name): int(offset) for name, offset in given.items()}
    lines: list[Line] = []
    for path in files(folder):
        start = offsets.get(path.name, 0)
        found, offsets[path.name] = _read_file(path, start, ended)
        lines += found
    if len(offsets) > 1:
        lines.sort(key=lambda line: line.time)  # stable: each file's own order is kept
    return lines, json.dumps(offsets, separators=(",", ":"))


def _read_file(path: Path, start: int, ended: bool) -> tuple[list[Line], int]:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            block = file.read(PAGE)
    except FileNotFoundError:
        return [], start
    keep = block.rfind(b"\n") + 1
    if len(block) < PAGE:
        keep = len(block) if ended else keep
    elif not keep:  # a line longer than a page is handed over in pieces rather than never
        keep = len(block)
    if not keep:
        return [], start
    times = _Times(path)
    times.load(start, start + keep)
    lines: list[Line] = []
    offset = start
    for raw in block[:keep].split(b"\n"):
        if offset < start + keep:
            lines.append(Line(clean(raw), times.at(offset), source(path)))
        offset += len(raw) + 1
    return lines, start + keep


def clean(raw: bytes) -> str:
    """A line as a terminal would leave it: what a progress bar overwrote is dropped."""
    text = raw.decode("utf-8", "replace").rstrip("\r")
    return text.rpartition("\r")[2]


def tail(folder: Path, count: int = 20) -> list[str]:
    """The last lines of all logs together, in time's order."""
    lines: list[Line] = []
    for path in files(folder):
        size = _size(path)
        found, _ = _read_file(path, max(0, size - 64 * 1024), True)
        lines += [line for line in found if line.text.strip()][-count:]
    lines.sort(key=lambda line: line.time)
    return [line.text for line in lines[-count:]]


class MetricScanner:
    """Reads metrics out of the log files as they grow.

    Parameters
    ----------
    patterns: name and regular expression of each; its first group is the number.
    steps: how many points each metric has already.
    """

    def __init__(
        self,
        folder: Path,
        patterns: Sequence[tuple[str, str]],
        steps: dict[str, int] | None = None,
    ) -> None:
        self._folder = folder
        self._patterns = MetricPatterns(patterns)
        self._steps = dict(steps or {})
        self._cursor: str | None = None

    def scan(self, ended: bool = False) -> list[Point]:
        """The new points: ``(name, step, value, time)``."""
        points: list[Point] = []
        while self._patterns:
            lines, cursor = read(self._folder, self._cursor, ended)
            if cursor == self._cursor or not lines:
                break
            self._cursor = cursor
            points += self._match(lines)
        return points

    def _match(self, lines: Iterable[Line]) -> list[Point]:
        points: list[Point] = []
        for line in lines:
            for name, value in self._patterns.values(line.text):
                step = self._steps.get(name, 0)
                self._steps[name] = step + 1
                points.append((name, step, value, line.time))
        return points


class Watch:
    """Looks at a job's logs as they grow: keeps their times, and hands on their metrics.

    Parameters
    ----------
    metrics: name and regular expression of each. nproc: above one, each rank has its own log.
    add: gets new points, every half second at most.
    """

    def __init__(
        self,
        folder: Path,
        metrics: Sequence[tuple[str, str]],
        nproc: int,
        add: Callable[[list[Point]], None],
    ) -> None:
        self._folder = folder
        self._many = nproc > 1
        self._scanner = MetricScanner(folder, metrics)
        self._add = add
        self._clocks: dict[str, Clock] = {}
        self._scanned = 0.0

    def look(self, ended: bool = False) -> None:
        for path in files(self._folder) if self._many else [self._folder / MAIN]:
            clock = self._clocks.get(path.name)
            if clock is None:
                clock = self._clocks[path.name] = Clock(path)
            with suppress(OSError):  # a full disk costs the times, not the job
                clock.tick()
        now = time.monotonic()
        if ended or now - self._scanned >= METRIC_SECONDS:
            self._scanned = now
            points = self._scanner.scan(ended)
            if points:
                self._add(points)
