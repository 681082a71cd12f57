"""Records what goes between a program and a cloud, and plays it back: for any SDK.

A ``Recorder`` listens on loopback and stands for one service: point the SDK's endpoint at its
``url``. Recording, it passes each request on and keeps the exchange, streams piece by piece, in
a cassette (``cassette.py``) without its secrets. Playing, it answers from the cassette, and
nothing leaves this machine.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from cloudai.errors import ConfigError
from cloudai.testing.cassette import Exchange, Response, load, same, save
from cloudai.testing.scrub import Scrubber

Mode = Literal["play", "record", "once"]

MATCH: Final = ("method", "path", "query", "body")

_HOP: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_STREAMS: Final = ("text/event-stream", "application/vnd.amazon.eventstream")
_BLOCK: Final = 1 << 16


class Recorder:
    """One service on loopback, recorded or played. Use it with ``with``.

    Parameters
    ----------
    path: the cassette: .yaml (needs PyYAML) or .json.
    upstream: the real service, such as ``"https://api.openai.com"``; needed to record, and
        without it a cassette's own hosts are not looked at.
    mode: ``play`` never records; ``record`` begins anew; ``once`` plays a cassette that is
        there and records one that is not.
    match: in what a request has to equal a recorded one: ``method``, ``host``, ``path``,
        ``query``, ``body``.
    secrets: values to hide beside those that the names of headers and fields tell.

    A recorded exchange is played once, in the cassette's order among equal requests. A request
    that nothing matches is answered with 501, and leaving the ``with`` raises ConfigError that
    names it. AWS requests are signed anew for the real host, with the credentials of botocore's
    own chain.
    """

    def __init__(
        self,
        path: str | Path,
        upstream: str | None = None,
        *,
        mode: Mode = "play",
        match: Iterable[str] = MATCH,
        secrets: Iterable[str] = (),
    ) -> None:
        self.path = Path(path)
        self.upstream = upstream.rstrip("/") if upstream else None
        self.recording = mode == "record" or (mode == "once" and not self.path.exists())
        self.misses: list[str] = []
        self._match = tuple(match)
        self._scrubber = Scrubber(secrets)
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []
        self._left: list[Exchange] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens: the SDK's endpoint."""
        if self._server is None:
            raise ConfigError("the recorder is not running: use it with `with`")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Recorder:
        if self.recording and self.upstream is None:
            raise ConfigError(f"recording {self.path} needs the upstream service")
        if not self.recording:
            self._exchanges = load(self.path)
            self._left = list(self._exchanges)
        recorder = self

        class Handler(_Handler):
            owner = recorder

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="cloudai-recorder", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None
        if self.recording:
            save(self.path, self._exchanges)
        elif self.misses and kind is None:
            raise ConfigError(
                f"{self.path} has no answer to: {'; '.join(self.misses)}",
                hint='Record it anew with mode="record", or match by less',
            )

    def answer(
        self, method: str, target: str, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> Response:
        """The recorded answer to a request; a 501 where there is none."""
        asked = self._scrubber.request(method, f"{self.upstream or ''}{target}", headers, body)
        with self._lock:
            for index, one in enumerate(self._left):
                if same(one, asked, self._match):
                    return self._left.pop(index).response
            self.misses.append(f"{method} {urlsplit(asked.uri).path}")
        text = f"the cassette {self.path.name} has no answer to {method} {target}"
        return Response(
            status=501,
            reason="Not Recorded",
            headers=(("Content-Type", "text/plain"),),
            body=text.encode(),
        )

    def keep(self, exchange: Exchange) -> None:
        """Adds an exchange to the cassette, without its secrets."""
        with self._lock:
            self._exchanges.append(self._scrubber.exchange(exchange))


class _Handler(BaseHTTPRequestHandler):
    owner: Recorder
    protocol_version = "HTTP/1.1"
    # Small pieces of a stream go out at once.
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True  # the client went away

    def _serve(self) -> None:
        body = self._body()
        headers = tuple(self.headers.items())
        if self.owner.recording:
            self._pass_on(headers, body)
            return
        self._play(self.owner.answer(self.command, self.path, headers, body))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            pieces: list[bytes] = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _pass_on(self, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
        """Asks the real service and hands its answer on as it comes."""
        upstream = urlsplit(self.owner.upstream or "")
        target = f"{upstream.path}{self.path}"
        uri = f"{upstream.scheme}://{upstream.netloc}{target}"
        sent = {n: v for n, v in headers if n.lower() not in _HOP and n.lower() != "host"}
        for name in [name for name in sent if name.lower() == "accept-encoding"]:
            # What is packed otherwise could not be looked through for secrets.
            sent[name] = "gzip" if "gzip" in sent[name] else "identity"
        sent = _signed(self.command, uri, {**sent, "Host": upstream.netloc}, body)
        kind = (
            http.client.HTTPSConnection
            if upstream.scheme == "https"
            else http.client.HTTPConnection
        )
        connection = kind(upstream.netloc, timeout=600)
        pieces: list[bytes] = []
        truncated = False
        try:
            connection.request(self.command, target, body or None, sent)
            response = connection.getresponse()
            told = tuple((n, v) for n, v in response.getheaders() if n.lower() not in _HOP)
            self._head(response.status, response.reason, told)
            try:
                while piece := response.read1(_BLOCK):
                    pieces.append(piece)
                    self._piece(piece)
            except (http.client.IncompleteRead, ConnectionError):
                truncated = True
        except OSError as error:
            self.send_error(502, "the service cannot be reached", str(error))
            return
        finally:
            connection.close()
        streamed = any(stream in dict(_lower(told)).get("content-type", "") for stream in _STREAMS)
        self.owner.keep(
            Exchange(
                method=self.command,
                uri=uri,
                headers=tuple(sent.items()),
                body=body,
                response=Response(
                    status=response.status,
                    reason=response.reason,
                    headers=told,
                    body=b"".join(pieces),
                    chunks=tuple(map(len, pieces)) if streamed else (),
                    truncated=truncated,
                ),
            )
        )
        self._end(truncated)

    def _play(self, response: Response) -> None:
        gzipped = response.body[:2] == b"\x1f\x8b"
        # vcrpy may have unpacked a body and left its header.
        left_out = _HOP if gzipped else _HOP | {"content-encoding"}
        headers = tuple((n, v) for n, v in response.headers if n.lower() not in left_out)
        self._head(response.status, response.reason, headers)
        start = 0
        for length in response.chunks or (len(response.body),):
            self._piece(response.body[start : start + length])
            start += length
        self._end(response.truncated)

    def _head(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        self._bodyless = self.command == "HEAD" or status in {204, 304}
        if not self._bodyless:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _piece(self, piece: bytes) -> None:
        if piece and not self._bodyless:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _end(self, truncated: bool) -> None:
        if truncated:
            self.close_connection = True  # without the last chunk, as it was
        elif not self._bodyless:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is its own."""


def _lower(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers]


def _signed(method: str, uri: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """An AWS request signed for the real host: a signature covers the host it was made for,
    which was ours. Others as they are."""
    given = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
    if not given.startswith("AWS4-HMAC-SHA256"):
        return headers
    from botocore.auth import S3SigV4Auth, SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.session import get_session

    scope = given.partition("Credential=")[2].partition(",")[0].split("/")
    region, service = scope[2], scope[3]
    credentials = get_session().get_credentials()
    kept = {
        name: value
        for name, value in headers.items()
        if name.lower() not in {"authorization", "x-amz-date", "x-amz-security-token"}
    }
    request = AWSRequest(method, uri, kept, body)
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    signer(credentials, service, region).add_auth(request)
    return dict(request.headers.items())
