"""Fates that were told beforehand by their common names, as SageMaker and Bedrock have them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai.testing.emulators.aws._state import NO_CAPACITY, NO_PING, STATE, Fate

_AS: Final[dict[tuple[str, str], dict[str, dict[str, Any]]]] = {
    ("training", "SageMaker"): {
        "SUCCEEDED": {},
        "FAILED": {"end": "Failed"},
        "TIMED_OUT": {"end": "MaxRuntimeExceeded"},
        "EXPIRED": {"end": "MaxWaitTimeExceeded"},
        "PREEMPTED": {"interruptions": 1},  # SageMaker itself begins again
        "CAPACITY": {"end": "CapacityError"},
    },
    ("batch", "SageMaker"): {
        "SUCCEEDED": {},
        "FAILED": {"end": "Failed"},
        "CAPACITY": {"end": "Failed", "reason": NO_CAPACITY},
    },
    ("batch", "Bedrock"): {
        "SUCCEEDED": {},
        "FAILED": {"end": "Failed", "reason": "Internal error: emulated failure"},
        "EXPIRED": {"end": "Expired", "reason": "The job did not end within its time."},
        "PARTIAL": {"end": "PartiallyCompleted"},
    },
}


def fate(of: str, service: str) -> Fate | None:
    """The fate that the next one of a kind was told, if any."""
    outcome = STATE.told.take(of, service)
    if outcome is None:
        return None
    return msgspec.structs.replace(STATE.life, **_AS[of, service][outcome])


def endpoint() -> str | None:
    """Why the next endpoint fails, in SageMaker's words; None where it takes its own course."""
    outcome = STATE.told.take("endpoints", "SageMaker")
    if outcome in {None, "SUCCEEDED"}:
        return None
    return NO_CAPACITY.removeprefix("CapacityError: ") if outcome == "CAPACITY" else NO_PING
