"""The emulated account: its jobs and endpoints, its clock, and what runs them."""

from __future__ import annotations

import datetime
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from cloudai.testing.emulators.common.answers import Answers
from cloudai.testing.emulators.common.fates import Fates
from cloudai.testing.emulators.common.local_models import LocalModels

NO_CAPACITY: Final = (
    "CapacityError: Unable to provision requested ML compute capacity due to "
    "InsufficientInstanceCapacity error. Please retry using a different ML instance type or after "
    "some time."
)
NO_PING: Final = (
    "The primary container for production variant {variant} did not pass the ping health check. "
    "Please check CloudWatch logs for this endpoint."
)
ACCOUNT: Final = os.environ.get("MOTO_ACCOUNT_ID", "123456789012")
"""moto's account."""


Streamed: TypeAlias = "tuple[int, str, Iterator[bytes]]"
"""Status, content type and the body's pieces."""


class Refused(Exception):
    """What a service says no to: its code and words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a scripted job.

    Parameters
    ----------
    starting, running, stopping: seconds on the emulator's clock.
    end: ``Completed``, ``Failed``, ``CapacityError``, or what a stopped one's secondary status
        says: ``MaxRuntimeExceeded``, ``MaxWaitTimeExceeded``.
    exit_code: of a failed one's script. reason: instead of the usual words.
    logs: its lines, spread over its running time.
    interruptions: how often spot capacity is taken away and given back.
    files: of the model, by name. lines: for a transform: makes each output line; None says the
        input again.
    """

    starting: float = 0.0
    running: float = 0.0
    stopping: float = 0.0
    end: str = "Completed"
    exit_code: int = 1
    reason: str | None = None
    logs: tuple[str, ...] = ("emulated: it runs",)
    interruptions: int = 0
    files: dict[str, bytes] = msgspec.field(
        default_factory=lambda: {"model.json": b'{"made_by": "the AWS emulator of cloudai"}'}
    )
    lines: Callable[[bytes], bytes] | None = None


class Snapshot(msgspec.Struct, kw_only=True):
    """Where a job stands. Times are of the emulator's clock.

    Parameters
    ----------
    status, secondary: SageMaker's words.
    logs: all lines so far, each with its time and the machine that wrote it.
    files: the model's, at the end. outputs: the other ones, which become output.tar.gz.
    """

    status: str
    secondary: str
    started: float | None = None
    ended: float | None = None
    reason: str | None = None
    logs: list[tuple[float, str, str]] = []
    files: dict[str, bytes] = {}
    outputs: dict[str, bytes] = {}
    checkpoints: dict[str, bytes] = {}
    interruptions: int = 0


class Run(Protocol):
    """A job under way."""

    def look(self, now: float) -> Snapshot: ...
    def stop(self, now: float) -> None: ...


class Served(Protocol):
    """A variant of an endpoint, or the model of a transform."""

    def problem(self) -> str | None:
        """Why it did not come up, with its log; None where it did."""
        ...

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        ...

    def stream(self, body: bytes, content_type: str, accept: str) -> Streamed:
        """The same, the body in pieces as they are made. They raise ConnectionError where the
        model breaks off."""
        ...

    def close(self, *, gently: bool = False) -> None:
        """Ends it; ``gently`` lets it answer what it was asked, and does not wait for that."""
        ...


class Executor(Protocol):
    """What runs the account's work. ``ScriptedExecutor`` runs nothing;
    ``_execute.LocalExecutor`` runs the user's own code in processes of this machine."""

    models: LocalModels | None
    """What answers chat and embeddings; None: rules do."""

    def train(self, job: dict[str, Any], cloud_state: AwsState) -> Run: ...
    def transform(self, job: dict[str, Any], cloud_state: AwsState) -> tuple[Fate, Served]: ...
    def serve(self, container: dict[str, Any], cloud_state: AwsState) -> Served: ...


