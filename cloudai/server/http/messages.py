"""Requests and answers, bounded in size and time, whatever carries them: our own protocol
(``protocol.py``) or another ASGI server (``asgi.py``)."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from cloudai._core.numerals import numeral
from cloudai.server.config import Limits
from cloudai.server.http.errors import Gone, HTTPError
from cloudai.server.http.intake import QUICK, Intake

T = TypeVar("T")

Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON_TYPE: Final = b"application/json"
SMALL: Final = 1 << 10
"""Bytes below which a further piece of a body is joined to those before it: a client chooses how
many there are, and each by itself takes dozens of bytes more."""

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
_prefix = os.urandom(5).hex()
_numbers = itertools.count(1)

# What no header may hold: it would end the line, or the head.
_UNSAFE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def header_value(text: str) -> bytes:
    """A text as the value of a header; what cannot stand in one becomes a question mark."""
    return _UNSAFE.sub(b"?", text.encode("latin-1", "replace"))


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


class Link(Protocol):
    """What a request asks of the connection that it came over."""

    def want_body(self) -> None:
        """Reads on: the rest of the body is waited for."""

    def break_off(self) -> None:
        """Closes the connection without the end of the answer."""


class Reply(Protocol):
    """Takes an answer: whole, or begun, in pieces, and ended. The headers are all but the
    transport's own. Raises Gone when the client has left."""

    def whole(self, response: Response, headers: Headers) -> None: ...
    def begin(self, response: Response, headers: Headers) -> None: ...
    async def piece(self, data: bytes) -> None:
        """Waits while the client reads too slowly."""

    def end(self) -> None: ...


