"""The worker processes of one variant, and the queue before them.

A worker that becomes idle gets at once whatever has arrived, up to the limits of a batch: there is
no timer, since a wait only adds latency to a queue that fills by itself under load. When several
are idle they share what waits. All of it runs in the event loop, so there are no locks.

Longer than other modules: queue, workers and their deaths are one state machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import msgspec

from cloudai.engine import openmp
from cloudai.errors import CloudAIError, EndpointError, RateLimited, ServiceUnavailable
from cloudai.server.config import DEFAULT_BATCH, QUICK_SECONDS
from cloudai.server.tracing import Mark
from cloudai.server.workers.wire import (
    Buffer,
    Cancel,
    Chunk,
    Done,
    Failed,
    Item,
    Options,
    Ready,
    Result,
    Work,
    frame,
    from_worker,
)

RESTART_PAUSE: Final = 0.5
"""Seconds before a worker that died is started again; doubled each time up to 30."""

HANGING: Final = 2.0
"""A worker that has not answered for so many times the timeout is killed and started again."""


QUIET_TURNS: Final = 2
"""Turns of the loop without a further request: one reads a request, the next one answers it."""

MOST_TURNS: Final = 16


class DeadlinePassed(CloudAIError):
    """The request's time was over before its answer came."""


class Job:
    """One item that waits or is being computed.

    Parameters
    ----------
    item: what is asked. deadline: in the loop's time. gone: whether the client has left.
    emit: takes the pieces of a stream. marks: told when it goes to a worker; None: nobody is.
    """

    __slots__ = (
        "alone", "deadline", "emit", "future", "gone", "item", "marks", "started", "tries",
    )  # fmt: skip

    def __init__(
        self,
        item: Item,
        future: asyncio.Future[Result],
        deadline: float,
        gone: Callable[[], bool],
        emit: Callable[[bytes], None] | None = None,
        marks: list[Mark] | None = None,
    ) -> None:
        self.item = item
        self.future = future
        self.deadline = deadline
        self.gone = gone
        self.emit = emit
        self.marks = marks
        self.started = 0.0
        self.tries = 0
        # Sent by itself: a stream, or what was in a batch whose worker died.
        self.alone = item.stream or item.kind == "chat"


