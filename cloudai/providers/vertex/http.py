"""Google's REST APIs: who asks, and what an answer means. The transport is the core's."""

from __future__ import annotations

import platform
import time
from collections.abc import Generator, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from cloudai._core.calls.failures import Told
from cloudai._core.calls.http import Answer, Http, Stream
from cloudai._version import __version__
from cloudai.formats.sse import Lines
from cloudai.protocols import Call
from cloudai.providers.vertex import errors
from cloudai.providers.vertex.tokens import Tokens

AGENT: Final = f"cloudai/{__version__} python/{platform.python_version()}"
HEADERS: Final = {"Content-Type": "application/json", "User-Agent": AGENT}


class Requests:
    """Sends requests for one session. Thread-safe."""

    def __init__(self, tokens: Tokens, http: Http) -> None:
        self._tokens = tokens
        self._http = http
        self._ahead = 0.0

    def _answer(self, method: str, base: str, path: str, body: bytes | None, call: Call) -> Answer:
        auth = self._tokens.headers(call.remaining())
        headers = {**HEADERS, **auth}
        answer = self._http.send(method, base, path, headers, body, call.remaining())
        if answer.status == 401:
            # A token may be revoked before its time; the service has done nothing yet.
            self._tokens.refused(auth)
            headers = {**HEADERS, **self._tokens.headers(call.remaining())}
            answer = self._http.send(method, base, path, headers, body, call.remaining())
        if not 200 <= answer.status < 300:
            raise errors.from_response(answer.status, answer.headers, answer.data)
        return answer

    def raw(
        self, method: str, base: str, path: str, body: bytes | None, call: Call
    ) -> tuple[bytes, str | None]:
        """The answer's body, and the request's id where there is one. Raises CloudAIError."""
        answer = self._answer(method, base, path, body, call)
        return answer.data, answer.headers.get("x-request-id")

    def json(self, method: str, base: str, path: str, body: Any, call: Call) -> dict[str, Any]:
        """The answer, decoded. ``body`` is encoded; None sends none."""
        sent = None if body is None else msgspec.json.encode(body)
        answer = self._answer(method, base, path, sent, call)
        self._hear(answer.headers.get("date"))
        if not answer.data:
            return {}
        try:
            told = msgspec.json.decode(answer.data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise errors.make("DATA_LOSS", f"the answer is not JSON: {error}") from None
        if told.keys() == {"error"}:  # which operations and jobs have beside their name
            raise errors.from_response(answer.status, answer.headers, answer.data)
        return Told("vertex", path.partition("?")[0], told)

    def _hear(self, date: str | None) -> None:
        """Learns the service's time from an answer's Date."""
        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        self._ahead = told.timestamp() - time.time()

    def now(self) -> float:
        """Unix seconds by the service's clock, as its last answer told it to the second; by this
        machine's before there was one."""
        return time.time() + self._ahead

    def events(self, base: str, path: str, body: bytes, call: Call) -> Generator[bytes]:
        """The data of each server-sent event of a POST's answer, as it comes."""
        cut = Lines()
        stream = self._open(base, path, body, call)
        for piece in stream:
            if b"\n" in piece:
                stream.heard()
            yield from cut.feed(piece)
        yield from cut.end()

    def pieces(self, base: str, path: str, body: bytes, call: Call) -> Iterator[bytes]:
        """A POST's answer, piece by piece."""
        stream = self._open(base, path, body, call)
        for piece in stream:
            stream.heard()
            yield piece

    def _open(self, base: str, path: str, body: bytes, call: Call) -> Stream:
        auth = self._tokens.headers(call.remaining())
        headers = {**HEADERS, **auth}
        stream = self._http.open("POST", base, path, headers, body, call.remaining())
        if stream.status == 401:
            stream.close()
            self._tokens.refused(auth)
            headers = {**HEADERS, **self._tokens.headers(call.remaining())}
            stream = self._http.open("POST", base, path, headers, body, call.remaining())
        if not 200 <= stream.status < 300:
            raise errors.from_response(stream.status, stream.headers, stream.read())
        return stream
