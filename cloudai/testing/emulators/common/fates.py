"""What the next job, endpoint or batch of an emulated cloud comes to, by a name for all clouds."""

from __future__ import annotations

import threading
from typing import Final

KINDS: Final = ("training", "endpoints", "batch")
"""What has a fate, by the capabilities of cloudai."""

ENDS: Final[dict[str, dict[str, dict[str, tuple[str, ...]]]]] = {
    "aws": {
        "training": {
            "SageMaker": (
                "SUCCEEDED", "FAILED", "TIMED_OUT", "EXPIRED", "PREEMPTED", "CAPACITY",
            ),
        },
        "endpoints": {"SageMaker": ("SUCCEEDED", "FAILED", "CAPACITY")},
        "batch": {
            "SageMaker": ("SUCCEEDED", "FAILED", "CAPACITY"),
            "Bedrock": ("SUCCEEDED", "FAILED", "EXPIRED", "PARTIAL"),
        },
    },
    "azure": {
        "training": {"Azure ML": ("SUCCEEDED", "FAILED")},
        "endpoints": {
            "Azure ML": ("SUCCEEDED", "FAILED"), "Azure OpenAI": ("SUCCEEDED", "FAILED"),
        },
        "batch": {
            "Azure ML": ("SUCCEEDED", "FAILED"),
            "Azure OpenAI": ("SUCCEEDED", "FAILED", "EXPIRED", "PARTIAL"),
        },
    },
    "vertex": {
        "training": {
            "Vertex AI": (
                "SUCCEEDED", "FAILED", "TIMED_OUT", "EXPIRED", "PREEMPTED", "CAPACITY", "PARTIAL",
            ),
        },
        "endpoints": {"Vertex AI": ("SUCCEEDED", "FAILED", "CAPACITY")},
        "batch": {"Vertex AI": ("SUCCEEDED", "FAILED", "EXPIRED", "CAPACITY", "PARTIAL")},
    },
}  # fmt: skip
"""Cloud → kind → service → the ends that it has."""


def known(cloud: str, of: str) -> list[str]:
    """The outcomes of a kind, of whichever service."""
    found = (outcome for ends in ENDS[cloud][of].values() for outcome in ends)
    return list(dict.fromkeys(found))


class Fates:
    """The outcomes that are waiting, in the order in which they were told.

    Parameters
    ----------
    cloud: ``"aws"``, ``"azure"`` or ``"vertex"``.
    """

    def __init__(self, cloud: str) -> None:
        self._ends = ENDS[cloud]
        self._waiting: dict[str, list[str]] = {of: [] for of in KINDS}
        self._lock = threading.Lock()

    def tell(self, of: str, outcome: str) -> None:
        """Keeps an outcome for the next one of a kind whose service has such an end."""
        with self._lock:
            self._waiting[of].append(outcome)

    def take(self, of: str, service: str) -> str | None:
        """The first outcome waiting for this kind that the service has; None: it takes its own
        course."""
        with self._lock:
            for outcome in self._waiting[of]:
                if outcome in self._ends[of][service]:
                    self._waiting[of].remove(outcome)
                    return outcome
        return None

    def clear(self) -> None:
        """Forgets what is waiting."""
        with self._lock:
            for waiting in self._waiting.values():
                waiting.clear()
