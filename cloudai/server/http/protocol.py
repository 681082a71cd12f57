"""HTTP/1.1 on a connection.

Ours, since it is the hot path of a request: a parser in C (httptools), one task a request, one
write an answer, and one timer a connection, which no request starts or stops. Every wait for a
client has an end: for its head, its body, its next request, and for it to read its answer.

Longer than other modules: a connection is one state machine.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from collections import deque
from http import HTTPStatus
from typing import Final, Protocol, cast
from urllib.parse import unquote

import httptools

from cloudai.server.http.errors import Gone
from cloudai.server.http.messages import Headers, Request, Response, Service

MAX_HEAD: Final = 64 << 10
"""Bytes of a request's line and headers; of what stands between two pieces of a body, and after
it, too (extensions of chunks, trailers)."""

MAX_LIST: Final = 8 << 10
"""Bytes of a header that is repeated: each repetition copies what came before it."""

HEAD_TIMEOUT: Final = 30.0
"""Seconds for them to come."""

KEEP_ALIVE: Final = 75.0
"""Seconds that a connection may wait for its next request. Longer than the 60 of the clouds'
load balancers, so that it is they who close an idle connection."""

READ_AHEAD: Final = 64 << 10
"""Bytes of a body that are taken before somebody asks for it."""

_STATUS: Final = {
    int(one): b"HTTP/1.1 %d %b\r\n" % (one, one.phrase.encode()) for one in HTTPStatus
}
_VERSION: Final = b"HTTP/1.1 "
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_ACKED: Final = 120
"""Where ``tcpi_bytes_acked`` stands in Linux' ``struct tcp_info`` (tcp.h; 4.1 and later)."""


class _NotTakenError(Exception):
    """A head that the parser takes and we do not."""

    def __init__(self, status: int, text: bytes) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Listening(Protocol):
    """What a connection asks of the server that took it.

    Attributes
    ----------
    app: answers. connections: those that are open. stopping: True takes no further request.
    tick: seconds between two looks at the deadlines of a connection.
    """

    app: Service
    loop: asyncio.AbstractEventLoop
    connections: set[Connection]
    stopping: bool
    tick: float

    def left(self, connection: Connection) -> None:
        """The connection is over, and its last request too."""

    def date(self) -> bytes:
        """The line with the date (RFC 9110, 6.6.1)."""
        ...


