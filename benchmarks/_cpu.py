"""CPU seconds from /proc: of the machine, and of a process with all its descendants."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def machine() -> float:
    """Seconds that the machine's cores were busy since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    numbers = [int(one) for one in fields]
    idle = numbers[3] + numbers[4]
    return (sum(numbers[:8]) - idle) / _TICK


def of(pid: int) -> float:
    """Seconds that a process has used; 0 for one that is gone."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after[11]) + int(after[12])) / _TICK


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def tree(pid: int) -> float:
    return of(pid) + sum(map(of, descendants(pid)))