class _Worker(asyncio.Protocol):
    """The front's end of one worker process."""

    def __init__(self, group: Group, number: int) -> None:
        self.group = group
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.transport: asyncio.Transport | None = None
        self.ready = False
        self.batch: dict[int, list[Job]] = {}
        self.timers: dict[int, asyncio.TimerHandle] = {}  # when a batch has taken too long
        self._buffer = Buffer()

    @property
    def idle(self) -> bool:
        return self.ready and len(self.batch) < self.group.together

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for body in self._buffer.feed(data):
            self.group.received(self, from_worker.decode(body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ready = False
        self.group.lost(self)

    def send(self, data: bytearray) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


class Group:
    """The workers of one variant.

    Parameters
    ----------
    options: for the worker processes. count: how many.
    env: of the worker processes. timeout, queue, queue_bytes, batch, batch_bytes: see ``Limits``.
    on_batch: told of each batch: its items and its seconds.
    log: takes an event's name and its fields.
    """

    def __init__(
        self,
        options: Options,
        count: int,
        *,
        env: dict[str, str],
        timeout: float,
        queue: int,
        queue_bytes: int,
        batch: int | None,
        batch_bytes: int,
        devices: tuple[str, ...] = (),
        on_batch: Callable[[int, float], None] = lambda items, seconds: None,
        log: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        self.options = options
        self._loop = asyncio.get_running_loop()
        self.count = count
        self.env = env
        self.timeout = timeout
        self.limit = queue
        self.limit_bytes = queue_bytes
        self.batch = batch or DEFAULT_BATCH
        self._batch_from_model = batch is None
        self.batch_bytes = batch_bytes
        self.devices = devices
        self.info: dict[str, Any] = {}
        self.together = 1  # batches that a worker computes at once
        self.error: str | None = None
        self.restarts = 0
        self.waiting = 0
        self.waiting_bytes = 0
        self.closing = False
        self._on_batch = on_batch
        self._log = log
        self._queue: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._next_id = 0
        self._pumping = False
        self._pause = RESTART_PAUSE
        self._per_item = 0.0
        self._first_ready: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Starts the workers and waits until one is ready.

        Raises EndpointError with the worker's own words when the model cannot be loaded.
        """
        for number in range(self.count):
            await self._spawn(number)
        await self._first_ready

    @property
    def ready(self) -> int:
        """Workers that are ready."""
        return sum(worker.ready for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers if worker.process]

    def submit(
        self,
        items: Sequence[Item],
        deadline: float,
        gone: Callable[[], bool],
        emit: Callable[[bytes], None] | None = None,
        marks: list[Mark] | None = None,
    ) -> list[asyncio.Future[Result]]:
        """Puts a request's items into the queue: all of them or none.

        Raises RateLimited when the queue is full, or so long that the deadline would pass.
        """
        loop = self._loop
        if self.closing:
            raise ServiceUnavailable("the model is not loaded", retry_after=1.0)
        count = sum(item.count for item in items)
        size = sum(len(item.inputs) for item in items)
        if self.waiting:
            wait = self._per_item * (self.waiting + count) / max(1, self.ready * self.together)
            full = self.waiting + count > self.limit
            full = full or self.waiting_bytes + size > self.limit_bytes
            if full or loop.time() + wait > deadline:
                raise RateLimited(
                    f"{self.waiting} inputs are waiting", retry_after=max(1.0, round(wait))
                )
        jobs = [Job(item, loop.create_future(), deadline, gone, emit, marks) for item in items]
        self._queue.extend(jobs)
        self.waiting += count
        self.waiting_bytes += size
        self._pump_soon()
        return [job.future for job in jobs]

    async def stop(self, patience: float) -> None:
        """Lets what waits and runs end, for ``patience`` seconds, then ends the workers."""
        self.closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._empty()
        for worker in self._workers:
            worker.kill()
            if worker.transport is not None:
                worker.transport.abort()
        for job in self._queue:
            _fail(job, ServiceUnavailable("the server is stopping"))
        self._queue.clear()
        for worker in self._workers:
            if worker.process is not None:
                await asyncio.to_thread(worker.process.wait)

    async def _empty(self) -> None:
        """Waits until nothing waits and nothing runs."""
        while futures := [
            job.future
            for jobs in (self._queue, *(b for w in self._workers for b in w.batch.values()))
            for job in jobs
            if not job.future.done()
        ]:
            await asyncio.wait(futures)

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._settle, self.waiting, 0, 0)

    def _settle(self, before: int, quiet: int, turns: int) -> None:
        """Sends what waits once the requests that have arrived already are all read, which takes
        the loop some turns: a first one by itself would make the others wait for its whole
        forward. This is no timer: two turns without a further request end it, which are some
        microseconds."""
        quiet = quiet + 1 if self.waiting == before else 0
        if quiet >= QUIET_TURNS or turns >= MOST_TURNS or self.waiting >= self.batch:
            self._pump()
        else:
            self._loop.call_soon(self._settle, self.waiting, quiet, turns + 1)

    def _pump(self) -> None:
        self._pumping = False
        idle = [worker for worker in self._workers if worker.idle]
        while idle and self._queue:
            share = -(-self.waiting // len(idle))
            batch = self._take(min(self.batch, max(1, share)))
            if not batch:
                continue
            worker = min(idle, key=lambda worker: len(worker.batch))
            self._send(worker, batch)
            if not worker.idle:
                idle.remove(worker)

    def _take(self, room: int) -> list[Job]:
        """The next jobs, without those that nobody waits for."""
        now = self._loop.time()
        batch: list[Job] = []
        size = 0
        while self._queue:
            job = self._queue[0]
            if job.future.done() or job.gone():
                self._leave(job)
                job.future.cancel()
                continue
            if job.deadline <= now:
                self._leave(job)
                # It was not begun: the caller may safely ask again.
                _fail(job, RateLimited("the queue was too long", retry_after=1.0))
                continue
            full = job.item.count > room or size + len(job.item.inputs) > self.batch_bytes
            if batch and (full or job.alone):
                break
            self._leave(job)
            batch.append(job)
            room -= job.item.count
            size += len(job.item.inputs)
            if job.alone or room <= 0:
                break
        return batch

    def _leave(self, job: Job) -> None:
        """The queue's first job leaves it."""
        self._queue.popleft()
        self.waiting -= job.item.count
        self.waiting_bytes -= len(job.item.inputs)

    def _send(self, worker: _Worker, batch: list[Job]) -> None:
        self._next_id += 1
        now = self._loop.time()
        for job in batch:
            job.started = now
            job.tries += 1
            if job.marks is not None:
                count = sum(one.item.count for one in batch)
                job.marks.append(Mark(time.time_ns(), worker.number, count))
        worker.batch[self._next_id] = batch
        worker.send(frame(Work(self._next_id, [job.item for job in batch])))
        worker.timers[self._next_id] = self._loop.call_later(
            HANGING * self.timeout, self._check_hanging, worker, self._next_id
        )
        if self.together > 1:  # others go on meanwhile: what nobody waits for is ended at once
            for job in batch:
                job.future.add_done_callback(partial(_cancel, worker, self._next_id))

    def _check_hanging(self, worker: _Worker, number: int) -> None:
        batch = worker.batch.get(number)
        if batch and not batch[0].item.stream:
            self._log("worker_hangs", worker=worker.number, seconds=HANGING * self.timeout)
            for job in batch:
                _fail(job, DeadlinePassed("predict did not end"))
            worker.kill()

    def received(self, worker: _Worker, message: Ready | Failed | Chunk | Done) -> None:
        """A worker's message."""
        if isinstance(message, Done):
            batch = worker.batch.pop(message.id, [])
            if message.id in worker.timers:
                worker.timers.pop(message.id).cancel()
            items = sum(job.item.count for job in batch)
            if self.waiting >= items:
                self._pump()  # the next batch goes out before this one's answers are written
            elif self.waiting:
                self._pump_soon()
            if items:
                each = message.seconds / items
                self._per_item = 0.8 * self._per_item + 0.2 * each if self._per_item else each
                most = self.info.get("quick_batch")
                if most is not None and self._batch_from_model:
                    quick = int(QUICK_SECONDS / self._per_item)
                    self.batch = min(most, max(DEFAULT_BATCH, quick))
                self._on_batch(items, message.seconds)
            for job, result in zip(batch, message.results, strict=True):
                if not job.future.done():
                    job.future.set_result(result)
        elif isinstance(message, Chunk):
            for job in worker.batch.get(message.id, ()):
                if job.gone() or job.future.done():
                    worker.send(frame(Cancel(message.id)))
                elif job.emit is not None:
                    job.emit(message.data)
        elif isinstance(message, Ready):
            worker.ready = True
            self.error = None
            self.info = message.info
            self.together = int(self.info.get("together", 1))
            if self._batch_from_model:
                self.batch = self.info.get("batch", DEFAULT_BATCH)
            self._pause = RESTART_PAUSE
            self._log("worker_ready", worker=worker.number)
            if not self._first_ready.done():
                self._first_ready.set_result(None)
            self._pump_soon()
        else:
            self.error = message.message
            self._log("worker_failed", worker=worker.number, error=message.message)
            if not self._first_ready.done():
                self._first_ready.set_exception(EndpointError(message.message))

    def lost(self, worker: _Worker) -> None:
        """A worker's process is gone: what it computed is tried once more, each by itself."""
        batches, worker.batch = list(worker.batch.values()), {}
        for timer in worker.timers.values():
            timer.cancel()
        worker.timers.clear()
        if self.closing:
            for job in (job for batch in batches for job in batch):
                _fail(job, ServiceUnavailable("the server is stopping"))
            return
        for job in reversed([job for batch in batches for job in batch]):
            if job.future.done():
                continue
            if job.tries > 1 or job.item.stream:
                _fail(job, ServiceUnavailable("the worker process died over this request twice"))
            else:
                job.alone = True
                self._queue.appendleft(job)
                self.waiting += job.item.count
                self.waiting_bytes += len(job.item.inputs)
        self._pump_soon()
        task = asyncio.ensure_future(self._replace(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, worker: _Worker) -> None:
        process = worker.process
        if process is None:
            return
        worker.kill()
        code = await asyncio.to_thread(process.wait)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._log("worker_died", worker=worker.number, how=how)
        if not self._first_ready.done():
            # It died before any was ready: another try would end alike.
            self._first_ready.set_exception(
                EndpointError(f"the worker died while it loaded the model ({how})")
            )
            return
        self.restarts += 1
        await asyncio.sleep(0 if self._pause == RESTART_PAUSE else self._pause)
        self._pause = min(30.0, self._pause * 2)
        if not self.closing:
            self._workers.remove(worker)
            await self._spawn(worker.number)

    async def _spawn(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
        options = self.options
        if self.devices:
            options = msgspec.structs.replace(
                options, device=self.devices[number % len(self.devices)]
            )
        env = {**self.env, "CLOUDAI_WORKER_OPTIONS": msgspec.json.encode(options).decode()}
        env["CLOUDAI_DEVICE"] = options.device or "cpu"
        worker = _Worker(self, number)
        try:
            worker.process = subprocess.Popen(  # noqa: ASYNC220 (it returns after the fork)
                [sys.executable, "-P", "-m", "cloudai.server.workers.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=env,
            )
        finally:
            theirs.close()
        self._workers.append(worker)
        ours.setblocking(False)
        await self._loop.create_connection(lambda: worker, sock=ours)


def worker_env(threads: int) -> dict[str, str]:
    """The environment of a worker with so many threads to compute with."""
    env = {name: value for name, value in os.environ.items() if name != "CLOUDAI_WORKER_OPTIONS"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        env.setdefault(name, str(threads))
    # The tokenisers' own threads would fight the other workers for the cores.
    env.setdefault("TOKENIZERS_PARALLELISM", "false" if threads == 1 else "true")
    env.setdefault("RAYON_NUM_THREADS", str(threads))  # the tokenisers' thread pool
    # glibc would hand a batch's memory back to the kernel after each batch, and take it again page
    # by page: 200 faults for a request of 64 small images, and none with these. The second is the
    # most that mallopt(3) takes.
    env.setdefault("MALLOC_TRIM_THRESHOLD_", str(128 << 20))
    env.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
    openmp.short(env)
    env.setdefault("PYTHONUNBUFFERED", "1")
    return env


def _cancel(worker: _Worker, number: int, future: asyncio.Future[Result]) -> None:
    if future.cancelled() and number in worker.batch:
        worker.send(frame(Cancel(number)))


def _fail(job: Job, error: Exception) -> None:
    if not job.future.done():
        with contextlib.suppress(asyncio.InvalidStateError):
            job.future.set_exception(error)
