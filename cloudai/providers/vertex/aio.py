"""The same requests under asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from cloudai._core.calls.aio import Aio, AsyncStream
from cloudai.formats.sse import Lines
from cloudai.protocols import Call
from cloudai.providers.vertex import errors
from cloudai.providers.vertex.http import HEADERS
from cloudai.providers.vertex.tokens import Tokens


class AsyncRequests:
    """Sends requests for one session, from any number of event loops."""

    def __init__(self, tokens: Tokens, aio: Aio) -> None:
        self._tokens = tokens
        self._aio = aio

    async def raw(
        self, method: str, base: str, path: str, body: bytes | None, call: Call
    ) -> tuple[bytes, str | None]:
        """The answer's body, and the request's id where there is one."""
        auth = await self._tokens.aheaders(call.remaining())
        headers = {**HEADERS, **auth}
        answer = await self._aio.send(method, base, path, headers, body, call.remaining())
        if answer.status == 401:
            # A token may be revoked before its time; the service has done nothing yet.
            self._tokens.refused(auth)
            headers = {**HEADERS, **await self._tokens.aheaders(call.remaining())}
            answer = await self._aio.send(method, base, path, headers, body, call.remaining())
        if not 200 <= answer.status < 300:
            raise errors.from_response(answer.status, answer.headers, answer.data)
        return answer.data, answer.headers.get("x-request-id")

    async def events(self, base: str, path: str, body: bytes, call: Call) -> AsyncGenerator[bytes]:
        """The data of each server-sent event of a POST's answer, as it comes."""
        cut = Lines()
        stream = await self._open(base, path, body, call)
        try:
            async for piece in stream:
                if b"\n" in piece:
                    stream.heard()
                for data in cut.feed(piece):
                    yield data
            for data in cut.end():
                yield data
        finally:
            stream.close()

    async def _open(self, base: str, path: str, body: bytes, call: Call) -> AsyncStream:
        auth = await self._tokens.aheaders(call.remaining())
        headers = {**HEADERS, **auth}
        stream = await self._aio.open("POST", base, path, headers, body, call.remaining())
        if stream.status == 401:
            stream.close()
            self._tokens.refused(auth)
            headers = {**HEADERS, **await self._tokens.aheaders(call.remaining())}
            stream = await self._aio.open("POST", base, path, headers, body, call.remaining())
        if not 200 <= stream.status < 300:
            try:
                raise errors.from_response(stream.status, stream.headers, await stream.read())
            finally:
                stream.close()
        return stream

    def close(self) -> None:
        self._aio.close()
