"""The same requests under asyncio, over aiohttp: one session for each event loop.

A session belongs to the loop it was made in, and has to be closed there. asyncio closes a
loop's async generators when the loop ends (``asyncio.run`` does), so each session is held by
one: 150 loops one after another leave no session, no descriptor and no warning behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from cloudai.errors import MissingExtra
from cloudai.protocols import Call
from cloudai.providers.vertex import errors
from cloudai.providers.vertex.http import AGENT, CONNECT_TIMEOUT, Events, proxy

if TYPE_CHECKING:
    import aiohttp

    from cloudai.providers.vertex.session import VertexSession

_JSON = {"Content-Type": "application/json", "User-Agent": AGENT, "Accept-Encoding": "identity"}


class Aio:
    """Sends requests for one session, from any number of event loops."""

    def __init__(self, session: VertexSession) -> None:
        self._session = session
        self._held: dict[Any, tuple[aiohttp.ClientSession, AsyncGenerator[None]]] = {}
        self._proxies: dict[str, str | None] = {}

    async def _client(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is not None and not held[0].closed:
            return held[0]
        for other in [other for other in list(self._held) if other.is_closed()]:
            self._held.pop(other, None)  # ended without closing its generators
        client = _client(self._session)
        guard = self._guard(loop, client)
        await anext(guard)  # does not wait: from here on the loop closes it
        self._held[loop] = (client, guard)
        return client

    async def _guard(
        self, loop: asyncio.AbstractEventLoop, client: aiohttp.ClientSession
    ) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._held.pop(loop, None)
            await client.close()

    @asynccontextmanager
    async def _open(
        self, method: str, base: str, path: str, body: bytes | None, call: Call
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        import aiohttp
        from yarl import URL

        client = await self._client()
        tokens = self._session.tokens
        auth = await tokens.aheaders(call.remaining())
        url = URL(base + path, encoded=True)
        if base not in self._proxies:
            self._proxies[base] = proxy(base)
        left = call.remaining()
        limit = aiohttp.ClientTimeout(total=left, sock_connect=min(CONNECT_TIMEOUT, left))
        try:
            for attempt in (1, 2):
                response = await client.request(
                    method,
                    url,
                    data=body,
                    headers={**_JSON, **auth},
                    timeout=limit,
                    proxy=self._proxies[base],
                    allow_redirects=False,
                )
                if response.status != 401 or attempt == 2:
                    break
                # A token may be revoked before its time; the service has done nothing yet.
                response.release()
                tokens.refused(auth)
                auth = await tokens.aheaders(call.remaining())
            try:
                if response.status >= 400:
                    data = await response.read()
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    raise errors.from_response(response.status, headers, data)
                yield response
            finally:
                response.release()
        except aiohttp.ConnectionTimeoutError as error:
            raise errors.broken(error, sent=False) from None
        except TimeoutError:
            raise errors.late(sent=True) from None
        except aiohttp.ClientConnectorError as error:
            raise errors.broken(error, sent=False) from None
        except (aiohttp.ClientError, OSError) as error:
            raise errors.broken(error, sent=True) from None

    async def raw(
        self, method: str, base: str, path: str, body: bytes | None, call: Call
    ) -> tuple[bytes, str | None]:
        """The answer's body, and the request's id where there is one."""
        async with self._open(method, base, path, body, call) as response:
            return await response.read(), response.headers.get("x-request-id")

    async def events(self, base: str, path: str, body: bytes, call: Call) -> AsyncGenerator[bytes]:
        """The data of each server-sent event of a POST's answer, as it comes."""
        cut = Events()
        async with self._open("POST", base, path, body, call) as response:
            async for piece in response.content.iter_any():
                for data in cut.feed(piece):
                    yield data

    def close(self) -> None:
        """Closes the sessions of loops that still run, each in its own loop."""
        for loop, (_, guard) in list(self._held.items()):
            with suppress(RuntimeError):  # it ended meanwhile, and its generators with it
                loop.call_soon_threadsafe(lambda loop=loop, guard=guard: _end(loop, guard))


_ending: set[asyncio.Task[None]] = set()


def _end(loop: asyncio.AbstractEventLoop, guard: AsyncGenerator[None]) -> None:
    task = loop.create_task(_aclose(guard))
    _ending.add(task)  # asyncio itself keeps only a weak reference
    task.add_done_callback(_ending.discard)


async def _aclose(guard: AsyncGenerator[None]) -> None:
    await guard.aclose()


def _client(session: VertexSession) -> aiohttp.ClientSession:
    try:
        import aiohttp
    except ModuleNotFoundError:
        raise MissingExtra("aiohttp", extra="vertex", provider=errors.PROVIDER) from None
    tls = session.tls() if session.url().startswith("https") else True
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls, ttl_dns_cache=300),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept"),
    )
