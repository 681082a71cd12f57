"""The app as an ASGI application, for other servers and for tests. Our own server does not go
this way (``protocol.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from cloudai.server.http.errors import Gone
from cloudai.server.http.guard import on_loopback
from cloudai.server.http.messages import Headers, Request, Response, Service

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def run(app: Service, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers one ASGI scope (version 3). Websockets are closed."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
    if scope["type"] != "http":
        return
    link = _Link(receive, send)
    request = Request(
        scope["method"],
        scope["path"],
        {name.lower(): value for name, value in scope["headers"]},
        link,
        app.limits,
        app.intake,
        asyncio.get_running_loop().time(),
        scope.get("scheme", "http"),
    )
    request.loopback = on_loopback(str((scope.get("server") or [""])[0]))
    reading = asyncio.ensure_future(link.read(request))
    try:
        await app.serve(request, link)
        await link.finish()
    finally:
        reading.cancel()


class _Link:
    """One request's way over ASGI. What can be said without a wait is sent with the next piece,
    or at the end."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._messages: list[MutableMapping[str, Any]] = []
        self._broken = False
        self._gone = False

    async def read(self, request: Request) -> None:
        while not self._gone:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                request.lost()
                continue
            request.feed(message.get("body", b""))
            if not message.get("more_body"):
                request.end()

    def want_body(self) -> None:
        """ASGI servers read on by themselves."""

    def break_off(self) -> None:
        # An ASGI server breaks the connection off after an app that raises.
        self._broken = True

    def whole(self, response: Response, headers: Headers) -> None:
        headers.append((b"content-length", b"%d" % len(response.body)))
        self.begin(response, headers)
        self._messages.append({"type": "http.response.body", "body": response.body})

    def begin(self, response: Response, headers: Headers) -> None:
        self._messages.append(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [(b"content-type", response.content_type), *headers],
            }
        )

    async def piece(self, data: bytes) -> None:
        self._messages.append({"type": "http.response.body", "body": data, "more_body": True})
        await self._flush()
        if self._gone:
            raise Gone

    def end(self) -> None:
        self._messages.append({"type": "http.response.body", "body": b""})

    async def finish(self) -> None:
        """Sends what is left. Raises ConnectionAbortedError for an answer that was broken off."""
        await self._flush()
        if self._broken:
            raise ConnectionAbortedError("the answer failed on its way")

    async def _flush(self) -> None:
        messages, self._messages = self._messages, []
        for message in messages:
            await self._send(message)
