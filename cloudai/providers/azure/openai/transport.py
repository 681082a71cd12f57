"""The wire of chat and embeddings: the SDK's URL rules and headers, worked out once, over the
SDK's own httpx2 client in sync and over aiohttp in async.

``client.chat.completions.create`` spends most of its time on what is the same in every call
(options, headers, models of the answer). Here a call is: encode, send, decode.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import httpx2
import msgspec

from cloudai._core.calls import threads
from cloudai.errors import CallTimeout, CloudAIError, ConnectionFailed
from cloudai.protocols import Call
from cloudai.providers.azure.auth import Header
from cloudai.providers.azure.errors import error_of
from cloudai.providers.azure.session import AzureSession

if TYPE_CHECKING:
    import aiohttp

CONNECT: Final = 10.0
"""Seconds for a connection to come up."""
POOL: Final = 1000
"""Connections at once, as the openai SDK's default has it."""


class Answer(msgspec.Struct, frozen=True):
    """An answer with status 2xx."""

    body: bytes
    headers: Mapping[str, str]


class Route(msgspec.Struct, frozen=True):
    """Where a path of the API lies, by the SDK's rules."""

    url: httpx2.URL
    headers: dict[str, str]
    text: str


class Transport:
    """Posts JSON to one Azure OpenAI resource. Thread-safe; serves many event loops."""

    def __init__(self, session: AzureSession) -> None:
        self._session = session
        self._routes: dict[tuple[str, str], Route] = {}
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self._lock = threading.Lock()

    def route(self, path: str, model: str) -> Route:
        """Where ``path`` lies; for a dated version under the deployment ``model``."""
        found = self._routes.get((path, model))
        if found is None:
            found = self._routes[(path, model)] = self._make(path, model)
        return found

    def _make(self, path: str, model: str) -> Route:
        from urllib.parse import quote

        client = self._session.openai
        url = httpx2.URL(str(client.base_url))
        if self._session.api_version is not None:
            path = f"deployments/{quote(model, safe='')}/{path}"
        url = url.copy_with(raw_path=url.raw_path + path.encode())
        query: Any = client.default_query
        if query:
            url = url.copy_merge_params(query)
        headers = {
            name: value for name, value in client.default_headers.items() if isinstance(value, str)
        }
        return Route(url, headers, str(url))

    def post(self, path: str, model: str, body: bytes, call: Call) -> Answer:
        """Raises CloudAIError. A 401 has the key fetched anew, once."""
        auth = self._session.auth
        header = auth.fresh() or auth.header()
        response = self._send(path, model, body, call, header, stream=False)
        if response.status_code == 401:
            other = auth.refused(header)
            if other is not None:
                response = self._send(path, model, body, call, other, stream=False)
        if not response.is_success:
            raise error_of(response.status_code, response.headers, response.content)
        return Answer(response.content, response.headers)

    def stream(self, path: str, model: str, body: bytes, call: Call) -> Iterator[Any]:
        """The answer's headers, then its bytes as they come. Closing it frees the connection."""
        auth = self._session.auth
        header = auth.fresh() or auth.header()
        response = self._send(path, model, body, call, header, stream=True)
        try:
            if response.status_code == 401:
                other = auth.refused(header)
                if other is not None:
                    response.close()
                    response = self._send(path, model, body, call, other, stream=True)
            if not response.is_success:
                raise error_of(response.status_code, response.headers, _read(response))
            yield response.headers
            try:
                yield from response.iter_bytes()
            except httpx2.TransportError as error:
                raise failure(error) from error
        finally:
            response.close()

    def _send(
        self, path: str, model: str, body: bytes, call: Call, header: Header, *, stream: bool
    ) -> httpx2.Response:
        route = self.route(path, model)
        left = call.remaining()
        connect = min(CONNECT, left)
        http = self._session.http
        request = httpx2.Request(
            "POST",
            route.url,
            headers={**route.headers, header.name: header.value},
            content=body,
            extensions={"timeout": {"connect": connect, "read": left, "write": left, "pool": left}},
        )
        try:
            return http.send(request, stream=stream, auth=None)
        except httpx2.TransportError as error:
            raise failure(error) from error

    async def apost(self, path: str, model: str, body: bytes, call: Call) -> Answer:
        """The async twin of ``post``."""
        auth = self._session.auth
        header = auth.fresh() or await threads.run(auth.header)
        status, headers, content = await self._asend(path, model, body, call, header)
        if status == 401:
            other = await threads.run(auth.refused, header)
            if other is not None:
                status, headers, content = await self._asend(path, model, body, call, other)
        if not 200 <= status < 300:
            raise error_of(status, headers, content)
        return Answer(content, headers)

    async def _asend(
        self, path: str, model: str, body: bytes, call: Call, header: Header
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            async with await self._open(path, model, body, call, header) as response:
                return response.status, response.headers, await response.read()
        except _aiohttp().ClientError as error:
            raise _afailed(error) from error
        except TimeoutError as error:
            raise _timeout(error) from error

    async def astream(
        self, path: str, model: str, body: bytes, call: Call
    ) -> AsyncGenerator[Any, None]:
        """The async twin of ``stream``."""
        auth = self._session.auth
        header = auth.fresh() or await threads.run(auth.header)
        response = None
        try:
            response = await self._open(path, model, body, call, header, stream=True)
            if response.status == 401:
                other = await threads.run(auth.refused, header)
                if other is not None:
                    response.close()
                    response = await self._open(path, model, body, call, other, stream=True)
            if not 200 <= response.status < 300:
                raise error_of(response.status, response.headers, await response.read())
            yield response.headers
            async for piece in response.content.iter_any():
                yield piece
        except _aiohttp().ClientError as error:
            raise _afailed(error) from error
        except TimeoutError as error:
            raise _timeout(error) from error
        finally:
            if response is not None:
                response.close()

    async def _open(
        self,
        path: str,
        model: str,
        body: bytes,
        call: Call,
        header: Header,
        *,
        stream: bool = False,
    ) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None or found.session.closed:
            found = await self._loop(loop)
        route = self.route(path, model)
        left = call.remaining()
        timeout = _aiohttp().ClientTimeout(
            total=None if stream else left,
            sock_connect=min(CONNECT, left),
            sock_read=left if stream else None,
        )
        return await found.session.post(
            found.url(route),
            data=body,
            headers={**route.headers, header.name: header.value},
            timeout=timeout,
            allow_redirects=False,
            proxy=found.proxy,
        )

    async def _loop(self, loop: asyncio.AbstractEventLoop) -> _Loop:
        # The first use opens the SDK's client and the TLS context, which read files.
        tls = None
        if self._session.endpoint.startswith("https:"):
            tls = await threads.run(lambda: self._session.tls)
        await threads.run(lambda: self._session.openai)
        with self._lock:
            for other in [other for other in self._loops if other.is_closed()]:
                self._loops.pop(other).drop()
            found = self._loops.get(loop)
            if found is None or found.session.closed:
                found = self._loops[loop] = _Loop(tls, self._session.endpoint)
        await found.begin(lambda: self._loops.pop(loop, None))
        return found

    def close(self) -> None:
        """Closes the connections of loops that are at rest; those of a running one close with
        it."""
        with self._lock:
            loops, self._loops = self._loops, {}
            # What an idle loop holds closes with it.
            self._loops = {
                loop: found
                for loop, found in loops.items()
                if not loop.is_closed() and not loop.is_running()
            }
        for loop, found in loops.items():
            if loop.is_closed():
                found.drop()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(found.session.close(), loop)


class _Loop:
    """The aiohttp session of one event loop.

    An async generator that waits inside is what closes it: ``asyncio.run`` ends the generators
    of its loop before it closes the loop, while sockets can still be closed in order.
    """

    def __init__(self, tls: Any, endpoint: str) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=POOL, ssl=tls if tls is not None else True)
        self.session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            raise_for_status=False,
        )
        # aiohttp's own trust_env would read the environment and .netrc with each request.
        self.proxy = _proxy(endpoint)
        self._urls: dict[str, Any] = {}
        self._keeper: AsyncIterator[None] | None = None

    def url(self, route: Route) -> Any:
        found = self._urls.get(route.text)
        if found is None:
            import yarl

            found = self._urls[route.text] = yarl.URL(route.text, encoded=True)
        return found

    async def begin(self, ended: Any) -> None:
        if self._keeper is None:
            self._keeper = self._keep(ended)
            await anext(self._keeper)

    async def _keep(self, ended: Any) -> AsyncGenerator[None, None]:
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


