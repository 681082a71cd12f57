"""A server with canned answers, in a process of its own: what it costs to ask is then the
client's cost alone.

``python _canned.py _chat_azure`` takes the answers from ``respond(path, body)`` of that module,
which gives a whole HTTP answer as bytes, and prints the port. Loopback only; it never logs.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

Respond = Callable[[str, bytes], bytes]


def whole(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    """An answer with its length."""
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nx-request-id: canned\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def chunked(parts: list[bytes], content_type: str) -> bytes:
    """An answer in chunks, as streams come."""
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nx-request-id: canned\r\n"
        "transfer-encoding: chunked\r\n\r\n"
    )
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head.encode() + body + b"0\r\n\r\n"


def json_body(value: object) -> bytes:
    return json.dumps(value).encode()


class Canned(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; requests with a length or in chunks."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            if b"transfer-encoding: chunked" in head:
                taken = self._chunks(end + 4)
                if taken is None:
                    return
                body, after = taken
            else:
                at = head.find(b"content-length:")
                size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                after = end + 4 + size
                if len(self._buffer) < after:
                    return
                body = self._buffer[end + 4 : after]
            path = self._buffer.split(b" ", 2)[1].decode()
            self._buffer = self._buffer[after:]
            assert self._transport is not None
            self._transport.write(self._respond(path, body))

    def _chunks(self, at: int) -> tuple[bytes, int] | None:
        body = b""
        while True:
            line = self._buffer.find(b"\r\n", at)
            if line < 0:
                return None
            size = int(self._buffer[at:line], 16)
            at = line + 2 + size + 2
            if len(self._buffer) < at:
                return None
            if size == 0:
                return body, at
            body += self._buffer[line + 2 : line + 2 + size]


async def main(module: str) -> None:
    respond: Respond = importlib.import_module(module).respond
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Canned(respond), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The benchmark ends it by closing its input.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    asyncio.run(main(sys.argv[1]))
