"""HTTP for all providers, in the caller's thread: urllib3's pools, with a deadline for the whole
call and a bound on what is read.

urllib3's own time limits hold for one read each, so that a service that drips a byte a second
never meets them. Here each read gets what is left of the call.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3 import exceptions as bad
from urllib3.connection import HTTPConnection, HTTPSConnection

from cloudai._core.calls import failures
from cloudai._core.calls.limit import FAULT, LARGEST, Limit
from cloudai._core.calls.network import Network, proxy
from cloudai.errors import CloudAIError

CONNECTIONS: Final = 128
"""Connections kept open to one host; as many as there are worker threads."""
CONNECT: Final = 10.0
"""Seconds for making a connection, at most."""
_BLOCK: Final = 65_536
_ONCE: Final = urllib3.Retry(False)

_BEFORE: Final = (bad.NewConnectionError, bad.ConnectTimeoutError, bad.ProxyError)
"""Failures after which nothing can have arrived."""


class Answer:
    """A whole answer."""

    __slots__ = ("data", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data


class Http:
    """Sends requests to any number of hosts. Thread-safe; nothing is opened before it is needed.

    Parameters
    ----------
    provider: named in errors. hint: of errors where no connection comes up.
    """

    def __init__(self, provider: str, network: Network, hint: str | None = None) -> None:
        self.provider = provider
        self.hint = hint
        self._network = network
        self._hosts: dict[str, _Host] = {}

    def send(
        self,
        method: str,
        base: str,
        target: str,
        headers: Mapping[str, str],
        body: Any,
        seconds: float,
        most: int = LARGEST,
    ) -> Answer:
        """One request and its whole answer, whatever its status. Raises ConnectionFailed or
        CallTimeout, ``ambiguous`` where the request may have arrived.

        Parameters
        ----------
        base: ``scheme://host:port``, and the path's beginning where that is common to all.
        target: path and query. body: bytes, a file, or blocks with a Content-Length in
            ``headers``. seconds: for all of it. most: bytes of the answer.
        """
        raw = self.raw(method, base, target, headers, body, seconds)
        return Answer(raw.status, raw.headers, self.read(raw, base, most))

    def open(
        self,
        method: str,
        base: str,
        target: str,
        headers: Mapping[str, str],
        body: Any,
        seconds: float,
    ) -> Stream:
        """One request and the head of its answer; ``seconds`` is then the longest silence."""
        return Stream(self, base, self.raw(method, base, target, headers, body, seconds))

    def raw(
        self,
        method: str,
        base: str,
        target: str,
        headers: Mapping[str, str],
        body: Any,
        seconds: float,
        *,
        decode: bool = True,
        chunked: bool = False,
    ) -> Any:
        """urllib3's response, its head read. ``decode``: unpack what comes compressed."""
        host = self._hosts.get(base)
        if host is None:
            host = self._hosts[base] = _Host(base, self._network)
        try:
            return host.pool.urlopen(
                method,
                host.prefix + target,
                body,
                {**headers, **host.headers} if host.headers else headers,
                retries=_ONCE,
                redirect=False,
                assert_same_host=False,
                timeout=urllib3.Timeout(seconds, connect=min(seconds, CONNECT), read=seconds),
                preload_content=False,
                decode_content=decode,
                chunked=chunked,
            )
        except (bad.HTTPError, OSError) as error:
            raise self.failed(error, base) from error

    def read(self, raw: Any, base: str, most: int = LARGEST) -> bytes:
        """The body of urllib3's response. An error's is cut, and taken as far as it comes."""
        if raw.status >= 300:
            return self._fault(raw)
        length = raw.length_remaining
        try:
            if length is not None and "content-encoding" not in raw.headers:
                if length > most:
                    raise failures.too_large(self.provider, base, most)
                return raw.read()
            pieces: list[bytes] = []
            size = 0
            for piece in raw.stream(_BLOCK):
                size += len(piece)
                if size > most:
                    raise failures.too_large(self.provider, base, most)
                pieces.append(piece)
            return b"".join(pieces)
        except (bad.HTTPError, OSError) as error:
            raw.close()
            raise self.failed(error, base) from error
        except CloudAIError:
            raw.close()
            raise

    def _fault(self, raw: Any) -> bytes:
        found = b""
        try:
            for piece in raw.stream(_BLOCK):
                found += piece
                if len(found) > FAULT:
                    raw.close()
                    break
        except (bad.HTTPError, OSError):  # the status says enough
            raw.close()
        return found[:FAULT]

    def failed(self, error: Exception, base: str) -> CloudAIError:
        """What a failure of urllib3's means."""
        if isinstance(error, bad.ConnectTimeoutError | bad.NewConnectionError):
            sent = False
        elif isinstance(error, bad.ReadTimeoutError | TimeoutError):
            return failures.late(self.provider, base)
        else:
            sent = not isinstance(error, _BEFORE)
        hint = None if sent else self.hint
        return failures.unreachable(error, self.provider, base, sent=sent, hint=hint)

    def close(self) -> None:
        """Closes the connections; they open again on use."""
        hosts, self._hosts = self._hosts, {}
        for host in hosts.values():
            host.manager.clear()


