"""Access tokens: fetched once at a time, ahead of their end, and never on the event loop.

google-auth refreshes in the calling thread, each caller for itself; a burst of calls after an
hour of quiet then asks for as many tokens as there are calls. Here one refresh serves all.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final, NoReturn

from cloudai._core.calls import threads
from cloudai.errors import CallTimeout
from cloudai.providers.vertex.errors import PROVIDER

EARLY: Final = 225.0
"""Seconds before its end that a token is renewed (google-auth's REFRESH_THRESHOLD)."""
LAST: Final = 10.0
"""Seconds before its end that it is no longer used."""

Fetch = Callable[[], tuple[dict[str, str], float]]
"""Gives the headers that carry a fresh token, and its end in Unix seconds."""


class Tokens:
    """The headers that authorise a request. Thread-safe; serves any number of event loops."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._headers: dict[str, str] = {}
        self._ends = 0.0
        self._lock = threading.Lock()
        self._running: Future[dict[str, str]] | None = None

    def headers(self, timeout: float) -> dict[str, str]:
        """For the calling thread; waits up to ``timeout`` seconds where there is no token yet."""
        left = self._ends - time.time()
        if left > EARLY:
            return self._headers
        future, mine = self._claim()
        if mine:
            if left > LAST:
                threads.executor().submit(self._refresh, future)
            else:
                # In a thread of its own: the pool's may all be waiting here, and none may wait
                # beyond its call.
                threading.Thread(target=self._refresh, args=(future,), daemon=True).start()
        if left > LAST:
            return self._headers
        try:
            return future.result(timeout)
        except FutureTimeout:
            raise _late() from None

    async def aheaders(self, timeout: float) -> dict[str, str]:
        """The async twin: the refresh runs in a worker thread."""
        left = self._ends - time.time()
        if left > EARLY:
            return self._headers
        future, mine = self._claim()
        if mine:
            threads.executor().submit(self._refresh, future)
        if left > LAST:
            return self._headers
        try:
            # Shielded: one caller that gives up must not take the token from the others.
            async with asyncio.timeout(timeout):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            raise _late() from None

    def refused(self, headers: dict[str, str]) -> None:
        """Notes that the service refused these headers: the next call fetches others."""
        with self._lock:
            if headers is self._headers:
                self._ends = 0.0

    def _claim(self) -> tuple[Future[dict[str, str]], bool]:
        with self._lock:
            if self._running is not None:
                return self._running, False
            future: Future[dict[str, str]] = Future()
            future.set_running_or_notify_cancel()  # no waiter can cancel it from here on
            self._running = future
            return future, True

    def _refresh(self, future: Future[dict[str, str]]) -> None:
        try:
            headers, ends = self._fetch()
        except BaseException as error:  # noqa: BLE001 - carried to every waiter
            with self._lock:
                self._running = None
            future.set_exception(error)
            return
        with self._lock:
            self._headers, self._ends = headers, ends
            self._running = None
        future.set_result(headers)

    def __repr__(self) -> str:
        return f"Tokens(valid for {max(0.0, self._ends - time.time()):.0f} s)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("tokens do not pickle")


def _late() -> CallTimeout:
    return CallTimeout("no access token came in time", provider=PROVIDER)


def expiry(credentials: Any) -> float:
    """When a google-auth credential's token ends, in Unix seconds; never for a fixed one."""
    import calendar

    ends = credentials.expiry
    return float("inf") if ends is None else float(calendar.timegm(ends.utctimetuple()))
