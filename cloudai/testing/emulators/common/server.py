"""The server under every emulator: a WSGI application on loopback, in a thread of its own."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from cloudai.errors import MissingExtra
from cloudai.testing.emulators.common.doors import guarded
from cloudai.testing.emulators.common.faults import WSGI, ErrorBody, Faults

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer


class EmulatorServer:
    """Serves an application on loopback: HTTP/1.1, a thread and a connection for each request
    (werkzeug closes it after the answer).

    Parameters
    ----------
    app: the emulated service. error_body: its shape of an error.
    port: 0 takes a free one. tls: serves https with this context.
    seed: of the faults' chances. now: Unix seconds, for the Date of each answer.
    """

    def __init__(
        self,
        app: WSGI,
        error_body: ErrorBody,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        seed: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self.faults = Faults(app, error_body, seed)
        self._app = guarded(self.faults, error_body)
        self._port = port
        self._tls = tls
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return self._server.port if self._server else self._port

    @property
    def url(self) -> str:
        """Such as ``http://127.0.0.1:40123``."""
        scheme, host = ("https", "localhost") if self._tls else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.port}"

    def start(self) -> EmulatorServer:
        """Begins to serve; harmless when it does already. Raises OSError where the port is
        taken."""
        if self._server is not None:
            return self
        try:
            from werkzeug.serving import WSGIRequestHandler, make_server
        except ModuleNotFoundError:
            raise MissingExtra("werkzeug", extra="testing") from None

        now = self._now

        class Handler(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, type: str, message: str, *args: Any) -> None:
                return None

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(now() if timestamp is None else timestamp, usegmt=True)

            def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
                self.close_connection = True  # a fault broke it: no further request comes

        # Listened on here: where a port is taken werkzeug would end the process.
        with socket.create_server(("127.0.0.1", self._port), backlog=128) as listening:
            server = make_server(
                "127.0.0.1",
                listening.getsockname()[1],
                self._app,
                threaded=True,
                request_handler=Handler,
                ssl_context=self._tls,
                fd=listening.fileno(),
            )
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends it; harmless when it does not serve."""
        server, self._server = self._server, None
        if server is not None:
            self._port = server.port
            server.shutdown()
            server.server_close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> EmulatorServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