class AwsState:
    """The state of the emulated account, behind one lock.

    Attributes
    ----------
    executor: what runs the work. clock: see ``now`` and ``advance``; ``speed`` is how fast it
        goes. endpoint_seconds: how long an endpoint takes to come up.
    lifetime: seconds that credentials from STS last; None: an hour, as usual.
    alarms: CloudWatch alarms that are in ALARM: a rollout that names one is rolled back.
    models: Bedrock's models that this account knows, by a part of their names.
    signed_in: whether IAM Identity Center's portal gives the user credentials.
    told: outcomes of the next ones, by their common names; those of ``life``'s length.
    signatures: of the thoughts that Bedrock's models have given.
    guardrails: Bedrock's guardrails, by id: the words that they block.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.random = random.Random(7)  # noqa: S311 - repeatable on purpose
        self.reset()

    def reset(self) -> None:
        """Empties the account and puts all knobs back."""
        with self.lock:
            self.executor: Executor = ScriptedExecutor()
            self.speed = 1.0
            self._offset = 0.0
            self._since = time.time()
            self.endpoint_seconds = 0.0
            self.lifetime: float | None = None
            self.alarms: set[str] = set()
            self.resources: dict[tuple[str, str, str], dict[str, Any]] = {}
            self.runs: dict[tuple[str, str, str], Any] = {}
            self.expiries: dict[str, float] = {}
            self.issued: set[str] = set()
            self.chat: Callable[[dict[str, Any]], Any] | None = None
            self.answers = Answers()
            self.context = 20_000
            self.told = Fates("aws")
            self.life = Fate()
            self.guardrails: dict[str, tuple[str, ...]] = {}
            self.signed_in = True
            self.cached_prompts: set[str] = set()
            self.signatures: set[str | None] = set()
            self.models: tuple[str, ...] = (
                "anthropic.", "amazon.", "cohere.", "meta.", "mistral.", "openai.", "qwen.",
                "deepseek.", "moonshot", "zai.", "google.gemma", "minimax", "nvidia.", "xai.",
            )  # fmt: skip

    # The clock.

    def now(self) -> float:
        """Unix seconds, on the emulator's clock."""
        return self._since + (time.time() - self._since) * self.speed + self._offset

    def advance(self, seconds: float) -> None:
        """Puts the clock forward."""
        self._offset += seconds

    def wall(self, at: float | None) -> datetime.datetime | None:
        """A time as the services say it."""
        return None if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)

    # Resources by region, kind and name.

    def get(self, region: str, kind: str, name: str) -> dict[str, Any] | None:
        return self.resources.get((region, kind, name))

    def of(self, region: str, kind: str) -> list[dict[str, Any]]:
        """The resources of a kind, the newest first."""
        found = [
            value
            for (where, what, _), value in self.resources.items()
            if (where, what) == (region, kind)
        ]
        return sorted(found, key=lambda one: one["CreationTime"], reverse=True)

    def put(self, region: str, kind: str, name: str, value: dict[str, Any]) -> None:
        self.resources[(region, kind, name)] = value

    def drop(self, region: str, kind: str, name: str) -> None:
        self.resources.pop((region, kind, name), None)
        self.runs.pop((region, kind, name), None)

    def by_arn(self, arn: str) -> dict[str, Any] | None:
        return next((one for one in self.resources.values() if one["Arn"] == arn), None)

    def left(self, *kinds: str) -> list[str]:
        """The ARNs of what is in the account, for tests that want nothing left."""
        return sorted(
            value["Arn"]
            for (_, kind, _), value in self.resources.items()
            if kind in kinds or not kinds
        )


class ScriptedExecutor:
    """Runs nothing: a job takes the course of its fate, a model says its inputs again.

    Parameters
    ----------
    fates: of the next jobs, in order; after them ``default`` holds.
    invoke: answers an endpoint's requests: (body, content type) → (status, body).
    """

    def __init__(
        self,
        fates: Iterable[Fate] = (),
        default: Fate | None = None,
        invoke: Callable[[bytes, str], tuple[int, bytes]] | None = None,
    ) -> None:
        self.models: LocalModels | None = None
        self.fates = deque(fates)
        self.default = default or Fate()
        self.invoke = invoke

    def _fate(self) -> Fate:
        return self.fates.popleft() if self.fates else self.default

    def train(self, job: dict[str, Any], cloud_state: AwsState) -> Run:
        return ScriptedRun(self._fate(), job, cloud_state.now())

    def transform(self, job: dict[str, Any], cloud_state: AwsState) -> tuple[Fate, Served]:
        fate = self._fate()
        return fate, Echo(self.invoke, fate.lines)

    def serve(self, container: dict[str, Any], cloud_state: AwsState) -> Served:
        return Echo(self.invoke, None)