class Request:
    """One request. ``model``, ``variant``, ``version`` and ``items`` are filled in for the access
    log; ``span`` is OpenTelemetry's, where it is traced.

    Parameters
    ----------
    method, path: as text, the path without its escapes. headers: names in lower case.
    link: the connection. limits: what a request may take; intake: what all of them may.
    started: in the loop's time. scheme: ``http`` or ``https``.
    """

    __slots__ = (
        "_asked", "_held", "_intake", "_limits", "_link", "_pieces", "_spoiled", "_waiter", "ended",
        "gone", "headers", "id", "items", "loopback", "method", "model", "path", "scheme", "size",
        "span", "started", "variant", "version",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[bytes, bytes],
        link: Link,
        limits: Limits,
        intake: Intake,
        started: float,
        scheme: str = "http",
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.scheme = scheme
        self.started = started
        self.model = ""
        self.variant = ""
        self.version = ""
        self.items = 0
        self.span: Any = None
        # Whether another server than ours, which asks no guard itself, was reached on loopback.
        self.loopback = False
        # Whether the client has left, as far as the server can tell without a wait; how many
        # bytes of the body have come, and whether it is whole.
        self.gone = False
        self.size = 0
        self.ended = False
        self._limits = limits
        self._intake = intake
        self._link = link
        self._pieces: list[bytes | bytearray] = []
        self._spoiled: HTTPError | None = None
        self._asked = False
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        given = headers.get(b"x-request-id")
        self.id: str = (
            given.decode()
            if given is not None and REQUEST_ID.match(given)
            else f"{_prefix}-{next(_numbers):x}"
        )

    def feed(self, data: bytes) -> None:
        """A piece of the body has come."""
        if self._asked:
            try:
                self._hold(len(data))
            except HTTPError as error:
                self._pieces, self._spoiled = [], error
                self._wake()
                return
        pieces = self._pieces
        if not pieces or len(data) >= SMALL:
            pieces.append(data)
        elif isinstance(last := pieces[-1], bytearray):
            last += data
        else:
            pieces.append(bytearray(data))
        self.size += len(data)
        self._wake()

    def end(self) -> None:
        """The body is whole."""
        self.ended = True
        self._wake()

    def spoil(self, text: str) -> None:
        """The rest of the body cannot be read."""
        self._spoiled = HTTPError(400, text)
        self._wake()

    def lost(self) -> None:
        """The client has left; nobody reads an answer."""
        self.gone = True
        self._wake()

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for more of the body."""
        return self._waiter is not None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def content_type(self) -> str:
        """The media type without its parameters. A body of which none is said is no JSON (RFC
        9110, 8.3, allows to take it as application/octet-stream): a page of another origin may
        send one without a question asked."""
        said = self.headers.get(b"content-type", b"")
        if said == JSON_TYPE:
            return "application/json"
        plain = said.decode("latin-1").partition(";")[0].strip().lower()
        return plain or "application/octet-stream"

    @property
    def accept(self) -> str:
        """The first media type that the caller accepts, without parameters; "" for any."""
        if b"accept" not in self.headers:
            return ""
        first = self.header(b"accept").partition(",")[0].partition(";")[0].strip().lower()
        return "" if first == "*/*" else first

    def break_off(self) -> None:
        """Closes the connection without the end of the answer, so that the client's own HTTP
        library tells that the answer is not whole."""
        self.gone = True
        self._link.break_off()

    def has_left(self) -> bool:
        return self.gone

    @property
    def deadline(self) -> float:
        """When an answer is of no more use, in the loop's time: the server's limit, or the
        shorter one of the header ``X-Cloudai-Timeout``, in seconds."""
        seconds = self._limits.timeout
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
        """The whole body, unpacked if it came as gzip. It is given once, and not kept.

        Raises HTTPError: 413 past the limit, 408 when it takes too long, 415 for another coding,
        429 when too much is held already.
        """
        limit = self._limits.body
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > limit):
            raise self._too_large()
        self._asked = True
        self._hold(self.size)
        if not self.ended:  # most bodies come with their heads: that path takes no timer
            await self._rest()
        if self._spoiled is not None:
            raise self._spoiled
        if self.size > limit:
            raise self._too_large()
        pieces, self._pieces = self._pieces, []
        body = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        coding = self.headers.get(b"content-encoding", b"").strip().lower()
        if coding in (b"", b"identity"):
            return body
        if coding not in (b"gzip", b"x-gzip"):  # the same (RFC 9110, 8.4.1.3)
            raise HTTPError(
                415, f"the content encoding {coding.decode('latin-1')!r} is not gzip or identity"
            )
        whole = await self._intake.unpack(body, limit)
        self._held += len(whole)
        return whole

    async def read(self, parse: Callable[..., T], *arguments: Any) -> T:
        """What ``parse`` makes of the body and ``arguments``; a large one is read off the event
        loop. Raises HTTPError as ``body`` and ``parse`` do."""
        body = await self.body()
        if len(body) <= QUICK:
            return parse(body, *arguments)
        return await self._intake.apart(parse, body, *arguments)

    async def apart(self, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function over ``size`` bytes, off the event loop where they are many."""
        if size <= QUICK:
            return function(*arguments)
        return await self._intake.apart(function, *arguments)

    def release(self) -> None:
        """The request is answered: what was held for it is not any more."""
        self._asked = False
        self._pieces = []
        self._intake.give(self._held)
        self._held = 0

    def _hold(self, count: int) -> None:
        self._intake.take(count)
        self._held += count

    async def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        self._link.want_body()
        try:
            async with asyncio.timeout_at(self.started + self._limits.body_timeout):
                while not self.ended:
                    if self.gone:
                        raise Gone
                    if self._spoiled is not None:
                        raise self._spoiled
                    if self.size > self._limits.body:
                        raise self._too_large()
                    self._waiter = loop.create_future()
                    await self._waiter
        except TimeoutError:
            raise self._too_slow() from None
        finally:
            self._waiter = None

    def _too_large(self) -> HTTPError:
        return HTTPError(413, f"the body has more than {self._limits.body} bytes")

    def _too_slow(self) -> HTTPError:
        seconds = numeral(self._limits.body_timeout)
        return HTTPError(408, f"the body did not come within {seconds} seconds")


class Service(Protocol):
    """What answers: the app."""

    @property
    def limits(self) -> Limits: ...
    @property
    def intake(self) -> Intake: ...

    async def serve(self, request: Request, reply: Reply) -> None:
        """Answers one request. Raises CancelledError alone."""


_CODES: Final = {
    401: "invalid_api_key", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    413: "request_too_large", 415: "unsupported_media_type", 422: "invalid_value",
    429: "rate_limit_exceeded", 503: "service_unavailable", 504: "timeout",
}  # fmt: skip
"""By status, what clients of OpenAI tell errors by. Of 400 the field and the error's class say
more."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_about(request: Request | None, status: int, error: BaseException) -> dict[str, Any]:
    """An error in OpenAI's form (its description's Error, 2026-11): ``param`` and ``code`` are a
    text or null. On OpenAI's own routes ``type`` is one of its words, on others the class."""
    kind = getattr(error, "type", None) or type(error).__name__
    field = getattr(error, "field", None) or None
    code = _CODES.get(status)
    if kind == "ContextOverflow":
        code = "context_length_exceeded"
    elif status == 404 and kind == "NotFound":
        code = "model_not_found"
    elif status == 400 and field:
        code = "invalid_value"
    if request is not None and request.path.startswith(("/v1/chat/", "/v1/embeddings")):
        kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    about = {"message": str(error), "type": kind, "param": field, "code": code}
    if request is not None:
        about["request_id"] = request.id
    return about


def error_body(request: Request | None, status: int, error: BaseException) -> bytes:
    """The answer that tells an error, in OpenAI's form; KServe's v2 has the text alone."""
    if request is not None and request.path.startswith("/v2"):
        return msgspec.json.encode({"error": str(error)})
    return msgspec.json.encode({"error": error_about(request, status, error)})
