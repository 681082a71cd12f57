"""AWS's event stream encoding (application/vnd.amazon.eventstream), read and written.

A message is: total length, header length, CRC of these; headers; payload; CRC of all. Headers are
name, type, value; only text values matter here. botocore's own reader copies its buffer and makes
several objects a message, which a chat stream of thousands of messages feels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from cloudai.errors import ConnectionFailed

_PRELUDE: Final = struct.Struct("!III")
_CRC: Final = struct.Struct("!I")
_LONGEST: Final = 24 * 1024 * 1024
"""Bytes of one message; botocore's limit is the same."""

# Header types (Smithy's event stream specification, read 2026-11): the size of each value.
_FIXED: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_TEXT: Final = 7


class Messages:
    """Cuts bytes into messages, however the network cut them."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
        """The text headers and the payload of each message that ``piece`` completes. Raises
        ConnectionFailed for damaged bytes."""
        buffer = self._rest + piece if self._rest else piece
        start, have = 0, len(buffer)
        while have - start >= 16:
            total, length, crc = _PRELUDE.unpack_from(buffer, start)
            if zlib.crc32(buffer[start : start + 8]) != crc or not 16 <= total <= _LONGEST:
                raise _damaged()
            if have - start < total:
                break
            end = start + total
            if zlib.crc32(buffer[start : end - 4]) != _CRC.unpack_from(buffer, end - 4)[0]:
                raise _damaged()
            body = start + 12 + length
            yield _headers(buffer[start + 12 : body]), buffer[body : end - 4]
            start = end
        self._rest = buffer[start:]

    def end(self) -> None:
        """Raises ConnectionFailed where the bytes have ended inside a message: for streams that
        have no terminator, which would be missed."""
        if self._rest:
            raise ConnectionFailed("the event stream broke off inside a message", provider="aws")


def messages(
    chunks: Iterable[bytes], *, whole: bool = False
) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    """Each message's text headers and payload. A stream that breaks off inside a message ends
    the iteration; with ``whole`` it raises ConnectionFailed, as damaged bytes always do."""
    cut = Messages()
    for chunk in chunks:
        yield from cut.feed(chunk)
    if whole:
        cut.end()


def _damaged() -> ConnectionFailed:
    return ConnectionFailed("the event stream is damaged (checksum)", provider="aws")


def _headers(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        kind = data[at]
        at += 1
        if kind in _FIXED:
            at += _FIXED[kind]
            continue
        size = int.from_bytes(data[at : at + 2], "big")
        if kind == _TEXT:
            found[name] = data[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def message(headers: dict[str, str], payload: bytes) -> bytes:
    """One message, encoded."""
    encoded = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack("!H", len(value))
        + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(encoded) + len(payload), len(encoded))
    whole = prelude + _CRC.pack(zlib.crc32(prelude)) + encoded + payload
    return whole + _CRC.pack(zlib.crc32(whole))


def event(kind: str, payload: bytes) -> bytes:
    """An event of a service, as the emulator sends it."""
    return message(
        {":event-type": kind, ":content-type": "application/json", ":message-type": "event"},
        payload,
    )


def exception(kind: str, payload: bytes) -> bytes:
    """An error in the middle of a stream, as the emulator sends it."""
    return message(
        {
            ":exception-type": kind,
            ":content-type": "application/json",
            ":message-type": "exception",
        },
        payload,
    )
