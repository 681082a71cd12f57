"""Calls of a local server: one kept-alive connection a thread, and its answers as errors."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from cloudai._core.numerals import numeral
from cloudai.errors import (
    AuthenticationError,
    CallTimeout,
    CloudAIError,
    ConnectionFailed,
    HandlerError,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServiceUnavailable,
)

IDLE: Final = 60.0
"""Seconds after which a connection is not used again; the server closes one after 75."""


class Answer(NamedTuple):
    """A server's answer, whatever its status."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Place(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    tls: bool = False


class _Kept(dict["Place", "tuple[http.client.HTTPConnection, float]"]):
    """A thread's connections, each with when it was last used; closed when the thread ends."""

    def __init__(self) -> None:
        super().__init__()
        self.pid = os.getpid()

    def __del__(self) -> None:
        # In a forked child this closes its descriptors only; the parent's stay open.
        for connection, _ in self.values():
            connection.close()


class Connections:
    """Connections to local servers; each thread has its own, and so has a forked process."""

    def __init__(self) -> None:
        self._local = threading.local()

    def post(
        self, place: Place, path: str, headers: dict[str, str], body: bytes, timeout: float
    ) -> Answer:
        """One request.

        A connection that the server had closed while it was idle is opened anew, once.
        Raises ConnectionFailed and CallTimeout.
        """
        kept = self._kept()
        found = kept.pop(place, None)
        connection, fresh = None, False
        if found is not None and time.monotonic() - found[1] < IDLE:
            connection = found[0]
        elif found is not None:
            found[0].close()
        while True:
            if connection is None:
                connection, fresh = _open(place, timeout), True
            try:
                if connection.sock is not None:
                    connection.sock.settimeout(timeout)
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
                answer = Answer(response.status, response.headers, response.read())
            except TimeoutError:
                connection.close()
                raise _late(timeout) from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if fresh:
                    raise ConnectionFailed(
                        f"the connection to {place.host}:{place.port} broke ({error})",
                        provider="local",
                        ambiguous=not isinstance(error, ConnectionRefusedError),
                    ) from error
                connection = None
                continue
            if response.will_close:
                connection.close()
            else:
                kept[place] = (connection, time.monotonic())
            return answer

    def close(self) -> None:
        """Closes this thread's connections."""
        kept = self._kept()
        while kept:
            kept.popitem()[1][0].close()

    def _kept(self) -> _Kept:
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is None or kept.pid != os.getpid():
            kept = self._local.kept = _Kept()
        return kept


def stream(
    place: Place, path: str, headers: dict[str, str], body: bytes, timeout: float
) -> tuple[Answer, Iterator[bytes]]:
    """The answer's head, and its body in the pieces in which it comes, over a connection of its
    own. Raises ConnectionFailed and CallTimeout, also from the pieces."""
    connection = _open(place, timeout)

    def failed(error: Exception) -> CloudAIError:
        connection.close()
        if isinstance(error, TimeoutError):
            return _late(timeout)
        return ConnectionFailed(
            f"the connection to {place.host}:{place.port} broke ({error})", provider="local",
            ambiguous=not isinstance(error, ConnectionRefusedError),
        )  # fmt: skip

    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise failed(error) from error

    def pieces() -> Iterator[bytes]:
        try:
            while piece := response.read1(1 << 16):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise failed(error) from error
        finally:
            connection.close()

    return Answer(response.status, response.headers, b""), pieces()


def _late(timeout: float) -> CallTimeout:
    return CallTimeout(
        f"the endpoint gave no answer within {numeral(round(timeout, 3))} s",
        provider="local",
        ambiguous=True,
    )


def _open(place: Place, timeout: float) -> http.client.HTTPConnection:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.host, place.host)  # noqa: S104
    if not place.tls:
        return http.client.HTTPConnection(host, place.port, timeout=timeout)
    context = ssl.create_default_context()
    # The server is a process of ours on this machine; its certificate names its public host.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, place.port, timeout=timeout, context=context)


def error_of(answer: Answer) -> CloudAIError:
    """The error that an answer tells."""
    message, kind = _read(answer.body)
    about: dict[str, Any] = {
        "provider": "local",
        "status": answer.status,
        "request_id": answer.headers.get("x-request-id"),
    }
    try:
        retry_after = float(answer.headers.get("retry-after", ""))
    except ValueError:
        retry_after = None
    status = answer.status
    if kind in ("HandlerError", "NotFinite"):
        return HandlerError(message, code=None if kind == "HandlerError" else kind, **about)
    if status == 429:
        return RateLimited(message, retry_after=retry_after, **about)
    if status == 401:
        return AuthenticationError(message, **about)
    if status == 404:
        return NotFound(message, **about)
    if status in (408, 504):
        return CallTimeout(message, **about)
    if status < 500:
        return InvalidRequest(message, **about)
    return ServiceUnavailable(message, retry_after=retry_after, **about)


def _read(body: bytes) -> tuple[str, str]:
    try:
        error = msgspec.json.decode(body)["error"]
        return str(error["message"]), str(error.get("type", ""))
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError):
        return body[:200].decode("utf-8", "replace"), ""


def control(path: str, message: bytes, timeout: float) -> bytes:
    """Sends one line to a server's control socket and gives its line. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout)
        link.connect(path)
        link.sendall(message + b"\n")
        parts: list[bytes] = []
        while not parts or not parts[-1].endswith(b"\n"):
            part = link.recv(1 << 16)
            if not part:
                break
            parts.append(part)
    return b"".join(parts)