class Connection(asyncio.Protocol):
    """One connection: takes requests one after the other, those that come early wait."""

    def __init__(self, server: Listening) -> None:
        self._server = server
        self._loop = server.loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._scheme = "http"
        # The request that is being answered, the one that is being read, and those between.
        self._current: Request | None = None
        self._incoming: Request | None = None
        self._early: deque[tuple[Request, bool, bool, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._keep_alive = True
        self._expects = False  # the client waits for "100 Continue"
        self._old = False  # it speaks HTTP/1.0
        self._chunked = False
        self._begun = False
        self._probed = False  # the first bytes of the answer have gone out before it
        self._deaf = False  # nothing more is taken
        self._ended = False  # the client has closed its side
        self._lingers = False
        self._lost = False
        # Of the head that is being read, how many bytes came that are not of a body, and how many
        # of a head and its trailers.
        self._in_head = False
        self._head = 0
        self._size = 0
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        # When to end a wait, in the loop's time, and the one for a client that does not read.
        self._deadline = math.inf
        self._write_deadline = math.inf
        self._unread = 0
        self._acked = 0
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        self._server.connections.add(self)
        self._deadline = self._loop.time() + HEAD_TIMEOUT
        self._timer = self._loop.call_later(self._server.tick, self._check)
        if self._server.stopping:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._incoming is None and not self._in_head:
            self._in_head, self._head = True, 0
            if self._current is None:
                self._deadline = self._loop.time() + HEAD_TIMEOUT
        self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._wrong(error)
        # Whether a head has ended, or a body came, this very data may have told.
        if self._head > MAX_HEAD and not self._deaf:
            self._refuse(431, b"The request has more than %d bytes beside its body." % MAX_HEAD)

    def _stay(self, rest: memoryview) -> None:
        """No other protocol is spoken here, so a request to go over to one is taken as any other
        (RFC 9110, 7.8). Its parser takes no body of it: a new one is told the same head without
        the wish."""
        while True:
            method, headers = self._parser.get_method(), self._headers
            if method == b"CONNECT":
                return self._last()  # answered as any other; what follows is for somebody else
            headers.pop(b"upgrade", None)
            head = b"%b %b HTTP/%b\r\n%b\r\n" % (
                method, self._url, self._parser.get_http_version().encode(),
                b"".join([b"%b: %b\r\n" % one for one in headers.items()]),
            )  # fmt: skip
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head)
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                return self._wrong(error)
            else:
                return None

    def _wrong(self, error: httptools.HttpParserError) -> None:
        ours = error.__context__
        if isinstance(ours, _NotTakenError):
            self._refuse(ours.status, ours.text)
        else:
            self._refuse(400, b"This is no request in HTTP/1.1.")

    def eof_received(self) -> bool:
        """The client has closed its side; or all of it, which TCP does not tell apart. A request
        that came whole is answered still. Over TLS the transport closes itself in any case."""
        current = self._current
        if current is None or not current.ended or self._scheme == "https":
            return False
        if not self._ended:
            self._ended = True
            if self._incoming is not None:  # its rest will never come
                self._early.pop()
                self._incoming = None
            if not self._early:
                self._keep_alive = False
            if not self._begun:
                # A machine whose program has left answers these with a reset; to any other
                # client they are how every answer begins.
                self._probed = True
                self._transport.write(_VERSION)
                self._end_if_reset(current, 0.01)
        return True

    def _end_if_reset(self, request: Request, after: float) -> None:
        """Ends the connection, and so the request, if a reset has come."""
        if request is not self._current or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        else:
            self._loop.call_later(after, self._end_if_reset, request, min(2 * after, 1.0))

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()
        self._awaits_reading()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._write_deadline = math.inf
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        if self._current is None and not self._deaf:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._deaf = True
        if self._timer is not None:
            self._timer.cancel()
        self._early.clear()
        for request in (self._current, self._incoming):
            if request is not None:
                request.lost()
        self.resume_writing()
        if self._task is None:
            self._server.left(self)

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._size = 0
        self._url = b""
        self._headers = {}  # what stood in it are trailers, which no request is told

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value) + 4)
        name = name.lower()
        headers = self._headers
        if name in headers:
            if name == b"host":  # RFC 9112, 3.2
                raise _NotTakenError(400, b"The request has two Host headers.")
            value = b"%b, %b" % (headers[name], value)  # RFC 9110, 5.3
            if len(value) > MAX_LIST:
                raise _NotTakenError(431, b"A header that is repeated is too large.")
        headers[name] = value

    def _grow(self, count: int) -> None:
        self._size += count
        if self._size > MAX_HEAD:
            raise _NotTakenError(431, b"The request's head has more than %d bytes." % MAX_HEAD)

    def on_headers_complete(self) -> None:
        parser, url, headers = self._parser, self._url, self._headers
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            return  # once more, by another parser
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise _NotTakenError(505, b"The versions that are taken are HTTP/1.1 and HTTP/1.0.")
        if version == "1.1" and b"host" not in headers:  # RFC 9112, 3.2
            raise _NotTakenError(400, b"The request has no Host header.")
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.strip().lower() != b"chunked":  # RFC 9112, 6.1
            raise _NotTakenError(501, b"The only transfer coding that is taken is chunked.")
        self._in_head, self._head, self._headers = False, 0, {}
        if url[:1] != b"/" or b"?" in url or b"#" in url:
            url = httptools.parse_url(url).path or b"/"
        path = url.decode("ascii")
        if "%" in path:
            path = unquote(path)
        method = parser.get_method().decode("ascii")
        request = Request(
            method, path, headers, self, self._server.app.limits, self._server.app.intake,
            self._loop.time(),            self._scheme,
        )  # fmt: skip
        old = version != "1.1"
        keep = not old and parser.should_keep_alive()
        expects = not old and headers.get(b"expect", b"").lower() == b"100-continue"
        self._incoming = request
        if self._current is None:
            self._start(request, keep, expects, old)
        else:
            self._early.append((request, keep, expects, old))
            self._pause()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        request = self._incoming
        if request is not None and (request is self._current or self._early):
            request.feed(body)
            if request.size > READ_AHEAD and not request.waiting:
                self._pause()

    def on_message_complete(self) -> None:
        request, self._incoming = self._incoming, None
        if request is None:
            return  # its head is about to come once more
        request.end()
        if request is self._current:
            self._expects = False  # it sent its body without being told to
        self._in_head, self._head = False, 0
        if self._current is None and not self._deaf:
            # What was left of a body whose answer went out before it had come.
            self._deadline = self._loop.time() + KEEP_ALIVE

    # What the request asks.

    def want_body(self) -> None:
        if self._expects:
            self._expects = False
            self._transport.write(_CONTINUE)
        self._resume()

    def break_off(self) -> None:
        self._last()
        if self._old:
            self._transport.abort()  # a mere close would be the end of a whole answer
        else:
            self._close()

    # The answer.

    def whole(self, response: Response, headers: Headers) -> None:
        if self._lost:
            raise Gone
        headers.append((b"content-length", b"%d" % len(response.body)))
        head = self._head_of(response, headers)
        body = response.body
        if not body or self._is_head():
            self._transport.write(head)
        elif len(body) < 1 << 14:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def begin(self, response: Response, headers: Headers) -> None:
        if self._lost:
            raise Gone
        if not self._old:
            self._chunked = not self._is_head()
            headers.append((b"transfer-encoding", b"chunked"))
        self._transport.write(self._head_of(response, headers))

    async def piece(self, data: bytes) -> None:
        if self._writable is not None:
            await self._writable
        # A transport that failed takes pieces in silence until the loop's next turn.
        if self._lost or self._transport.is_closing():
            raise Gone
        if data and self._chunked:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif not self._is_head():
            self._transport.write(data)

    def end(self) -> None:
        if self._chunked and not self._lost:
            self._transport.write(b"0\r\n\r\n")

    def _head_of(self, response: Response, headers: Headers) -> bytes:
        self._begun = True
        if self._expects or self._server.stopping:
            # A client that was not told to go on may or may not send its body.
            self._keep_alive = False
        if not self._keep_alive:
            headers.append((b"connection", b"close"))
        status = _STATUS[response.status]
        if self._probed:
            status = self._rest_of(status)
        return b"%b%bcontent-type: %b\r\n%b\r\n" % (
            status, self._server.date(), response.content_type,
            b"".join([b"%b: %b\r\n" % one for one in headers]),
        )  # fmt: skip

    def _rest_of(self, status: bytes) -> bytes:
        """The line of a status without what has gone out of it."""
        self._probed = False
        return status[len(_VERSION) :]

    def _is_head(self) -> bool:
        return self._current is not None and self._current.method == "HEAD"

    # One request after the other.

    def _start(self, request: Request, keep_alive: bool, expects: bool, old: bool) -> None:
        self._current = request
        self._keep_alive = keep_alive and not (self._ended and not self._early)
        self._expects = expects and not request.ended
        self._old = old
        self._begun = self._chunked = False
        self._deadline = math.inf
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.app.serve(request, self)
        except asyncio.CancelledError:
            self._keep_alive = False
            if self._begun:
                self._transport.abort()
            elif not self._lost:
                self._last()
                self._transport.write(self._plain(503, b"The server is stopping."))
        except Exception as error:  # noqa: BLE001 (ours; the app answers its own)
            sys.excepthook(type(error), error, error.__traceback__)
            self._last()
            self._transport.abort()
        self._task = None
        self._answered()

    def _answered(self) -> None:
        self._current = None
        if self._lost:
            self._server.left(self)
        elif self._keep_alive:
            self._next()
        elif not self._lingers:
            self._last()
            self._close()

    def _next(self) -> None:
        """The next request, but from a client that does not read its answers."""
        if self._writable is not None:
            self._pause()
        elif self._early and not self._transport.is_closing():
            self._start(*self._early.popleft())
        else:
            self._resume()
            # A body that nobody wanted is read to its end and thrown away.
            rest = KEEP_ALIVE if self._incoming is None else self._server.app.limits.body_timeout
            self._deadline = self._loop.time() + rest

    def shutdown(self) -> None:
        """Ends the connection after the request that is under way."""
        if self._current is None:
            self._last()
            self._close()
        else:
            self._keep_alive = False
            self._early.clear()

    def cancel(self) -> None:
        """Ends it at once."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._transport.abort()

    def _last(self) -> None:
        """Nothing more is taken from the client."""
        self._deaf = True
        self._keep_alive = False
        self._early.clear()

    def _refuse(self, status: int, text: bytes) -> None:
        """Ends the connection over what is no request; after the answer that is under way, whose
        client would take this one for it, and without one to a request that has its answer."""
        self._last()
        if self._current is None:
            if self._incoming is None:
                self._transport.write(self._plain(status, text))
            self._close()
        elif self._current is self._incoming:
            self._current.spoil(text.decode())

    def _plain(self, status: int, text: bytes) -> bytes:
        line = self._rest_of(_STATUS[status]) if self._probed else _STATUS[status]
        return b"%b%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % (
            line, self._server.date(), len(text),
        ) + b"connection: close\r\n\r\n" + text  # fmt: skip

    def _close(self) -> None:
        """Closes, once what is written has gone out, to a client that reads it."""
        transport = self._transport
        unread = self._incoming is not None and not self._lingers
        if unread and not transport.is_closing() and transport.can_write_eof():
            # To close before a client has sent all would reset the connection, and lose the
            # answer on its way (RFC 9112, 9.6): the rest is read and thrown away for a while.
            self._lingers = True
            transport.write_eof()
            self._resume()
            self._deadline = self._loop.time() + self._server.app.limits.body_timeout
            return
        if not transport.is_closing():
            transport.close()
        self._deadline = math.inf
        self._awaits_reading()

    def _awaits_reading(self) -> None:
        self._unread = sys.maxsize
        self._write_deadline = self._loop.time() + self._server.app.limits.write_timeout

    def _reads(self) -> bool:
        """Whether the client has read anything since it was asked last. Of what waits below TLS
        its transport does not tell; the kernel tells what has arrived."""
        before, self._unread = self._unread, self._transport.get_write_buffer_size()
        acked, self._acked = self._acked, _acked(self._transport)
        return self._unread < before or self._acked > acked

    def _pause(self) -> None:
        if not self._paused and not self._lost:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._lost:
            self._paused = False
            self._transport.resume_reading()

    def _check(self) -> None:
        """Ends a wait that is over. Asks each tick, so that a request moves a number and no
        timer; no deadline is nearer than a tick when it is set."""
        now = self._loop.time()
        if now >= min(self._deadline, self._write_deadline):
            if self._writable is None and not self._transport.is_closing():
                self._last()
                self._close()
            elif self._reads():
                self._write_deadline = now + self._server.app.limits.write_timeout
            else:
                self._transport.abort()
                return
        soonest = min(now + self._server.tick, self._deadline, self._write_deadline)
        self._timer = self._loop.call_at(soonest, self._check)


def _acked(transport: asyncio.Transport) -> int:
    """How many bytes the client's machine has taken; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    sock = transport.get_extra_info("socket")
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED + 8)
    except OSError:  # closed, or no socket of TCP
        return 0
    return int.from_bytes(told[_ACKED:], sys.byteorder)
