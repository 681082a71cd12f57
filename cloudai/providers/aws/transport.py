"""The one way to the network: a urllib3 pool with a time limit for each request.

botocore fixes its time limits when a client is made, and pays for them in layers; here every
request is sent with what is left of its call's deadline, over connections that all clients of a
session share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.httpsession import create_urllib3_context, get_cert_path
from urllib3 import exceptions as http

from cloudai.errors import CallTimeout, CloudAIError, ConnectionFailed

CONNECTIONS: Final = 128
"""Connections kept open to one host; as many as there are worker threads."""
CONNECT: Final = 10.0
"""Seconds for making a connection, at most."""
QUIET: Final = 60.0
"""Seconds without a byte before a request without a deadline is given up."""

remaining: Final[ContextVar[Callable[[], float] | None]] = ContextVar("remaining", default=None)
"""Gives the seconds left to the call that botocore's request belongs to."""

_NO_RETRY: Final = urllib3.Retry(False)


class Pool:
    """Connections to any number of hosts.

    Parameters
    ----------
    verify: True, False, or the path of a CA bundle. proxies: scheme → the proxy's URL.
    """

    def __init__(self, verify: bool | str | None, proxies: Mapping[str, str]) -> None:
        self._verify = verify
        self._proxies = dict(proxies)
        self._hosts: dict[str, Any] = {}
        self._managers: list[urllib3.PoolManager] = []

    def host(self, base: str) -> Any:
        """The connection pool of ``scheme://host:port``."""
        found = self._hosts.get(base)
        if found is None:
            proxy = self._proxies.get(base.partition(":")[0])
            found = self._hosts[base] = self._manager(proxy).connection_from_url(base)
        return found

    def _manager(self, proxy: str | None) -> urllib3.PoolManager:
        keys: dict[str, Any] = {"maxsize": CONNECTIONS, "num_pools": 64}
        if self._verify is False:
            keys["ssl_context"] = create_urllib3_context(cert_reqs=0)  # ssl.CERT_NONE
            keys["assert_hostname"] = False
        else:
            keys["ssl_context"] = create_urllib3_context()
            keys["ca_certs"] = get_cert_path(True if self._verify is None else self._verify)
        made = urllib3.PoolManager(**keys) if proxy is None else urllib3.ProxyManager(proxy, **keys)
        self._managers.append(made)
        return made

    def send(
        self,
        method: str,
        base: str,
        target: str,
        headers: Mapping[str, str],
        body: Any,
        seconds: float,
        *,
        stream: bool = False,
        chunked: bool = False,
    ) -> Any:
        """Sends one request. Raises ConnectionFailed or CallTimeout, ``ambiguous`` where the
        request may have arrived."""
        try:
            return self.host(base).urlopen(
                method,
                target,
                body,
                headers,
                _NO_RETRY,
                False,  # redirect
                False,  # assert_same_host
                urllib3.Timeout(connect=min(seconds, CONNECT), read=seconds),
                preload_content=not stream,
                decode_content=False,
                chunked=chunked,
            )
        except http.HTTPError as error:
            raise failure(error, base) from error

    def close(self) -> None:
        for manager in self._managers:
            manager.clear()
        self._managers.clear()
        self._hosts.clear()


def failure(error: Exception, base: str) -> CloudAIError:
    """What a failure of the transport means."""
    cause: Any = getattr(error, "reason", None) or error
    if isinstance(cause, (http.ConnectTimeoutError, http.NewConnectionError)):
        return ConnectionFailed(
            f"no connection to {base} could be made ({type(cause).__name__})", provider="aws"
        )
    if isinstance(cause, http.ProxyError):
        return ConnectionFailed(f"the proxy on the way to {base} failed", provider="aws")
    if isinstance(cause, http.SSLError):
        return ConnectionFailed(
            f"the TLS handshake with {base} failed ({cause})",
            provider="aws",
            hint="For a CA of your own, name its bundle in AWS_CA_BUNDLE",
        )
    if isinstance(cause, http.ReadTimeoutError):
        return CallTimeout(f"{base} did not answer in time", provider="aws", ambiguous=True)
    return ConnectionFailed(
        f"the connection to {base} broke ({cause})", provider="aws", ambiguous=True
    )


class BotocoreSession:
    """The pool, as botocore's clients want their HTTP session."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        left = remaining.get()
        seconds = QUIET if left is None else left()
        parts = urlsplit(str(request.url))
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        base = f"{parts.scheme}://{parts.netloc}"
        headers = {name: _text(value) for name, value in request.headers.items()}
        # http.client sends a body at once; the pause that Expect asks for has no use then.
        headers.pop("Expect", None)
        raw = self._pool.send(
            str(request.method),
            base,
            target,
            headers,
            request.body,
            seconds,
            stream=True,
            chunked=headers.get("Transfer-Encoding") == "chunked",
        )
        response = AWSResponse(request.url, raw.status, raw.headers, raw)
        if not request.stream_output:
            try:
                response.content  # noqa: B018 - read here, where failures are told apart
            except http.HTTPError as error:
                raise failure(error, base) from error
        return response

    def close(self) -> None:
        """The pool is closed by the session that owns it."""


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