class Stream:
    """An answer under way. Iterating gives its bytes as they come, once."""

    def __init__(self, http: Http, base: str, raw: Any) -> None:
        self._http = http
        self._base = base
        self._raw = raw
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.heard = raw._original_response.limit.heard

    def __iter__(self) -> Iterator[bytes]:
        """A connection that is left before the end is closed: what is still to come on it is of
        no use."""
        raw = self._raw
        ended = False
        try:
            if raw.chunked:
                yield from raw.read_chunked(_BLOCK)
            else:
                while piece := raw.read1(_BLOCK):
                    yield piece
            ended = True
        except (bad.HTTPError, OSError) as error:
            raise self._http.failed(error, self._base) from error
        finally:
            if not ended:
                raw.close()
            raw.release_conn()

    def read(self) -> bytes:
        """All of it, in one."""
        return self._http.read(self._raw, self._base)

    def close(self) -> None:
        self._raw.close()
        self._raw.release_conn()


class _Host:
    """The pool of one ``scheme://host:port``, and what goes with each request to it."""

    __slots__ = ("headers", "manager", "pool", "prefix")

    def __init__(self, base: str, network: Network) -> None:
        parts = urlsplit(base)
        secure = parts.scheme == "https"
        via = proxy(base)
        keys: dict[str, Any] = {"maxsize": CONNECTIONS}
        if secure:
            keys["ssl_context"] = network.tls
        self.prefix, self.headers = parts.path.rstrip("/"), dict[str, str]()
        if via is None:
            self.manager = urllib3.PoolManager(**keys)
        else:
            if via.url.startswith("https:"):
                keys["proxy_ssl_context"] = network.tls
            self.manager = urllib3.ProxyManager(via.url, proxy_headers=via.headers, **keys)
            if not secure:  # no tunnel: the proxy itself is asked for the whole address
                self.prefix, self.headers = base, via.headers
        self.pool: Any = self.manager.connection_from_url(base)
        self.pool.ConnectionCls = _Secure if secure else _Plain


class _Bounded:
    """A connection whose reads end with the request's deadline."""

    def connect(self) -> None:
        self._begin()
        super().connect()  # type: ignore[misc]

    def getresponse(self) -> Any:
        self._begin()
        return super().getresponse()  # type: ignore[misc]

    def _begin(self) -> None:
        seconds: Any = self.timeout  # type: ignore[attr-defined]
        limit = Limit(seconds if isinstance(seconds, (int, float)) else CONNECT)
        self.response_class = partial(_Response, limit)


class _Plain(_Bounded, HTTPConnection):
    pass


class _Secure(_Bounded, HTTPSConnection):
    pass


class _Response(http.client.HTTPResponse):
    def __init__(self, limit: Limit, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.limit = limit
        self.fp.close()
        self.fp: Any = io.BufferedReader(_Reader(sock, limit))


class _Reader(io.RawIOBase):
    """The socket's bytes, each read within what is left."""

    def __init__(self, sock: Any, limit: Limit) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._limit.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
