"""Google's REST APIs over urllib3, the transport that google-auth itself brings.

One pool a host, kept open; no retries, no redirects, no model of the answer: a call costs its
socket and its JSON.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Generator, Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from cloudai._version import __version__
from cloudai.errors import CloudAIError
from cloudai.protocols import Call
from cloudai.providers.vertex import errors

if TYPE_CHECKING:
    import urllib3

    from cloudai.providers.vertex.session import VertexSession

CONNECT_TIMEOUT: Final = 10.0
"""Seconds."""
AGENT: Final = f"cloudai/{__version__} python/{platform.python_version()}"
_JSON: Final = {"Content-Type": "application/json", "User-Agent": AGENT}


class Http:
    """Sends requests for one session. Thread-safe."""

    def __init__(self, session: VertexSession) -> None:
        self._session = session
        self._manager: urllib3.PoolManager | None = None
        self._pools: dict[str, Any] = {}
        self._ahead = 0.0

    @property
    def manager(self) -> urllib3.PoolManager:
        """The pools of all hosts; by the environment's proxy where there is one."""
        if self._manager is None:
            self._manager = _manager(self._session)
        return self._manager

    def _pool(self, base: str) -> Any:
        pool = self._pools.get(base)
        if pool is None:
            parts = urlsplit(base)
            if proxy(base) is not None or parts.path.strip("/"):
                # The manager puts the whole URL together, as a proxy or a prefix needs it.
                pool = _Whole(self.manager, base)
            else:
                pool = self.manager.connection_from_url(base)
            self._pools[base] = pool
        return pool

    def open(
        self, method: str, base: str, path: str, body: bytes | None, call: Call
    ) -> urllib3.BaseHTTPResponse:
        """The answer, its head read and its status good. Raises CloudAIError."""
        response = self._once(method, base, path, body, call)
        if response.status >= 400:
            data = _drained(response)
            raise errors.from_response(response.status, _lower(response.headers), data)
        return response

    def _once(
        self, method: str, base: str, path: str, body: bytes | None, call: Call
    ) -> urllib3.BaseHTTPResponse:
        tokens = self._session.tokens
        auth = tokens.headers(call.remaining())
        response = self._send(method, base, path, body, auth, call)
        if response.status == 401:
            # A token may be revoked before its time; the service has done nothing yet.
            _drained(response)
            tokens.refused(auth)
            auth = tokens.headers(call.remaining())
            response = self._send(method, base, path, body, auth, call)
        return response

    def _send(
        self,
        method: str,
        base: str,
        path: str,
        body: bytes | None,
        auth: dict[str, str],
        call: Call,
    ) -> urllib3.BaseHTTPResponse:
        from urllib3 import exceptions as bad
        from urllib3.util import Timeout

        left = call.remaining()
        try:
            return self._pool(base).urlopen(
                method,
                path,
                body=body,
                headers={**_JSON, **auth},
                retries=False,
                redirect=False,
                preload_content=False,
                timeout=Timeout(connect=min(CONNECT_TIMEOUT, left), read=left),
            )
        except (bad.NewConnectionError, bad.ConnectTimeoutError, bad.ProxyError) as error:
            raise errors.broken(error, sent=False) from None
        except bad.ReadTimeoutError:
            raise errors.late(sent=True) from None
        except bad.HTTPError as error:
            raise errors.broken(error, sent=True) from None

    def raw(
        self, method: str, base: str, path: str, body: bytes | None, call: Call
    ) -> tuple[bytes, str | None]:
        """The answer's body, and the request's id where there is one."""
        response = self.open(method, base, path, body, call)
        data = _read(response)
        return data, response.headers.get("x-request-id")

    def json(self, method: str, base: str, path: str, body: Any, call: Call) -> dict[str, Any]:
        """The answer, decoded. ``body`` is encoded; None sends none."""
        sent = None if body is None else msgspec.json.encode(body)
        response = self.open(method, base, path, sent, call)
        data = _read(response)
        self._hear(response.headers.get("date"))
        if not data:
            return {}
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise errors.make("DATA_LOSS", f"the answer is not JSON: {error}") from None

    def _hear(self, date: str | None) -> None:
        """Learns the service's time from an answer's Date."""
        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        self._ahead = told.timestamp() - time.time()

    def now(self) -> float:
        """Unix seconds by the service's clock, as its last answer told it to the second; by this
        machine's before there was one."""
        return time.time() + self._ahead

    def events(self, base: str, path: str, body: bytes, call: Call) -> Generator[bytes]:
        """The data of each server-sent event of a POST's answer, as it comes."""
        cut = Events()
        for piece in self.pieces(base, path, body, call):
            yield from cut.feed(piece)

    def pieces(self, base: str, path: str, body: bytes, call: Call) -> Iterator[bytes]:
        """A POST's answer, piece by piece."""
        response = self.open("POST", base, path, body, call)
        ended = False
        try:
            yield from _pieces(response)
            ended = True
        finally:
            if ended:
                response.release_conn()
            else:
                response.close()  # what is left unread would spoil the connection

    def close(self) -> None:
        manager, self._manager = self._manager, None
        self._pools.clear()
        if manager is not None:
            manager.clear()


class _Whole:
    """A host behind a proxy, or under a prefix."""

    def __init__(self, manager: urllib3.PoolManager, base: str) -> None:
        self._manager = manager
        self._base = base

    def urlopen(self, method: str, path: str, **about: Any) -> Any:
        return self._manager.urlopen(method, self._base + path, **about)


def proxy(base: str) -> str | None:
    """The proxy that the environment names for a URL."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(base)
    found = getproxies()
    if not found or proxy_bypass(parts.hostname or ""):
        return None
    return found.get(parts.scheme) or found.get("all")


def _manager(session: VertexSession) -> urllib3.PoolManager:
    import urllib3

    base = session.url()
    about: dict[str, Any] = {"num_pools": 16, "maxsize": 64, "retries": False}
    if base.startswith("https") or session.url("storage").startswith("https"):
        about["ssl_context"] = session.tls()
    via = proxy(base)
    return urllib3.ProxyManager(via, **about) if via else urllib3.PoolManager(**about)


class Events:
    """Cuts a text/event-stream into the data of its events. Google sends one line of data an
    event, and CR LF line ends."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the lines that this piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


def _pieces(response: Any) -> Iterator[bytes]:
    from urllib3 import exceptions as bad

    try:
        if response.chunked and response.supports_chunked_reads():
            yield from response.read_chunked()
        else:
            while piece := response.read1(65536):
                yield piece
    except bad.ReadTimeoutError:
        raise errors.late(sent=True) from None
    except (bad.HTTPError, OSError) as error:
        raise errors.broken(error, sent=True) from None


def _read(response: Any) -> bytes:
    from urllib3 import exceptions as bad

    try:
        data: bytes = response.read()
    except bad.ReadTimeoutError:
        raise errors.late(sent=True) from None
    except (bad.HTTPError, OSError) as error:
        raise errors.broken(error, sent=True) from None
    response.release_conn()
    return data


def _drained(response: Any) -> bytes:
    """An error's body, as far as it comes."""
    try:
        return _read(response)
    except CloudAIError:  # the status says enough
        response.close()
        return b""


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
