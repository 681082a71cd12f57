"""HTTP for all providers under asyncio, over aiohttp: one session for each event loop.

A session belongs to the loop it was made in, and has to be closed there. asyncio closes a loop's
async generators when the loop ends (``asyncio.run`` does), so each session is held by one: many
loops one after another leave no session, no descriptor and no warning behind.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import aiohttp
from yarl import URL

from cloudai._core.calls import failures, threads
from cloudai._core.calls.http import CONNECT, Answer
from cloudai._core.calls.limit import FAULT, LARGEST, Limit
from cloudai._core.calls.network import Network, Proxy, proxy
from cloudai.errors import CloudAIError

_BEFORE = (
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
)
"""Failures after which nothing can have arrived."""


class Aio:
    """The async twin of ``Http``. Thread-safe; serves any number of event loops."""

    def __init__(self, provider: str, network: Network, hint: str | None = None) -> None:
        self.provider = provider
        self.hint = hint
        self._network = network
        self._held: dict[asyncio.AbstractEventLoop, _Held] = {}
        self._hosts: dict[str, tuple[Any, Proxy | None]] = {}
        self._lock = threading.Lock()

    async def send(
        self,
        method: str,
        base: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        seconds: float,
        most: int = LARGEST,
    ) -> Answer:
        """The async twin of ``Http.send``."""
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT, seconds))
        try:
            async with await self._ask(method, base, target, headers, body, timeout) as response:
                data = await self._read(response, base, most)
                return Answer(response.status, response.headers, data)
        except (aiohttp.ClientError, OSError) as error:
            raise self.failed(error, base) from error

    async def open(
        self,
        method: str,
        base: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        seconds: float,
    ) -> AsyncStream:
        """The async twin of ``Http.open``. The stream has to be closed."""
        limit = Limit(seconds)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT, seconds))
        try:
            async with asyncio.timeout(seconds):
                response = await self._ask(method, base, target, headers, body, timeout)
        except (aiohttp.ClientError, OSError) as error:
            raise self.failed(error, base) from error
        return AsyncStream(self, base, response, limit)

    async def _ask(
        self,
        method: str,
        base: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is None or held.session.closed:
            held = await self._hold(loop)
        host = self._hosts.get(base)
        if host is None:
            host = self._hosts[base] = await threads.run(self._host, base)
        tls, via = host
        given: dict[str, Any] = {}
        if via is not None:
            given["proxy"] = via.url
            if tls is not None:
                given["proxy_headers"] = via.headers
            elif via.headers:  # no tunnel: the proxy reads the request itself
                headers = {**headers, **via.headers}
        if tls is not None:
            given["ssl"] = tls
        url = held.url(base + target)
        return await held.session.request(
            method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False, **given
        )

    def _host(self, base: str) -> tuple[Any, Proxy | None]:
        via = proxy(base)
        # Reading the authorities takes tens of milliseconds: not on the event loop.
        return self._network.tls if base.startswith("https:") else None, via

    async def _read(self, response: aiohttp.ClientResponse, base: str, most: int) -> bytes:
        if response.status >= 300:
            return await self._fault(response)
        length = response.content_length
        if length is not None and "Content-Encoding" not in response.headers:
            if length > most:
                raise failures.too_large(self.provider, base, most)
            return await response.read()
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > most:
                raise failures.too_large(self.provider, base, most)
            pieces.append(piece)
        return b"".join(pieces)

    async def _fault(self, response: aiohttp.ClientResponse) -> bytes:
        found = b""
        try:
            async for piece in response.content.iter_any():
                found += piece
                if len(found) > FAULT:
                    break
        except (aiohttp.ClientError, OSError):  # the status says enough
            pass
        return found[:FAULT]

    def failed(self, error: Exception, base: str) -> CloudAIError:
        """What a failure of aiohttp's means."""
        if isinstance(error, CloudAIError):
            return error
        if isinstance(error, TimeoutError) and not isinstance(error, _BEFORE):
            return failures.late(self.provider, base)
        sent = not isinstance(error, _BEFORE)
        hint = None if sent else self.hint
        return failures.unreachable(error, self.provider, base, sent=sent, hint=hint)

    async def _hold(self, loop: asyncio.AbstractEventLoop) -> _Held:
        with self._lock:
            for other in [other for other in self._held if other.is_closed()]:
                self._held.pop(other).drop()
            held = self._held.get(loop)
            if held is None or held.session.closed:
                held = self._held[loop] = _Held()
        await held.begin(lambda: self._held.pop(loop, None))
        return held

    def close(self) -> None:
        """Closes the connections of running loops, each in its own; what an idle loop holds
        closes with it."""
        with self._lock:
            held = dict(self._held)
            self._held = {
                loop: one
                for loop, one in held.items()
                if not loop.is_closed() and not loop.is_running()
            }
        for loop, one in held.items():
            if loop.is_closed():
                one.drop()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(one.session.close(), loop)


class AsyncStream:
    """The async twin of ``Stream``."""

    def __init__(self, aio: Aio, base: str, response: aiohttp.ClientResponse, limit: Limit) -> None:
        self._aio = aio
        self._base = base
        self._response = response
        self._limit = limit
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.heard = limit.heard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            while True:
                async with asyncio.timeout(self._limit.left()):
                    piece = await content.readany()
                if not piece:
                    return
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise self._aio.failed(error, self._base) from error

    async def read(self) -> bytes:
        """All of it, in one; an error's body."""
        try:
            async with asyncio.timeout(self._limit.left()):
                return await self._aio._read(self._response, self._base, LARGEST)
        except (aiohttp.ClientError, OSError) as error:
            raise self._aio.failed(error, self._base) from error

    def close(self) -> None:
        """Frees the connection: kept where the answer has ended, else closed."""
        self._response.release() if self._response.content.at_eof() else self._response.close()


class _Held:
    """The session of one event loop, closed by an async generator that waits inside."""

    def __init__(self) -> None:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept"),
            headers={"Accept-Encoding": "identity"},
            raise_for_status=False,
        )
        self._urls: dict[str, URL] = {}
        self._keeper: AsyncGenerator[None] | None = None

    def url(self, text: str) -> URL:
        found = self._urls.get(text)
        if found is None:
            if len(self._urls) > 1000:
                self._urls.clear()
            found = self._urls[text] = URL(text, encoded=True)
        return found

    async def begin(self, ended: Any) -> None:
        if self._keeper is None:
            self._keeper = self._keep(ended)
            await anext(self._keeper)

    async def _keep(self, ended: Any) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            ended()
            await self.session.close()

    def drop(self) -> None:
        """Frees the sockets of a loop that was closed without ending its generators."""
        connector: Any = self.session.connector
        for pooled in list(getattr(connector, "_conns", {}).values()):
            for protocol, _ in pooled:
                _close_socket(protocol.transport)
        self.session.detach()
        if connector is not None:
            connector._conns.clear()
            connector._closed = True


def _close_socket(transport: Any) -> None:
    # The transport's own close needs its loop, which is gone.
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None