class ScriptedRun:
    """A job that follows its fate by the clock alone."""

    def __init__(self, fate: Fate, job: dict[str, Any], now: float) -> None:
        self.fate = fate
        self.created = now
        self.stopped: float | None = None
        limits = job.get("StoppingCondition", {})
        self.most: float = limits.get("MaxRuntimeInSeconds", 86400)
        self.wait: float | None = limits.get("MaxWaitTimeInSeconds")

    def stop(self, now: float) -> None:
        if self.stopped is None:
            self.stopped = now

    def look(self, now: float) -> Snapshot:
        fate = self.fate
        begin = self.created + fate.starting
        end = begin + fate.running
        failed = fate.end != "Completed"
        found = self._before(now, begin)
        if (
            found is None
            and self.stopped is not None
            and self.stopped < min(end, begin + self.most)
        ):
            over = self.stopped + fate.stopping
            if now < over:
                found = Snapshot(status="Stopping", secondary="Stopping", started=begin)
            else:
                found = Snapshot(status="Stopped", secondary="Stopped", started=begin, ended=over)
        if found is None and self.wait is not None and now > self.created + self.wait < end:
            found = Snapshot(
                status="Stopped", secondary="MaxWaitTimeExceeded",
                started=begin, ended=self.created + self.wait,
            )  # fmt: skip
        if found is None and fate.running > self.most and now >= begin + self.most:
            found = Snapshot(
                status="Stopped", secondary="MaxRuntimeExceeded",
                started=begin, ended=begin + self.most,
            )  # fmt: skip
        if found is None and now < end:
            found = Snapshot(status="InProgress", secondary="Training", started=begin)
        if found is None:
            found = Snapshot(status="Failed" if failed else "Completed",
                         secondary="Failed" if failed else "Completed",
                         started=begin, ended=end)  # fmt: skip
            if fate.end in {"MaxRuntimeExceeded", "MaxWaitTimeExceeded"}:
                found.status, found.secondary = "Stopped", fate.end
            elif failed:
                found.reason = fate.reason or self._reason()
            else:
                found.files = dict(fate.files)
        found.logs = self._logs(begin, end, now if found.ended is None else found.ended)
        found.interruptions = fate.interruptions
        return found

    def _before(self, now: float, begin: float) -> Snapshot | None:
        if self.stopped is not None and self.stopped < begin:
            over = self.stopped + self.fate.stopping
            if now < over:
                return Snapshot(status="Stopping", secondary="Stopping")
            return Snapshot(status="Stopped", secondary="Stopped", ended=over)
        if now >= begin:
            if self.fate.end == "CapacityError":
                return Snapshot(
                    status="Failed", secondary="Failed", ended=begin,
                    reason=self.fate.reason or NO_CAPACITY,
                )  # fmt: skip
            return None
        return Snapshot(status="InProgress", secondary="Starting")

    def _reason(self) -> str:
        return (
            "AlgorithmError: , exit code: "
            f"{self.fate.exit_code}. Please check the CloudWatch logs of the job."
        )

    def _logs(self, begin: float, end: float, until: float) -> list[tuple[float, str, str]]:
        lines = self.fate.logs
        step = (end - begin) / max(len(lines), 1)
        times = [begin + step * index for index in range(len(lines))]
        return [(at, line, "algo-1") for at, line in zip(times, lines, strict=True) if at <= until]


class Echo:
    """A model that says its inputs again."""

    def close(self, *, gently: bool = False) -> None:
        return None

    def __init__(
        self,
        invoke: Callable[[bytes, str], tuple[int, bytes]] | None,
        lines: Callable[[bytes], bytes] | None,
    ) -> None:
        self._invoke = invoke
        self._lines = lines

    def problem(self) -> str | None:
        return None

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, str, bytes]:
        if self._invoke is not None:
            status, answer = self._invoke(body, content_type)
            return status, "application/json", answer
        if content_type == "application/jsonlines":
            say = self._lines or (lambda line: line)
            made = b"".join(say(line) + b"\n" for line in body.splitlines())
            return 200, "application/jsonlines", made
        asked: Any = msgspec.json.decode(body)
        if isinstance(asked, dict) and "instances" in asked:
            return 200, "application/json", msgspec.json.encode({"predictions": asked["instances"]})
        return 200, "application/json", body

    def stream(self, body: bytes, content_type: str, accept: str) -> Streamed:
        status, kind, answer = self.invoke(body, content_type, accept)
        return status, kind, iter([answer])


STATE: Final = AwsState()
"""The one account: moto's backends are one a process too."""
