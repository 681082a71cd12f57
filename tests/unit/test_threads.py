"""Sync adapters under asyncio: order, early ends, many loops, a fork."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Iterator

import pytest

from cloudai._core.calls import threads


async def test_a_fast_stream_keeps_its_order() -> None:
    assert [item async for item in threads.iterate(iter(range(2000)))] == list(range(2000))


async def test_an_error_in_the_middle_arrives_after_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("broke")

    seen: list[int] = []
    with pytest.raises(KeyError, match="broke"):
        async for item in threads.iterate(source()):
            seen.append(item)
    assert seen == [1, 2]


async def test_closing_early_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            closed.set()

    stream = threads.iterate(source())
    assert await anext(stream) == 0
    await stream.aclose()  # type: ignore[attr-defined]
    assert closed.wait(60)


async def test_more_sync_calls_run_at_once_than_asyncios_own_pool_would() -> None:
    barrier = threading.Barrier(64, timeout=20)
    await asyncio.gather(*(threads.run(barrier.wait) for _ in range(64)))


async def test_context_variables_come_along() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("v")
    variable.set("here")
    assert await threads.run(variable.get) == "here"


async def test_what_must_end_ends_although_its_caller_is_cancelled() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(60)
        done.set()

    task = asyncio.create_task(threads.finish(work))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


def test_many_loops_one_after_another() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(150):
        assert asyncio.run(threads.run(lambda: 1)) == 1
    assert len(os.listdir("/proc/self/fd")) <= before + 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_gets_threads_of_its_own() -> None:
    asyncio.run(threads.run(lambda: 1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if asyncio.run(asyncio.wait_for(threads.run(lambda: 7), 10)) == 7 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
