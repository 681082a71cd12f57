"""Posts of chat and embeddings: where they go, who asks, and what an answer means. The transport
is the core's.

``client.chat.completions.create`` of the openai SDK spends most of its time on what is the same
in every call (options, headers, models of the answer). Here a call is: encode, send, decode.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from cloudai._core.calls import threads
from cloudai._core.calls.http import Answer as Answer
from cloudai.formats.sse import Lines
from cloudai.protocols import Call
from cloudai.providers.azure.auth import Header, another
from cloudai.providers.azure.auth import header as header_of
from cloudai.providers.azure.errors import error_of
from cloudai.providers.azure.session import HEADERS, AzureSession


class Transport:
    """Posts JSON to one Azure OpenAI resource. Thread-safe; serves many event loops."""

    def __init__(self, session: AzureSession) -> None:
        self._session = session
        self._base = session.endpoint
        self._targets: dict[tuple[str, str], str] = {}

    def _target(self, path: str, model: str) -> str:
        found = self._targets.get((path, model))
        if found is None:
            found = self._targets[(path, model)] = self._session.target(path, model)
        return found

    def post(self, path: str, model: str, body: bytes, call: Call) -> Answer:
        """Raises CloudAIError. A 401 has the key fetched anew, once."""
        auth, target = self._session.auth, self._target(path, model)
        header = header_of(auth, call)
        answer = self._send(target, body, call, header)
        if answer.status == 401:
            other = another(auth, header, call)
            if other is not None:
                answer = self._send(target, body, call, other)
        if not 200 <= answer.status < 300:
            raise error_of(answer.status, answer.headers, answer.data)
        return answer

    def _send(self, target: str, body: bytes, call: Call, header: Header) -> Answer:
        headers = {**HEADERS, header.name: header.value}
        return self._session.http.send("POST", self._base, target, headers, body, call.remaining())

    def events(self, path: str, model: str, body: bytes, call: Call) -> Generator[Any]:
        """The answer's headers, then the data of its events as they come. Closing it frees the
        connection."""
        auth, target, http = self._session.auth, self._target(path, model), self._session.http
        header = header_of(auth, call)
        headers = {**HEADERS, header.name: header.value}
        stream = http.open("POST", self._base, target, headers, body, call.remaining())
        try:
            if stream.status == 401:
                other = another(auth, header, call)
                if other is not None:
                    stream.close()
                    headers = {**HEADERS, other.name: other.value}
                    stream = http.open("POST", self._base, target, headers, body, call.remaining())
            if not 200 <= stream.status < 300:
                raise error_of(stream.status, stream.headers, stream.read())
            yield stream.headers
            lines = Lines()
            for piece in stream:
                if b"\n" in piece:
                    stream.heard()
                yield from lines.feed(piece)
            yield from lines.end()
        finally:
            stream.close()

    async def apost(self, path: str, model: str, body: bytes, call: Call) -> Answer:
        """The async twin of ``post``."""
        auth, target = self._session.auth, self._target(path, model)
        header = auth.fresh() or await threads.run(header_of, auth, call)
        answer = await self._asend(target, body, call, header)
        if answer.status == 401:
            other = await threads.run(another, auth, header, call)
            if other is not None:
                answer = await self._asend(target, body, call, other)
        if not 200 <= answer.status < 300:
            raise error_of(answer.status, answer.headers, answer.data)
        return answer

    async def _asend(self, target: str, body: bytes, call: Call, header: Header) -> Answer:
        headers = {**HEADERS, header.name: header.value}
        return await self._session.aio.send(
            "POST", self._base, target, headers, body, call.remaining()
        )

    async def aevents(self, path: str, model: str, body: bytes, call: Call) -> AsyncGenerator[Any]:
        """The async twin of ``events``."""
        auth, target, aio = self._session.auth, self._target(path, model), self._session.aio
        header = auth.fresh() or await threads.run(header_of, auth, call)
        headers = {**HEADERS, header.name: header.value}
        stream = await aio.open("POST", self._base, target, headers, body, call.remaining())
        try:
            if stream.status == 401:
                other = await threads.run(another, auth, header, call)
                if other is not None:
                    stream.close()
                    headers = {**HEADERS, other.name: other.value}
                    stream = await aio.open(
                        "POST", self._base, target, headers, body, call.remaining()
                    )
            if not 200 <= stream.status < 300:
                raise error_of(stream.status, stream.headers, await stream.read())
            yield stream.headers
            lines = Lines()
            async for piece in stream:
                if b"\n" in piece:
                    stream.heard()
                for data in lines.feed(piece):
                    yield data
            for data in lines.end():
                yield data
        finally:
            stream.close()


def transport(session: AzureSession) -> Transport:
    """The session's one transport; chat and embeddings share it."""
    return session._once("transport", lambda: Transport(session))
