"""What can be scripted, as values; and the reader of script files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from cloudai import errors
from cloudai.errors import CloudAIError, ConfigError
from cloudai.types import JSON, FinishReason, State
from cloudai.types._base import met, unknown

S = TypeVar("S", bound=msgspec.Struct)

OPERATIONS: Final[tuple[str, ...]] = (
    "chat.create",
    "chat.stream",
    "embeddings.create",
    *(
        f"{jobs}.{verb}"
        for jobs in ("training", "batch")
        for verb in ("submit", "find", "status", "logs", "cancel", "delete", "list")
    ),
    *(
        f"endpoints.{verb}"
        for verb in ("deploy", "find", "status", "predict", "update", "logs", "delete", "list")
    ),
)
"""Every operation that a fault can strike; ``"training.*"`` and ``"*"`` stand for several."""

ENDS: Final = frozenset(state for state in State if state.done)


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scripted call of a tool."""

    name: str
    arguments: dict[str, JSON] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scripted answer of the chat model.

    Parameters
    ----------
    text: the answer. tool_calls: what it wants called.
    finish_reason: None follows from the rest: ``tool_calls``, ``length`` or ``stop``.
    reasoning: a text that comes as the model's reasoning.
    seconds: before the answer, or between two chunks of a stream.
    """

    text: str = ""
    tool_calls: tuple[Call, ...] = ()
    finish_reason: FinishReason | None = None
    reasoning: str = ""
    seconds: float = 0.0


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scripted failure of one operation.

    Parameters
    ----------
    operation: such as ``"chat.create"``, ``"training.*"`` or ``"*"``.
    error: the name of a class of ``cloudai.errors``; ``"StreamTruncated"`` ends a stream
        without its terminator. Empty: no error, the call only takes ``seconds``.
    message, code, status, retry_after: of the error.
    times: how many calls it strikes. skip: how many calls pass before.
    after: True lets the call take effect and then loses its reply (the error is ambiguous).
    chunks: of a stream, how many come before it breaks.
    seconds: before the error.
    """

    operation: str
    error: str = ""
    message: str = "scripted"
    code: str | None = None
    status: int | None = None
    retry_after: float | None = None
    times: int = 1
    skip: int = 0
    after: bool = False
    chunks: int | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        known = (*OPERATIONS, *(f"{name.partition('.')[0]}.*" for name in OPERATIONS), "*")
        if self.operation not in known:
            raise unknown("operation of the fake provider", self.operation, dict.fromkeys(known))
        if self.error and self.error not in errors.__all__:
            raise unknown("error class", self.error, errors.__all__)
        if not self.error and not self.seconds:
            raise ConfigError(f"the fault of {self.operation} has neither an error nor seconds")

    def strikes(self, operation: str) -> bool:
        """Whether it is meant for this operation."""
        return self.operation in {operation, "*", f"{operation.partition('.')[0]}.*"}

    def exception(self) -> CloudAIError:
        """The error itself."""
        kind: type[CloudAIError] = getattr(errors, self.error)
        about: dict[str, Any] = {
            "provider": "fake",
            "code": self.code,
            "status": self.status,
            "retry_after": self.retry_after,
            "ambiguous": self.after,
        }
        if kind is errors.UnsupportedByProvider:
            about["alternative"] = "Change the script"
        if kind is errors.MissingExtra:
            return errors.MissingExtra(self.message, extra="fake", provider="fake")
        return kind(self.message, **about)


class Fate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of a job. Seconds are those of the fake's clock.

    Parameters
    ----------
    queued, starting, running, stopping: seconds in each state.
    state: how it ends.
    exit_code, reason: of the end; a FAILED job without an exit code has 1.
    logs: lines that it writes while it runs.
    metrics: values by name, in place of the made-up ones.
    preemptions: how often its machine is taken away; more often than the spec's retries allow
        ends it as PREEMPTED.
    """

    queued: float = 0.01
    starting: float = 0.01
    running: float = 0.03
    stopping: float = 0.0
    state: State = State.SUCCEEDED
    exit_code: int | None = None
    reason: str | None = None
    logs: tuple[str, ...] = ()
    metrics: dict[str, tuple[float, ...]] = {}
    preemptions: int = 0

    def __post_init__(self) -> None:
        for field in ("queued", "starting", "running", "stopping", "preemptions"):
            if getattr(self, field) < 0:
                raise ConfigError(f"{field}={getattr(self, field)} of a fate is negative")
        if self.state not in ENDS:
            raise ConfigError(
                f"state={self.state} of a fate is not an end",
                hint=f"One of {', '.join(sorted(ENDS))}",
            )

    def faster(self, speed: float) -> Fate:
        """The same fate in a part of the time."""
        if speed == 1:
            return self
        fields = ("queued", "starting", "running", "stopping")
        return msgspec.structs.replace(
            self, **{field: getattr(self, field) / speed for field in fields}
        )


class ChatScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chat: ``replies`` in turn, then ``reply`` each time, or the echo where it is None.
    ``models`` are the known names (empty: every name); ``context`` its limit in words."""

    replies: tuple[Reply | str, ...] = ()
    reply: str | None = None
    models: tuple[str, ...] = ()
    context: int | None = None


class EmbeddingsScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Embeddings: the default dimension, the known models, the limit in words a text."""

    dim: int = 64
    models: tuple[str, ...] = ()
    context: int | None = None


class JobsScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jobs: the fates of the next ones in turn, then ``default``."""

    fates: tuple[Fate, ...] = ()
    default: Fate = Fate()


class EndpointsScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Endpoints: answers of the next predictions in turn (each a list with one output for each
    input); then ``output`` for every input, or the echo where it is absent. ``starting`` is how
    long a deployment takes, in seconds of the fake's clock; ``state`` is how it ends."""

    predictions: tuple[list[JSON], ...] = ()
    output: JSON | msgspec.UnsetType = msgspec.UNSET
    starting: float = 0.01
    state: Literal["RUNNING", "FAILED"] = "RUNNING"
    reason: str | None = None


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole script file."""

    chat: ChatScript = ChatScript()
    embeddings: EmbeddingsScript = EmbeddingsScript()
    training: JobsScript = JobsScript()
    batch: JobsScript = JobsScript()
    endpoints: EndpointsScript = EndpointsScript()
    faults: tuple[Fault, ...] = ()


def read(path: Path) -> Script:
    """Reads a script. Raises ConfigError for a file that cannot be read or understood, naming
    the key."""
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"the script {path} cannot be read ({error.strerror})") from error
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the script {path} is neither TOML nor .json: {error}") from error
    return convert(values, Script, f"the script {path}")


def convert(values: Any, kind: type[S], what: str) -> S:
    """Plain values as one of the structs above; ConfigError names the key that does not fit."""
    try:
        return msgspec.convert(values, met(kind))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{what} is not valid: {error}") from error
