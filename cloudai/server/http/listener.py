"""Listens for connections, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import time
from email.utils import formatdate
from typing import Final

from cloudai.server.http import protocol
from cloudai.server.http.messages import Service

_A_DAY: Final = 86400.0


class Server:
    """Listens, and ends in order.

    Parameters
    ----------
    app: answers. sockets: listening already. tls: None for plain HTTP.
    """

    def __init__(
        self, app: Service, sockets: list[socket.socket], tls: ssl.SSLContext | None = None
    ) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.connections: set[protocol.Connection] = set()
        self.stopping = False
        limits = app.limits
        self.tick = min(
            protocol.HEAD_TIMEOUT, protocol.KEEP_ALIVE, limits.body_timeout, limits.write_timeout
        )
        self._sockets = sockets
        self._tls = tls
        self._listening: list[asyncio.AbstractServer] = []
        self._empty: asyncio.Future[None] | None = None
        self._date = b""
        self._date_until = -math.inf

    async def start(self) -> None:
        """Takes connections from now on."""
        handshake, shutdown = None, None
        if self._tls is not None:
            # A connection asks itself whether its client still reads what is left of an answer.
            handshake, shutdown = protocol.HEAD_TIMEOUT, _A_DAY
        for sock in self._sockets:
            made = await self.loop.create_server(
                lambda: protocol.Connection(self), sock=sock, backlog=2048, ssl=self._tls,
                ssl_handshake_timeout=handshake, ssl_shutdown_timeout=shutdown,
            )  # fmt: skip
            self._listening.append(made)

    async def stop(self, patience: float) -> None:
        """Takes no more connections, lets what is under way end for ``patience`` seconds, then
        ends it."""
        self.stopping = True
        for one in self._listening:
            one.close()
        for sock in self._sockets:
            sock.close()
        for connection in list(self.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            await self._until_empty(patience)
        for connection in list(self.connections):
            connection.cancel()
        with contextlib.suppress(TimeoutError):
            await self._until_empty(1.0)

    async def _until_empty(self, patience: float) -> None:
        if self.connections:
            self._empty = self.loop.create_future()
            async with asyncio.timeout(patience):
                await self._empty

    def left(self, connection: protocol.Connection) -> None:
        """A connection is over, and its last request too."""
        self.connections.discard(connection)
        if not self.connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def date(self) -> bytes:
        """The line with the date (RFC 9110, 6.6.1), made once a second."""
        now = self.loop.time()
        if now >= self._date_until:
            self._date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
            self._date_until = now + 1.0
        return self._date


def tls_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """The TLS of a server, 1.2 at least; None without a certificate."""
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    return context


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
