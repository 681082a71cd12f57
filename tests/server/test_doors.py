"""Who is let in: hosts and origins on loopback, content types, heads of requests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running_server import ECHO, Running, Start, model

from cloudai.server.app import App
from cloudai.server.config import ModelConfig, ServerConfig, VariantConfig

BODY = b'{"inputs": [1]}'


def ask(port: int, head: str, body: bytes = b"") -> int:
    """The status of the answer to a request as it is written here."""
    lines = [*head.strip().split("\n"), f"Content-Length: {len(body)}", "Connection: close"]
    raw = "\r\n".join(line.strip() for line in lines).encode() + b"\r\n\r\n" + body
    return int(raw_ask(port, raw).split(b" ", 2)[1])


def raw_ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(data)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return answer


# What a browser sends for a page of another origin, or of a name that was rebound to loopback
# (the Fetch Standard and Fetch Metadata Request Headers; no browser was run).
FOREIGN = {
    "rebound": "Host: rebound.example:{port}",
    "rebound, without a port": "Host: rebound.example",
    "rebound to a look-alike": "Host: 127.0.0.1.rebound.example:{port}",
    "rebound, an own origin": "Host: rebound.example:{port}\nOrigin: http://rebound.example:{port}",
    "fetch of no-cors": "Host: 127.0.0.1:{port}\nOrigin: https://evil.example\n"
    "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors",
    "a form": "Host: 127.0.0.1:{port}\nOrigin: https://evil.example\n"
    "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate",
    "a sandboxed frame": "Host: 127.0.0.1:{port}\nOrigin: null",
    "another port of this machine": "Host: localhost:{port}\nOrigin: http://localhost:3000",
    "an older browser": "Host: localhost:{port}\nOrigin: https://evil.example",
    "an image": "Host: localhost:{port}\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors",
}
OWN = {
    "curl": "Host: 127.0.0.1:{port}",
    "by name": "Host: LOCALHOST:{port}",
    "by a name below": "Host: app.localhost:{port}",
    "over IPv6": "Host: [::1]:{port}",
    "the page": "Host: 127.0.0.1:{port}\nOrigin: http://127.0.0.1:{port}\n"
    "Sec-Fetch-Site: same-origin\nSec-Fetch-Mode: cors",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("route", ["predict", "feedback", "ping", "metrics"])
def test_k4_nobody_from_another_origin_is_let_in(echo: Running, name: str, route: str) -> None:
    method = "POST" if route in ("predict", "feedback") else "GET"
    kind = "\nContent-Type: application/json" if method == "POST" else ""
    head = f"{method} /{route} HTTP/1.1\n" + FOREIGN[name].format(port=echo.port) + kind
    before = echo.metric("cloudai_predictions_total"), echo.metric("cloudai_feedback_total")
    body = b'{"feedback": [{"prediction": 1, "label": 2}]}' if route == "feedback" else BODY
    assert ask(echo.port, head, body if method == "POST" else b"") == 403
    after = echo.metric("cloudai_predictions_total"), echo.metric("cloudai_feedback_total")
    assert after == before


@pytest.mark.parametrize("name", OWN)
def test_k4_this_machines_programs_and_the_page_are_let_in(echo: Running, name: str) -> None:
    head = "POST /predict HTTP/1.1\n" + OWN[name].format(port=echo.port)
    assert ask(echo.port, head + "\nContent-Type: application/json", BODY) == 200


def test_k4_a_link_to_the_page_is_followed(echo: Running) -> None:
    head = f"GET / HTTP/1.1\nHost: 127.0.0.1:{echo.port}\nAccept: text/html\n"
    head += "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate"
    assert ask(echo.port, head) == 200


def test_k4_cors_is_closed(echo: Running) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    asked = echo.http.options("/predict", headers=headers)
    assert asked.status_code == 403
    own = echo.http.options("/predict", headers={"access-control-request-method": "POST"})
    assert own.status_code == 405
    for answer in (asked, own, echo.predict(1), echo.http.get("/")):
        assert not [name for name in answer.headers if name.startswith("access-control")]


ROUTES = (
    "/predict", "/batch_predict", "/invocations", "/score", "/v1/models/m:predict",
    "/v2/models/m/infer", "/v1/embeddings", "/v1/chat/completions", "/feedback",
)  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_k4_a_body_without_a_content_type_is_no_json(echo: Running, route: str) -> None:
    answer = echo.http.post(route, content=BODY)
    assert answer.status_code == 415, answer.text
    assert "application/octet-stream" in answer.text


def test_k4_a_name_may_be_allowed(start: Start) -> None:
    server = start("--allow-host", "models.example")
    head = "GET /ping HTTP/1.1\nHost: {}"
    assert ask(server.port, head.format("Models.example")) == 200
    assert ask(server.port, head.format("other.example")) == 403


def test_k4_a_server_for_others_leaves_names_to_the_network(start: Start) -> None:
    server = start("--host", "0.0.0.0")
    assert ask(server.port, "GET /ping HTTP/1.1\nHost: models.example") == 200


HEADS = {
    "100,000 bytes in one header": (431, b"GET / HTTP/1.1\r\nHost: localhost\r\nA: %b\r\n\r\n"
                                    % (b"a" * 100_000)),
    "in many": (431, b"GET / HTTP/1.1\r\nHost: localhost\r\n"
                + b"".join(b"A%d: aaaaaaaaaaaaaaaaaaaa\r\n" % n for n in range(4000)) + b"\r\n"),
    "in the line": (431, b"GET /?%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 100_000)),
    "no Host": (400, b"GET /ping HTTP/1.1\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /ping\r\n\r\n"),
    "HTTP/0.9, said": (505, b"GET /ping HTTP/0.9\r\n\r\n"),
    "HTTP/2.0": (505, b"GET /ping HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    "HTTP/1.0 without a Host": (200, b"GET /ping HTTP/1.0\r\n\r\n"),
    "60,000 bytes": (200, b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     b"A: %b\r\n\r\n" % (b"a" * 60_000)),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_k20_heads(echo: Running, name: str) -> None:
    status, raw = HEADS[name]
    assert int(raw_ask(echo.port, raw).split(b" ", 2)[1]) == status


def test_k14_the_folder_that_is_served_is_no_import_path_of_ours(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", ECHO)
    stolen = tmp_path / "stolen"
    (folder / "msgspec.py").write_text(f"open({str(stolen)!r}, 'w').close()\n")
    program = Path(sys.executable).with_name("cloudai")
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [program, "serve", ".", "--port", "0", "--workers", "1"],
            cwd=folder, stdout=file, stderr=file, env=dict(os.environ),
        )  # fmt: skip
    try:
        end = time.monotonic() + 100
        while '"event":"ready"' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        assert [json.loads(line)["event"] for line in log.read_text().splitlines()][-1] == "ready"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert not stolen.exists()


@pytest.mark.parametrize(
    ("server", "status"), [("127.0.0.1", 403), ("::1", 403), ("10.0.0.1", 401)]
)
async def test_k4_the_app_under_another_server_looks_too(server: str, status: int) -> None:
    one = ModelConfig(name="m", variants=(VariantConfig(path="m"),))
    app = App(ServerConfig(models=(one,), hosts=("proxy.example",)), token="t")
    for host, told in (("rebound.example", status), ("proxy.example", 401), ("localhost", 401)):
        sent: list[Any] = []
        scope = {
            "type": "http", "method": "POST", "path": "/predict", "server": (server, 80),
            "headers": [(b"host", host.encode()), (b"content-type", b"application/json")],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": BODY}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async with asyncio.timeout(20):
            await app(scope, receive, send)
        assert sent[0]["status"] == told, (host, sent)
