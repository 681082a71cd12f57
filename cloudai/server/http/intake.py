"""What all bodies may take together: the bytes that are held at once, and the work to read them,
which is done off the event loop and one body after the other."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from cloudai.server.http.errors import HTTPError

T = TypeVar("T")

QUICK: Final = 64 << 10
"""Bytes of a body that are read in the event loop itself: a matter of few milliseconds, whatever
stands in them."""

MOST_MEMBERS: Final = 1000
"""Members of one gzip body. Each costs some microseconds, and may unpack to nothing."""

_WINDOW: Final = 64 << 10
_STEP: Final = 1 << 20


class Intake:
    """The bounds that requests share.

    Parameters
    ----------
    most: bytes of bodies, unpacked, that are held at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._turn = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None

    def take(self, count: int) -> None:
        """Counts bytes that are held from now on. Raises HTTPError 429 where there is no room."""
        if self.held + count > self.most:
            raise HTTPError(
                429, f"requests of {self.held} bytes are under way, of at most {self.most}",
                hint="Come again when they are answered", retry_after=1.0,
            )  # fmt: skip
        self.held += count

    def give(self, count: int) -> None:
        """Bytes that are held no more."""
        self.held -= count

    async def apart(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function off the event loop. One runs at a time: they share the interpreter's
        lock with the loop, which waits for one of them at most."""
        async with self._turn:
            return await self._off_the_loop(function, *arguments)

    async def unpack(self, body: bytes, limit: int) -> bytes:
        """A gzip body as it was, with its room taken. Raises HTTPError as ``unpacked`` and
        ``take`` do."""
        async with self._turn:
            # No more than gzip can hold (RFC 1951: 1032 to 1); what was not needed is given back.
            room = min(limit, 1032 * len(body))
            self.take(room)
            taken = 0
            try:
                data = await self._off_the_loop(unpacked, body, limit)
                taken = len(data)
            finally:
                self.give(room - taken)
        return data

    async def _off_the_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "intake")
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def unpacked(body: bytes, limit: int) -> bytes:
    """All members of a gzip body (RFC 1952, 2.2: "a file consists of a series of members").

    Raises HTTPError: 413 past ``limit`` bytes, 400 for what is not gzip or ends too early.
    """
    view = memoryview(body)
    pieces: list[bytes] = []
    at = size = members = 0
    while at < len(view):
        members += 1
        if members > MOST_MEMBERS:
            raise HTTPError(400, f"the body has more than {MOST_MEMBERS} members of gzip")
        unpacker = zlib.decompressobj(wbits=31)
        while not unpacker.eof:
            window = view[at : at + _WINDOW]
            try:
                piece = unpacker.decompress(window, _STEP)
            except zlib.error as error:
                raise HTTPError(400, f"the body is not gzip ({error})") from None
            at += len(window) - len(unpacker.unconsumed_tail) - len(unpacker.unused_data)
            size += len(piece)
            if size > limit:
                raise HTTPError(413, f"the body has more than {limit} bytes when it is unpacked")
            if piece:
                pieces.append(piece)
            elif not window and not unpacker.eof:
                raise HTTPError(400, "the body is not gzip (it ends too early)")
    return b"".join(pieces)
