"""What chaos does at a place: its clients, its operations, its faults, and the account of it all.
The places themselves are in ``_chaos_worlds.py``.

Longer than other modules, since every operation is a method of the one class whose lists of what
was made they share.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from cloudai._core.calls.retry import RetryPolicy
from cloudai._core.state.ledger import Entry, Ledger
from cloudai.client import AsyncClient, Client
from cloudai.errors import CloudAIError
from cloudai.types import BatchTransform, TrainingJob

ASSETS: Final = Path(__file__).parent / "conformance" / "assets"
RETRIES: Final = 2
LATE: Final = 1.5
"""Seconds by which a late answer misses its operation's deadline at least."""
SHORT: Final = 0.6
"""Seconds that such an operation is given."""
LINES: Final = 6

Steps = Callable[[Any, float], Any]
"""An operation: of a client and a deadline, what it gives, or a generator of its calls."""


class Work(msgspec.Struct, frozen=True):
    """An operation that is about to be done.

    Parameters
    ----------
    operation: the client's name of its main call. call: does it. calls: how many calls, with a
        deadline each, it makes. short: whether it takes a deadline of its own.
    """

    operation: str
    call: Steps
    calls: int = 1
    short: bool = False


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong meanwhile: ``times`` at requests of ``target`` (an operation or ``*``)."""

    kind: str = "none"
    target: str = ""
    times: int = 0
    timeout: float | None = None

    def __str__(self) -> str:
        return self.kind if not self.times else f"{self.kind} ×{self.times} at {self.target}"


class Place(ABC):
    """A provider and what was made there."""

    name: ClassVar[str]
    weight: ClassVar[int] = 10
    operations: ClassVar[dict[str, int]] = {
        "chat": 14,
        "stream": 12,
        "embed": 14,
        "train": 10,
        "job_status": 6,
        "job_logs": 3,
        "job_cancel": 3,
        "job_finish": 6,
        "job_delete": 5,
        "jobs_list": 3,
        "resubmit": 5,
        "deploy": 5,
        "predict": 8,
        "endpoint_status": 3,
        "endpoint_delete": 3,
        "batch": 4,
        "batch_finish": 3,
        "batch_delete": 2,
    }
    models: ClassVar[dict[str, str]] = {}

    def __init__(self, folder: Path, seed: int, timeout: float) -> None:
        self.folder = folder / self.name
        self.seed = seed
        self.timeout = timeout
        self.count = 0
        self.jobs: list[str] = []
        self.untouched: set[str] = set()
        self.endpoints: list[str] = []
        self.batches: list[str] = []
        self.outputs: dict[str, Path] = {}
        self.specs: list[tuple[TrainingJob, str | None]] = []
        self.late = False
        self._clients: dict[str, Any] = {}

    # -- what differs -----------------------------------------------------------------------

    @abstractmethod
    def keys(self) -> dict[str, Any]:
        """Of its clients."""

    def inject(self, fault: Fault) -> None:  # noqa: B027 (not every place has faults)
        """Puts the fault there."""

    def lift(self) -> None:  # noqa: B027
        """Takes all faults away."""

    @abstractmethod
    def world(self) -> set[str]:
        """What there is at the provider: jobs, endpoints and batches, by kind and name."""

    def left(self) -> list[str]:
        """What is left there when all is destroyed, parts and files too."""
        return sorted(self.world())

    # -- clients ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begins."""
        self.folder.mkdir(parents=True)
        (self.folder / "model").mkdir()
        (self.folder / "model" / "model.json").write_text('{"scale": 2}')
        (self.folder / "model" / "handler.py").write_text((ASSETS / "handler.py").read_text())
        self.input = self.folder / "in.jsonl"
        self.input.write_text("".join(f"{number}\n" for number in range(LINES)))

    def stop(self) -> None:  # noqa: B027 (not every place has to be ended)
        """Ends."""

    def client(self, mode: str) -> Any:
        """Of the place, sync or async; the same one until ``close``."""
        if mode not in self._clients:
            make: Any = Client if mode == "sync" else AsyncClient
            about = {**self.keys(), "timeout": self.timeout, "retries": RETRIES}
            self._clients[mode] = make(provider=self.name, **about)
        return self._clients[mode]

    def close(self, runner: asyncio.Runner) -> None:
        """Closes the clients."""
        for client in self._clients.values():
            result = client.close()
            if inspect.isawaitable(result):
                runner.run(_of(result))
        self._clients.clear()

    # -- faults -----------------------------------------------------------------------------

    def fault(self, work: Work, rng: random.Random) -> Fault:
        """What goes wrong during an operation; in half of the cases nothing."""
        kind = rng.choices(
            ("none", "throttle", "unavailable", "reset", "lose_reply", "slow", "late", "cut"),
            (50, 12, 12, 10, 8, 4, 2, 6),
        )[0]
        times = rng.randint(1, 4)
        target = rng.choice((work.operation, "*"))
        if kind == "cut":
            return Fault("cut", work.operation, 1) if work.operation == "chat.stream" else Fault()
        if kind == "late":
            return Fault("late", work.operation, 1, SHORT) if work.short else Fault()
        if kind in {"slow", "lose_reply"}:
            times = 1 + times % 2
        return Fault() if kind == "none" else Fault(kind, target, times)

    # -- operations -------------------------------------------------------------------------

    def prepare(self, name: str, rng: random.Random, number: int) -> Work:
        """The operation of this name; where there is nothing to do it to, one that makes it."""
        return getattr(self, f"_{name}")(rng, number)

    def _chat(self, rng: random.Random, number: int) -> Work:
        def call(client: Any, deadline: float) -> Any:
            reply = yield client.chat.create(
                "Say this again.", model=self.models["chat"], timeout=deadline
            )
            assert reply.text, "an answer without a text"  # noqa: S101 - what must not be

        return Work("chat.create", call, short=True)

    def _stream(self, rng: random.Random, number: int) -> Work:
        def call(client: Any, deadline: float) -> Any:
            told = {"model": self.models["chat"], "timeout": deadline}
            if isinstance(client, AsyncClient):
                yield _streamed(client, told)
            else:
                with client.chat.stream("Say this again, please.", **told) as pieces:
                    assert "".join(piece.text for piece in pieces)  # noqa: S101
                yield None

        return Work("chat.stream", call)

    def _embed(self, rng: random.Random, number: int) -> Work:
        texts = [f"text {number} {index}" for index in range(rng.randint(1, 4))]

        def call(client: Any, deadline: float) -> Any:
            found = yield client.embeddings.create(
                texts, model=self.models["embeddings"], timeout=deadline
            )
            assert len(found.vectors) == len(texts)  # noqa: S101

        return Work("embeddings.create", call, short=True)

    def job(self, rng: random.Random, number: int) -> TrainingJob:
        """A new training job's spec."""
        return TrainingJob(
            name=f"chaos-{self.seed}-{number}",
            source=str(ASSETS),
            entry="train.py",
            hyperparameters={"scale": rng.randint(1, 9)},
            hyperparameter_args=False,
            idempotency_key=f"chaos-{self.seed}-{number}",
        )

    def _train(self, rng: random.Random, number: int) -> Work:
        spec = self.job(rng, number)

        def call(client: Any, deadline: float) -> Any:
            at = len(self.specs)
            if deadline == self.timeout:
                self.specs.append((spec, None))
            job = yield client.training.submit(spec, timeout=deadline)
            self.jobs.append(job.id)
            self.untouched.add(job.id)
            if deadline == self.timeout:
                self.specs[at] = (spec, job.id)

        return Work("training.submit", call, short=True)

    def _resubmit(self, rng: random.Random, number: int) -> Work:
        if not self.specs:
            return self._train(rng, number)
        at = rng.randrange(len(self.specs))
        spec, before = self.specs[at]

        def call(client: Any, deadline: float) -> Any:
            job = yield client.training.submit(spec, timeout=deadline)
            assert before in {None, job.id}, f"{before} became {job.id}"  # noqa: S101
            if before is None:
                self.specs[at] = (spec, job.id)
                self.jobs.append(job.id)
                self.untouched.add(job.id)

        return Work("training.submit", call)

    def _with_job(
        self, rng: random.Random, number: int, operation: str, steps: Callable[[Any, str], Any]
    ) -> Work:
        if not self.jobs:
            return self._train(rng, number)
        uri = rng.choice(self.jobs)

        def call(client: Any, deadline: float) -> Any:
            job = yield client.training.attach(uri)
            yield from steps(job, uri)

        return Work(operation, call, calls=2)

    def _job_status(self, rng: random.Random, number: int) -> Work:
        def steps(job: Any, uri: str) -> Any:
            yield job.status

        return self._with_job(rng, number, "training.status", steps)

    def _job_logs(self, rng: random.Random, number: int) -> Work:
        def steps(job: Any, uri: str) -> Any:
            lines = job.logs()
            yield _drained(lines) if hasattr(lines, "__aiter__") else list(lines)

        return self._with_job(rng, number, "training.status", steps)

    def _job_cancel(self, rng: random.Random, number: int) -> Work:
        def steps(job: Any, uri: str) -> Any:
            self.untouched.discard(uri)
            yield job.cancel()

        return self._with_job(rng, number, "training.cancel", steps)

    def _job_finish(self, rng: random.Random, number: int) -> Work:
        def steps(job: Any, uri: str) -> Any:
            # Whether a cancel came before the end is a matter of time; a success is none.
            yield job.wait(self.timeout, check=uri in self.untouched)

        return self._with_job(rng, number, "training.status", steps)

    def _job_delete(self, rng: random.Random, number: int) -> Work:
        def steps(job: Any, uri: str) -> Any:
            yield job.delete()
            self.jobs.remove(uri)
            self.specs = [(spec, made) for spec, made in self.specs if made != uri]

        return self._with_job(rng, number, "training.cancel", steps)

    def _jobs_list(self, rng: random.Random, number: int) -> Work:
        def call(client: Any, deadline: float) -> Any:
            yield client.training.list()

        return Work("training.status", call)

    def _deploy(self, rng: random.Random, number: int) -> Work:
        name = f"chaos-{self.seed}-{number}"

        def call(client: Any, deadline: float) -> Any:
            endpoint = yield client.endpoints.deploy(
                str(self.folder / "model"), name=name, timeout=deadline
            )
            self.endpoints.append(endpoint.id)

        return Work("endpoints.deploy", call, calls=3)

    def _with_endpoint(
        self, rng: random.Random, number: int, operation: str, steps: Callable[[Any, str], Any]
    ) -> Work:
        if not self.endpoints:
            return self._deploy(rng, number)
        uri = rng.choice(self.endpoints)

        def call(client: Any, deadline: float) -> Any:
            endpoint = yield client.endpoints.attach(uri)
            yield from steps(endpoint, uri)

        return Work(operation, call, calls=2)

    def _predict(self, rng: random.Random, number: int) -> Work:
        inputs = [rng.randint(0, 9) for _ in range(rng.randint(1, 5))]

        def steps(endpoint: Any, uri: str) -> Any:
            outputs = yield endpoint.predict(inputs)
            assert len(outputs) == len(inputs)  # noqa: S101

        return self._with_endpoint(rng, number, "endpoints.predict", steps)

    def _endpoint_status(self, rng: random.Random, number: int) -> Work:
        def steps(endpoint: Any, uri: str) -> Any:
            yield endpoint.status

        return self._with_endpoint(rng, number, "endpoints.status", steps)

    def _endpoint_delete(self, rng: random.Random, number: int) -> Work:
        def steps(endpoint: Any, uri: str) -> Any:
            yield endpoint.delete()
            self.endpoints.remove(uri)

        return self._with_endpoint(rng, number, "endpoints.delete", steps)

    def _batch(self, rng: random.Random, number: int) -> Work:
        output = self.folder / f"out-{number}.jsonl"
        spec = BatchTransform(
            name=f"chaos-{self.seed}-{number}",
            model=str(self.folder / "model"),
            input=str(self.input),
            output=str(output),
            idempotency_key=f"chaos-{self.seed}-{number}",
        )

        def call(client: Any, deadline: float) -> Any:
            batch = yield client.batch.submit(spec)
            self.batches.append(batch.id)
            self.outputs[batch.id] = output

        return Work("batch.submit", call)

    def _with_batch(
        self, rng: random.Random, number: int, operation: str, steps: Callable[[Any, str], Any]
    ) -> Work:
        if not self.batches:
            return self._batch(rng, number)
        uri = rng.choice(self.batches)

        def call(client: Any, deadline: float) -> Any:
            batch = yield client.batch.attach(uri)
            yield from steps(batch, uri)

        return Work(operation, call, calls=2)

    def _batch_finish(self, rng: random.Random, number: int) -> Work:
        def steps(batch: Any, uri: str) -> Any:
            yield batch.wait(self.timeout)
            lines = self.outputs[uri].read_text().splitlines()
            assert len(lines) == LINES, f"{len(lines)} of {LINES} lines"  # noqa: S101

        return self._with_batch(rng, number, "batch.status", steps)

    def _batch_delete(self, rng: random.Random, number: int) -> Work:
        def steps(batch: Any, uri: str) -> Any:
            yield batch.delete()
            self.batches.remove(uri)

        return self._with_batch(rng, number, "batch.cancel", steps)

    # -- the account ------------------------------------------------------------------------

    def settle(self) -> None:
        """Waits until what was late has taken effect."""
        if self.late:
            time.sleep(LATE + SHORT)

    def entries(self) -> list[Entry]:
        """The ledger's."""
        client = self.client("sync")
        found = Ledger(client.profile.home).entries()
        return [entry for entry in found if entry.provider == self.name]

    def known(self) -> set[str]:
        """What the ledger says is there; creates that were never confirmed by their keys."""
        client = self.client("sync")
        found: set[str] = set()
        for entry in self.entries():
            id = entry.id
            if id is None:
                bound, _, _ = client._runtime.locate(entry.place)
                id = bound.adapter.find(entry.key, bound.caller.call())
            if id is not None:
                found.add(f"{entry.kind}/{id.rpartition('/')[2]}")
        return found

    def destroy(self) -> list[str]:
        """Destroys all that the ledger holds; what went wrong."""
        client = self.client("sync")
        problems: list[str] = []
        for entry in self.entries():
            try:
                client.destroy(entry)
            except CloudAIError as error:
                problems.append(f"{self.name}: {entry.kind} {entry.name}: {error}")
        problems += [f"{self.name}: {entry.name} is left in the ledger" for entry in self.entries()]
        client.close()
        self._clients.clear()
        return problems


@contextmanager
def hastened(part: float) -> Generator[None]:
    """Lets clients of this process wait only a part of the usual time between attempts."""
    usual = RetryPolicy.delay

    def delay(
        self: RetryPolicy, error: CloudAIError, attempt: int, deadline: float | None
    ) -> float | None:
        wait = usual(self, error, attempt, deadline)
        return wait if wait is None or error.retry_after is not None else wait * part

    RetryPolicy.delay = delay  # type: ignore[method-assign]
    try:
        yield
    finally:
        RetryPolicy.delay = usual  # type: ignore[method-assign]


async def _of(result: Any) -> Any:
    return await result


async def _streamed(client: AsyncClient, told: dict[str, Any]) -> None:
    async with client.chat.stream("Say this again, please.", **told) as pieces:
        assert "".join([piece.text async for piece in pieces])  # noqa: S101


async def _drained(lines: Any) -> list[Any]:
    return [line async for line in lines]
