"""Metrics out of a log: what the patterns of a job catch, the same on every provider.

Each match of a pattern in a line is a point, NaN and infinity too: a loss that became NaN is what
a log is read for. A group that took no part in the match, or that is no number, makes none.
Standard library only; the supervisor of local jobs imports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudai.types import MetricPoint


class MetricPatterns:
    """The patterns of one job.

    Parameters
    ----------
    patterns: name and regular expression of each; its first group is the number.
    """

    def __init__(self, patterns: Iterable[tuple[str, str]]) -> None:
        self._patterns = [(name, re.compile(regex)) for name, regex in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def values(self, line: str) -> Iterator[tuple[str, float]]:
        """The metrics that a line tells: their names and values."""
        for name, pattern in self._patterns:
            for found in pattern.finditer(line):
                try:
                    yield name, float(found[1])
                except (TypeError, ValueError):
                    continue

    def points(self, lines: Iterable[tuple[str, float]]) -> dict[str, tuple[MetricPoint, ...]]:
        """The points of a whole log.

        Parameters
        ----------
        lines: each with its time in Unix seconds.
        """
        from cloudai.types import MetricPoint

        found: dict[str, list[MetricPoint]] = {}
        for text, time in lines:
            for name, value in self.values(text):
                known = found.setdefault(name, [])
                known.append(MetricPoint(value, len(known), time))
        return {name: tuple(known) for name, known in found.items()}
