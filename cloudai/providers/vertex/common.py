"""What jobs, endpoints and batches have in common on the wire: labels, states, times, errors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cloudai.providers.vertex.errors import by_number
from cloudai.types import State, Violation

KEY_LABEL: Final = "cloudai_key"
"""The label that carries the idempotency key; what has it was made by cloudai. Underscores: in
a list filter a hyphen would have to be quoted."""
NAME_LABEL: Final = "cloudai_name"

# "Requirements for labels", Google Cloud documentation (read 2025-11).
MAX_LABELS: Final = 64
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}\Z")

STATES: Final[dict[str, State]] = {
    "JOB_STATE_UNSPECIFIED": State.UNKNOWN,
    "JOB_STATE_QUEUED": State.QUEUED,
    "JOB_STATE_PENDING": State.STARTING,
    "JOB_STATE_RUNNING": State.RUNNING,
    "JOB_STATE_SUCCEEDED": State.SUCCEEDED,
    "JOB_STATE_FAILED": State.FAILED,
    "JOB_STATE_CANCELLING": State.STOPPING,
    "JOB_STATE_CANCELLED": State.CANCELLED,
    "JOB_STATE_PAUSED": State.QUEUED,  # it goes on when it is resumed; never an end
    "JOB_STATE_EXPIRED": State.EXPIRED,
    "JOB_STATE_UPDATING": State.RUNNING,
    "JOB_STATE_PARTIALLY_SUCCEEDED": State.PARTIAL,
}
"""Every state of aiplatform's JobState."""

_EXIT: Final = re.compile(r"non-zero (?:status|exit code)(?: of)? (\d+)|exit code:? (\d+)")
_PREEMPTED: Final = re.compile(r"preempt", re.IGNORECASE)


def key_label(key: str) -> str:
    """The idempotency key as a label: itself where it can be one, else its hash."""
    if key and _LABEL_VALUE.match(key):
        return key
    return "h-" + hashlib.sha256(key.encode()).hexdigest()[:40]


def place(bucket: str, kind: str, name: str | None, key: str | None) -> str:
    """The gs:// URI below which the files of one job lie: another for each name and key."""
    digest = hashlib.sha256((key or "planned").encode()).hexdigest()[:12]
    return f"gs://{bucket}/cloudai/{kind}/{name}-{digest}"


def labels(tags: Mapping[str, str], key: str | None, name: str | None) -> dict[str, str]:
    """Tags, and our own labels. The name is kept as far as a label can hold it."""
    made = dict(tags)
    if key is not None:
        made[KEY_LABEL] = key_label(key)
    if name is not None:
        made[NAME_LABEL] = name.lower()
    return made


def check_labels(tags: Mapping[str, str], field: str = "tags") -> Iterable[Violation]:
    """Labels that break Google's rules."""
    rule = "Use lower-case letters, digits, _ and -, at most 63, and begin keys with a letter."
    if len(tags) > MAX_LABELS - 2:
        yield Violation(
            field, f"{len(tags)} labels; at most {MAX_LABELS}, two of them cloudai's own."
        )
    for key, value in tags.items():
        if not _LABEL_KEY.match(key):
            yield Violation(field, f"{key!r} is not the key of a label.", rule)
        elif key.startswith("cloudai_"):
            yield Violation(field, f"{key!r} is kept for cloudai itself.", "Use another key.")
        if not _LABEL_VALUE.match(value):
            yield Violation(field, f"{key!r}: {value!r} is not the value of a label.", rule)


def check_env(env: Mapping[str, str]) -> Iterable[Violation]:
    """Variables that Vertex AI refuses: the value of an EnvVar is required (aiplatform v1, read
    2026-11)."""
    for name, value in env.items():
        if not value:
            yield Violation(
                f"env.{name}",
                "Vertex AI takes no variable without a value.",
                "Leave it out, or give it a value that your code reads as empty.",
            )


def state(native: str | None) -> State:
    """The neutral state; UNKNOWN for a word of tomorrow."""
    return STATES.get(native or "", State.UNKNOWN)


def seconds(text: str | None) -> float | None:
    """A Timestamp of the API in Unix seconds."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", text)
    if match is None:
        return None
    whole = datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp()
    return whole + float(match[2] or 0)


def ending(found: State, error: Mapping[str, Any] | None) -> tuple[State, str | None, int | None]:
    """State, reason and exit code of a job that has ended: Vertex AI says FAILED or CANCELLED
    for a timeout and a preemption too, and the error tells which."""
    if not error:
        return found, None, None
    message = str(error.get("message") or "")
    code = by_number(int(error.get("code") or 0))
    exit_code: int | None = None
    match = _EXIT.search(message)
    if match is not None:
        exit_code = int(match[1] or match[2])
    if found in {State.FAILED, State.CANCELLED}:
        if code == "DEADLINE_EXCEEDED":
            found = State.TIMED_OUT
        elif found is State.FAILED and exit_code is None and _PREEMPTED.search(message):
            found = State.PREEMPTED
    return found, message or code, exit_code


def last(resource: str) -> str:
    """The last part of a resource name."""
    return resource.rstrip("/").rpartition("/")[2]
