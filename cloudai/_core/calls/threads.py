"""Runs sync adapters under asyncio, in worker threads of cloudai's own.

asyncio's default executor has few threads (5 more than cores, at most 32) and is shut down
with its loop; this one is shared by all loops, sized for calls that wait, and made anew after a
fork.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 128
"""Sync calls under way at once. An idle thread costs some 60 kB; none starts before need."""

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None


def executor() -> ThreadPoolExecutor:
    """The process's one pool."""
    global _executor
    if _executor is None:
        with _lock:
            if _executor is None:
                _executor = ThreadPoolExecutor(THREADS, thread_name_prefix="cloudai")
    return _executor


def _after_fork() -> None:
    global _executor, _lock
    _executor = None  # its threads did not come along
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function`` in a worker thread, with the caller's context variables."""
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(executor(), lambda: context.run(function, *args, **kwargs))


async def finish(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like ``run``, for what must not be abandoned half-way: a cancelled caller still lets the
    work end (a create is recorded in the ledger) before the cancellation goes on."""
    task = asyncio.ensure_future(run(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not report it as lost
        raise


def together(work: Callable[[], None], count: int) -> None:
    """``work`` in this thread, and in ``count - 1`` others where the pool has room; returns when
    all have ended. ``work`` takes what is left to do until there is no more."""
    helpers = [executor().submit(contextvars.copy_context().run, work) for _ in range(count - 1)]
    try:
        work()
    finally:
        # One that has not begun would find nothing left.
        wait([helper for helper in helpers if not helper.cancel()])
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


_END: Final = object()


async def iterate(source: Iterator[T]) -> AsyncIterator[T]:
    """A sync iterator as an async one: each step in a worker thread, in order.

    What is ready is handed over together, so that a fast stream does not pay one thread switch
    an item. Closing the async iterator closes the sync one.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[Any] = asyncio.Queue()
    room = threading.Semaphore(256)
    stopped = threading.Event()

    def put(item: Any) -> None:
        try:
            loop.call_soon_threadsafe(ready.put_nowait, item)
        except RuntimeError:  # the loop was closed under us: nobody is waiting any more
            stopped.set()

    def pump() -> None:
        try:
            for item in source:
                if stopped.is_set():
                    break
                put(item)
                while not room.acquire(timeout=0.1):
                    if stopped.is_set():
                        break
            put(_END)
        except BaseException as error:  # noqa: BLE001 - carried to the consumer
            put(_Failure(error))
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    context = contextvars.copy_context()
    pumping = loop.run_in_executor(executor(), lambda: context.run(pump))
    try:
        while True:
            item = await ready.get()
            if item is _END:
                break
            if isinstance(item, _Failure):
                raise item.error
            room.release()
            yield cast("T", item)
    finally:
        stopped.set()
        await asyncio.wait({pumping})


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
