"""A company's network: a service behind TLS, its authority, and a proxy with a password."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import loopback
import pytest

from cloudai._core.calls.network import BUNDLES
from cloudai.testing.emulators.azure import _tls

NOWHERE = "https://localhost:9"
"""Nothing answers here: only the proxy knows where to go."""


class Tunnel:
    """A proxy with a user and a password that knows one host, and goes to ``port`` for it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:proxy-password@127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, ours: socket.socket) -> None:
        with suppress(OSError), ours, socket.create_connection(("127.0.0.1", self._port)) as theirs:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += ours.recv(1)
            said = base64.b64encode(b"user:proxy-password")
            allowed = b"Proxy-Authorization: Basic " + said in head
            self.asked.append(head.split(b"\r\n", 1)[0].decode())
            ours.sendall(b"HTTP/1.1 %s\r\n\r\n" % (b"200 OK" if allowed else b"407 No"))
            if allowed:
                back = threading.Thread(target=pump, args=(theirs, ours), daemon=True)
                back.start()
                pump(ours, theirs)
                back.join(5)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def pump(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


class Place:
    """A service behind TLS, its authority, and a proxy on the way to it. The environment names
    the authority, and no proxy."""

    def __init__(
        self, folder: Path, respond: loopback.Respond, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lower = ("no_proxy", "http_proxy", "https_proxy", "all_proxy")
        for name in ("AWS_CA_BUNDLE", *BUNDLES, *lower, *map(str.upper, lower)):
            monkeypatch.delenv(name, raising=False)
        folder.mkdir()
        self.folder = folder
        self.tls, self.authority = _tls.make(folder)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(self.authority))
        self.server = loopback.Server(respond, self.tls)
        self.url = f"https://localhost:{self.server.port}"
        self.tunnel = Tunnel(self.server.port)

    def __enter__(self) -> Place:
        self.server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.server.__exit__(kind, error, at)
        self.tunnel.close()