def _proxy(endpoint: str) -> str | None:
    """The proxy that the environment names for an address (HTTPS_PROXY, NO_PROXY)."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(endpoint)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _aiohttp() -> Any:
    import aiohttp

    return aiohttp


def _read(response: httpx2.Response) -> bytes:
    try:
        return response.read()
    except httpx2.TransportError:
        return b""


def failure(error: httpx2.TransportError) -> CloudAIError:
    """The error of a connection that did not come up, broke, or took too long."""
    if isinstance(error, (httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ConnectError)):
        return ConnectionFailed(f"no connection: {error}", provider="azure", hint=_REACH)
    if isinstance(error, httpx2.TimeoutException):
        return CallTimeout("no answer in time", provider="azure", ambiguous=True)
    return ConnectionFailed(f"the connection broke: {error}", provider="azure", ambiguous=True)


def _afailed(error: Exception) -> CloudAIError:
    aiohttp = _aiohttp()
    if isinstance(error, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
        return ConnectionFailed(f"no connection: {error}", provider="azure", hint=_REACH)
    if isinstance(error, aiohttp.ServerTimeoutError):
        return CallTimeout("no answer in time", provider="azure", ambiguous=True)
    return ConnectionFailed(f"the connection broke: {error}", provider="azure", ambiguous=True)


def _timeout(error: TimeoutError) -> CloudAIError:
    if isinstance(error, CloudAIError):
        return error  # the deadline had passed before anything was sent
    return CallTimeout("no answer in time", provider="azure", ambiguous=True)


_REACH: Final = "Look at the profile's endpoint, at DNS, proxies and private endpoints"


def transport(session: AzureSession) -> Transport:
    """The session's one transport; chat and embeddings share its connections."""
    return session._once("transport", lambda: Transport(session))
