"""Requests and answers over ASGI, bounded in size and time, and uvicorn's protocol with the two
bounds that ASGI cannot set: on the head's size and on its time."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cloudai.errors import CloudAIError
from cloudai.server.config import Limits

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON_TYPE: Final = b"application/json"
MAX_HEAD: Final = 64 << 10
"""Bytes of a request's line and headers."""

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
_prefix = os.urandom(5).hex()
_numbers = itertools.count(1)


class HTTPError(CloudAIError):
    """An answer other than 200, by its HTTP status."""

    def __init__(self, status: int, message: str, **about: Any) -> None:
        super().__init__(message, status=status, **about)


class Gone(Exception):
    """The client has left; nobody reads an answer."""


class Broken(Exception):
    """A streamed answer failed on its way: its connection is broken off."""


class Response:
    """A whole answer, or a stream of pieces."""

    __slots__ = ("body", "content_type", "headers", "status", "stream")

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        content_type: bytes = JSON_TYPE,
        headers: Headers | None = None,
        stream: AsyncGenerator[bytes, None] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers or []
        self.stream = stream


class Request:
    """One request. ``model``, ``variant`` and ``items`` are filled in for the access log;
    ``span`` is OpenTelemetry's, where it is traced."""

    __slots__ = (
        "_body", "_cycle", "_receive", "headers", "id", "items", "limits", "method", "model",
        "path", "scope", "span", "started", "variant", "version",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, started: float) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.limits = limits
        self.started = started
        self.model = ""
        self.variant = ""
        self.version = ""
        self.items = 0
        self.span: Any = None
        self._receive = receive
        self._body: bytes | None = None
        self._cycle = scope.get("cloudai.cycle")
        given = self.headers.get(b"x-request-id", b"")
        self.id: str = (
            given.decode() if REQUEST_ID.match(given) else f"{_prefix}-{next(_numbers):x}"
        )

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def content_type(self) -> str:
        """The media type without its parameters; JSON when none is said."""
        return self.header(b"content-type").partition(";")[0].strip().lower() or "application/json"

    @property
    def accept(self) -> str:
        """The first media type that the caller accepts, without parameters; "" for any."""
        first = self.header(b"accept").partition(",")[0].partition(";")[0].strip().lower()
        return "" if first == "*/*" else first

    def break_off(self) -> None:
        """Closes the connection without the end of the answer, so that the client's own HTTP
        library tells that the answer is not whole."""
        if self._cycle is not None:
            self._cycle.transport.close()
            self._cycle.disconnected = True  # uvicorn then expects no more of the answer

    def gone(self) -> bool:
        """Whether the client has left, as far as the server can tell without a wait."""
        return self._cycle is not None and self._cycle.disconnected

    @property
    def deadline(self) -> float:
        """When an answer is of no more use, in the loop's time: the server's limit, or the
        shorter one of the header ``X-Cloudai-Timeout``, in seconds."""
        seconds = self.limits.timeout
        given = self.headers.get(b"x-cloudai-timeout")
        if given is not None:
            try:
                asked = float(given)
            except ValueError:
                asked = -1.0
            if not asked > 0:
                raise HTTPError(400, "X-Cloudai-Timeout is not a number of seconds")
            seconds = min(seconds, asked)
        return self.started + seconds

    async def body(self) -> bytes:
        """The whole body, unpacked if it came as gzip.

        Raises HTTPError: 413 past the limit, 408 when it takes too long, 415 for another coding.
        """
        if self._body is None:
            self._body = await self._read_body()
        return self._body

    async def _read_body(self) -> bytes:
        limit = self.limits.body
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and (len(length) > 18 or int(length) > limit):
            raise self._too_large()
        message = await self._first()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            try:
                async with asyncio.timeout_at(self.started + self.limits.body_timeout):
                    while message.get("more_body"):
                        message = await self._receive()
                        if message["type"] == "http.disconnect":
                            raise Gone
                        parts.append(message.get("body", b""))
                        size += len(parts[-1])
                        if size > limit:
                            raise self._too_large()
            except TimeoutError:
                raise self._too_slow() from None
            body = b"".join(parts)
        if len(body) > limit:
            raise self._too_large()
        coding = self.headers.get(b"content-encoding", b"").strip().lower()
        return body if coding in (b"", b"identity") else self._unpack(body, coding)

    async def _first(self) -> MutableMapping[str, Any]:
        # Most bodies come with their heads: that path takes no timer.
        if self._cycle is None or not self._cycle.more_body or self._cycle.body:
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout_at(self.started + self.limits.body_timeout):
                    message = await self._receive()
            except TimeoutError:
                raise self._too_slow() from None
        if message["type"] == "http.disconnect":
            raise Gone
        return message

    def _unpack(self, body: bytes, coding: bytes) -> bytes:
        if coding != b"gzip":
            raise HTTPError(
                415, f"the content encoding {coding.decode('latin-1')!r} is not gzip or identity"
            )
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(body, self.limits.body + 1)
        except zlib.error as error:
            raise HTTPError(400, f"the body is not gzip ({error})") from None
        if len(data) > self.limits.body:
            raise self._too_large()
        if not unpacker.eof:
            raise HTTPError(400, "the body is not gzip (it ends too early)")
        return data

    def _too_large(self) -> HTTPError:
        return HTTPError(413, f"the body has more than {self.limits.body} bytes")

    def _too_slow(self) -> HTTPError:
        return HTTPError(408, f"the body did not come within {self.limits.body_timeout:g} seconds")


def error_body(request: Request | None, status: int, error: BaseException) -> bytes:
    """The answer that tells an error, in OpenAI's form; KServe's v2 has the text alone."""
    message = str(error)
    if request is not None and request.path.startswith("/v2"):
        return msgspec.json.encode({"error": message})
    about: dict[str, Any] = {
        "message": message,
        "type": getattr(error, "type", None) or type(error).__name__,
        "code": status,
    }
    for name in ("field",):
        if getattr(error, name, None):
            about["param"] = getattr(error, name)
    if request is not None:
        about["request_id"] = request.id
    return msgspec.json.encode({"error": about})


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol. Beside it: a head that is too large or too slow closes the connection,
    and the app can see that a client has left."""

    head_timeout: float = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(
            self.head_timeout, self._head_too_slow
        )

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_timeout, self._head_too_slow)
        super().data_received(data)
        # Whether the head has ended, this very data may have told.
        if self._in_head and self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response(f"The head of the request has more than {MAX_HEAD} bytes.")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        self._cancel_timer()
        self.scope["cloudai.cycle"] = self.cycle  # type: ignore[typeddict-unknown-key]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head = True, 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _cancel_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
