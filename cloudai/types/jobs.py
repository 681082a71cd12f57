"""What every long-running thing shares: its state, its snapshot, its plan. No I/O."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["training", "endpoint", "batch"]


class State(str, Enum):
    """The neutral states. Every vendor's state maps to exactly one; the vendor's own word
    stays beside it as ``native_state``."""

    PLANNED = "PLANNED"
    """Recorded here; not known to have reached the provider."""
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    """At work; for an endpoint: in service."""
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    PARTIAL = "PARTIAL"
    """Ended; a part of the work failed."""
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"
    PREEMPTED = "PREEMPTED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    """A vendor state that this version does not know; never taken for an end."""

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self in _DONE

    @property
    def succeeded(self) -> bool:
        """Whether it ended in full success. PARTIAL did not."""
        return self is State.SUCCEEDED

    __str__ = str.__str__


_DONE = frozenset(
    {
        State.SUCCEEDED,
        State.PARTIAL,
        State.FAILED,
        State.CANCELLED,
        State.TIMED_OUT,
        State.PREEMPTED,
        State.EXPIRED,
    }
)


class MetricPoint(msgspec.Struct, frozen=True):
    """One value of a metric. ``step`` counts its points from 0; ``time`` is Unix seconds."""

    value: float
    step: int
    time: float


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a job.

    Parameters
    ----------
    id: the provider's own id.
    state, reason, native_state: where it stands; why; in the vendor's word.
    name, idempotency_key: as submitted, where the provider keeps them.
    created_at, started_at, ended_at: Unix seconds.
    exit_code: of the script; 128 + signal when a signal ended it.
    restarts: how often it was started anew after a failure or preemption.
    outputs: URIs or paths by name: ``model``, ``checkpoints``, ``output``, ``errors``.
    metrics: what the metric patterns caught, by name.
    progress: lines done and lines in all, for a batch; the second None while not known.
    errors: lines that failed, for a batch.
    log_tail: the last lines of the log, once it failed.
    cost: US dollars so far; None where not known; 0.0 locally.
    capacity: True where it failed since the provider had no machine of that kind.
    """

    id: str
    state: State
    name: str | None = None
    idempotency_key: str | None = None
    reason: str | None = None
    native_state: str | None = None
    created_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    restarts: int = 0
    outputs: dict[str, str] = {}
    metrics: dict[str, tuple[MetricPoint, ...]] = {}
    progress: tuple[int, int | None] | None = None
    errors: int = 0
    log_tail: tuple[str, ...] = ()
    cost: float | None = None
    capacity: bool = False


class LogLine(msgspec.Struct, frozen=True):
    """One line of a job's log, without its line end.

    Parameters
    ----------
    text: the line. time: Unix seconds, None where the provider keeps none.
    source: which process or machine wrote it, such as ``"rank0"``; empty for the only one.
    """

    text: str
    time: float | None = None
    source: str = ""


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some lines, and where to go on.

    Parameters
    ----------
    lines: what is new since the cursor that was asked with.
    cursor: opaque text to ask with next time.
    """

    lines: tuple[LogLine, ...]
    cursor: str


class Violation(msgspec.Struct, frozen=True):
    """One limit of the provider that a spec breaks.

    Parameters
    ----------
    field: the spec's field. problem: what is wrong, with both numbers. mend: what to do.
    """

    field: str
    problem: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}{f' {self.mend}' if self.mend else ''}"


class CostRange(msgspec.Struct, frozen=True, kw_only=True):
    """What something is likely to cost, in US dollars.

    Parameters
    ----------
    low, high: the range. basis: how it was reckoned. as_of: the price table's date, ISO 8601.
    """

    low: float
    high: float
    basis: str
    as_of: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a submission would do, found out without a connection.

    Parameters
    ----------
    provider, capability: where it would go.
    requests: the native requests in the order they would be sent, each with its operation.
    violations: limits of the provider that the spec breaks; a submission would raise the first.
    dropped: what the spec asks for and this provider cannot carry, in words.
    uploads: what would travel from this machine, with what was left out and why.
    cost: None where it cannot be reckoned.
    notes: what else is worth knowing, in words, such as a model that ends.
    """

    provider: str
    capability: str
    requests: tuple[NativeRequest, ...]
    violations: tuple[Violation, ...] = ()
    dropped: tuple[str, ...] = ()
    uploads: tuple[Upload, ...] = ()
    cost: CostRange | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a submission would be accepted here."""
        return not self.violations

    @property
    def losses(self) -> tuple[str, ...]:
        """The former name of ``dropped``."""
        return self.dropped


class LeftOut(msgspec.Struct, frozen=True):
    """A file or folder that stays here.

    Parameters
    ----------
    path: relative to what travels. why: the file with the pattern, or the kind of thing it is.
    """

    path: str
    why: str


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """Files of this machine that would travel.

    Parameters
    ----------
    field: of the spec, such as ``"source"`` or ``"inputs.train"``. path: as the spec has it.
    files: their names and sizes in bytes. left_out: what stays here.
    """

    field: str
    path: str
    files: tuple[tuple[str, int], ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in all, before packing."""
        return sum(size for _, size in self.files)


class NativeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request in the provider's own words.

    Parameters
    ----------
    operation: such as ``"sagemaker:CreateTrainingJob"`` or ``"POST /openai/v1/batches"``.
    body: its arguments, JSON.
    """

    operation: str
    body: Any
