"""A bare HTTP server on loopback that says exactly what a test wants, and clients at it."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import cloudai
from cloudai.formats import eventstream

PROVIDERS = ("aws", "azure", "vertex")
MODELS = {"aws": "anthropic.claude-sonnet-4-6", "azure": "gpt", "vertex": "gemini-3.5-flash"}
EMBED = {
    "aws": "amazon.titan-embed-text-v2:0",
    "azure": "text-embedding-3-small",
    "vertex": "gemini-embedding-001",
}


class Asked:
    """A request as it came."""

    def __init__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.at = time.monotonic()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Respond = Callable[[Asked], "bytes | Iterable[bytes]"]


class Server:
    """Answers by ``respond``, which gives a whole HTTP answer, or its pieces one by one."""

    def __init__(self, respond: Respond, tls: ssl.SSLContext | None = None) -> None:
        self._respond = respond
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.asked: list[Asked] = []
        self.open: set[socket.socket] = set()
        self.accepted = 0
        self._closed = threading.Event()

    def __enter__(self) -> Server:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self.open.add(connection)
            try:
                file = connection.makefile("rb")
                while (asked := read(file)) is not None:
                    self.asked.append(asked)
                    answer = self._respond(asked)
                    for piece in (answer,) if isinstance(answer, bytes) else answer:
                        connection.sendall(piece)
            finally:
                self.open.discard(connection)
                connection.close()


def read(file: Any) -> Asked | None:
    """The next request of a connection; None at its end."""
    line: bytes = file.readline()
    if not line:
        return None
    method, path, _ = line.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while (line := file.readline()) not in {b"\r\n", b""}:
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    body = file.read(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body)


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer."""
    given = {"content-type": "application/json", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def refusal(provider: str, status: int, text: str = "not now", **headers: str) -> bytes:
    """An error in the service's words."""
    if provider == "aws":
        kind = {429: "ThrottlingException", 503: "ServiceUnavailableException"}.get(status, "")
        body, headers = {"message": text}, {"x-amzn-ErrorType": kind, **headers}
    elif provider == "azure":
        body = {"error": {"code": str(status), "message": text}}
    else:
        kind = {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}.get(status, "")
        body = {"error": {"code": status, "message": text, "status": kind}}
    return http(json.dumps(body).encode(), f"{status} No", **headers)


def chat_body(provider: str, text: str = "hello") -> bytes:
    """A chat answer."""
    made: dict[str, Any]
    if provider == "aws":
        made = {
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
            "metrics": {"latencyMs": 1},
        }
    elif provider == "azure":
        message = {"role": "assistant", "content": text}
        made = {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    else:
        made = _gemini(text, "STOP")
    return json.dumps(made).encode()


def _gemini(text: str, reason: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "responseId": "r", "modelVersion": "m"}


def stream_pieces(provider: str, texts: Iterable[str], *, ended: bool = True) -> Iterator[bytes]:
    """A streamed chat's body, one piece a text, as the service writes it."""
    if provider == "aws":
        yield eventstream.event("messageStart", b'{"role":"assistant"}')
        for text in texts:
            made: Any = {"contentBlockIndex": 0, "delta": {"text": text}}
            yield eventstream.event("contentBlockDelta", json.dumps(made).encode())
        if ended:
            yield eventstream.event("messageStop", b'{"stopReason":"end_turn"}')
            yield eventstream.event("metadata", b'{"usage":{"inputTokens":1,"outputTokens":1}}')
        return
    for text in texts:
        if provider == "azure":
            made = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]}
        else:
            made = _gemini(text)
        yield b"data: " + json.dumps(made).encode() + b"\n\n"
    if ended and provider == "azure":
        yield b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        yield b"data: [DONE]\n\n"
    elif ended:
        yield b"data: " + json.dumps(_gemini("", "STOP")).encode() + b"\n\n"


def streamed(provider: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A streamed answer, in chunks."""
    kind = "application/vnd.amazon.eventstream" if provider == "aws" else "text/event-stream"
    yield f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def vectors_body(provider: str, asked: Asked) -> bytes:
    """One vector for each text of the request."""
    if provider == "aws":
        return json.dumps({"embedding": [1.0, 2.0], "inputTextTokenCount": 1}).encode()
    if provider == "azure":
        packed = base64.b64encode(struct.pack("<2f", 1.0, 2.0)).decode()
        rows = [{"index": n, "embedding": packed} for n, _ in enumerate(asked.json["input"])]
        usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
        return json.dumps({"data": rows, "model": "m", "usage": usage}).encode()
    one = {"embeddings": {"values": [1.0, 2.0], "statistics": {"token_count": 1}}}
    return json.dumps({"predictions": [one for _ in asked.json["instances"]]}).encode()


def texts_of(provider: str, asked: Asked) -> list[str]:
    """The texts that an embedding request holds."""
    if provider == "aws":
        return [asked.json["inputText"]]
    if provider == "azure":
        return list(asked.json["input"])
    return [one["content"] for one in asked.json["instances"]]


def is_token(asked: Asked) -> bool:
    """Whether it is google-auth that asks."""
    return asked.path.startswith("/token")


def token() -> bytes:
    """An access token."""
    return http(b'{"access_token":"ya29.secret-token","expires_in":3600,"token_type":"Bearer"}')


def settings(provider: str, url: str, folder: Path, monkeypatch: Any) -> dict[str, Any]:
    """The keys of a client that asks ``url``."""
    if provider == "aws":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIALOOPBACK00000000")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-key")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, "/dev/null")
        return {"provider": "aws", "region": "us-east-1", "endpoint_url": url}
    if provider == "azure":
        return {"provider": "azure", "endpoint": url, "api_key": "azure-secret-key"}
    from cloudai.testing.emulators.vertex._identity import service_account

    account = folder / "account.json"
    account.write_text(service_account("p", url))
    return {
        "provider": "vertex",
        "project": "p",
        "location": "us-central1",
        "credentials": str(account),
        "endpoint": url,
    }


def client(provider: str, url: str, folder: Path, monkeypatch: Any, **keys: Any) -> cloudai.Client:
    return cloudai.Client(**settings(provider, url, folder, monkeypatch), **keys)


def async_client(
    provider: str, url: str, folder: Path, monkeypatch: Any, **keys: Any
) -> cloudai.AsyncClient:
    return cloudai.AsyncClient(**settings(provider, url, folder, monkeypatch), **keys)
