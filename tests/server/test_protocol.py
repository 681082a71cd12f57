"""HTTP on a connection: the order of answers, bodies that are late, broken or unwanted, clients
that do not read, and the end of a server. Real sockets, and an app that says what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloudai.server.config import Limits
from cloudai.server.http import asgi, listener, protocol
from cloudai.server.http.errors import HTTPError
from cloudai.server.http.intake import Intake
from cloudai.server.http.messages import Reply, Request, Response
from cloudai.server.http.protocol import Connection

LARGE = 64 << 20  # more than the kernel's buffers of a connection hold


class Parrot:
    """``/body`` says the body, ``/head`` asks for none, ``/wait`` answers when it is told to,
    ``/pieces`` and ``/endless`` come in pieces, ``/large`` is large."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.intake = Intake(limits.held)
        self.go = asyncio.Event()
        self.closed = asyncio.Event()
        self.asked: list[str] = []
        self.requests: list[Request] = []
        self.left: list[str] = []

    async def serve(self, request: Request, reply: Reply) -> None:
        self.asked.append(request.path)
        self.requests.append(request)
        if request.path in ("/pieces", "/endless"):
            reply.begin(Response(content_type=b"text/plain"), [])
            try:
                async with contextlib.aclosing(self._pieces(request)) as pieces:
                    async for piece in pieces:
                        await reply.piece(piece)
            except Exception:
                self.left.append(request.path)
                return
            reply.end()
            return
        try:
            reply.whole(Response(await self._body(request), content_type=b"text/plain"), [])
        except HTTPError as error:
            reply.whole(Response(str(error).encode(), error.status or 0), [])
        except Exception:
            self.left.append(request.path)

    async def _body(self, request: Request) -> bytes:
        if request.path.startswith("/wait"):
            await self.go.wait()
        if request.path == "/large":
            return b"x" * LARGE
        return await request.body() if request.path == "/body" else request.path.encode()

    async def _pieces(self, request: Request) -> AsyncGenerator[bytes]:
        try:
            for number in range(3):
                yield b"%d;" % number
            while request.path == "/endless":
                yield b"x" * 65536
        finally:
            self.closed.set()


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def answer(self, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = b""
            if headers.get("transfer-encoding") == "chunked" and not head_only:
                while size := int(await self.reader.readline(), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
            elif not head_only:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return int(status.split()[1]), headers, body

    async def rest(self) -> bytes:
        """All until the server closes; a reset is an end too."""
        got = b""
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(1 << 20):
                    got += piece
        return got


class Place:
    """A server of the parrot, and clients of it."""

    def __init__(
        self, server: listener.Server, parrot: Parrot, port: int, tls: Path | None
    ) -> None:
        self.server, self.parrot, self.port = server, parrot, port
        self._tls = tls and ssl.create_default_context(cafile=str(tls / "cert.pem"))
        self._clients: list[Client] = []

    async def client(self) -> Client:
        made = Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self._tls))
        self._clients.append(made)
        return made

    async def until(self, said: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not said():
                await asyncio.sleep(0.005)

    def close(self) -> None:
        for client in self._clients:
            client.writer.close()


@contextlib.asynccontextmanager
async def place(tls: Path | None = None, **limits: Any) -> AsyncGenerator[Place]:
    sock = socket.create_server(("127.0.0.1", 0))
    parrot = Parrot(Limits(**limits))
    context = listener.tls_context(str(tls / "cert.pem"), str(tls / "key.pem")) if tls else None
    server = listener.Server(parrot, [sock], context)
    made = Place(server, parrot, sock.getsockname()[1], tls)
    await server.start()
    try:
        yield made
    finally:
        parrot.go.set()
        made.close()
        await server.stop(10)


def run(test: Callable[[Place], Awaitable[None]], tls: Path | None = None, **limits: Any) -> None:
    async def main() -> None:
        async with place(tls, **limits) as here:
            await test(here)

    with asyncio.Runner(loop_factory=listener.new_loop) as runner:
        runner.run(main())


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CHUNKED = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers]).encode() + b"\r\n\r\n"


def test_answers_come_in_the_order_of_their_requests() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/wait"), post("/body", b"two"), get("/three"), post("/body", b"four"))
        await here.until(lambda: here.parrot.asked)
        assert here.parrot.asked == ["/wait"]  # the others wait for the first
        here.parrot.go.set()
        answers = [await client.answer() for _ in range(4)]
        assert [body for _, _, body in answers] == [b"/wait", b"two", b"/three", b"four"]
        assert all(re.fullmatch(r"\w{3}, \d\d .* GMT", one["date"]) for _, one, _ in answers)

    run(test)


def test_a_body_in_pieces_and_one_that_is_awaited() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        data = bytes(range(256)) * 4096  # 1 MiB: more than is taken before somebody asks
        whole = post("/body", data)
        for start in range(0, len(whole), 100_000):
            client.say(whole[start : start + 100_000])
            await client.writer.drain()
        assert (await client.answer())[2] == data
        client.say(post("/body", b"x" * 5, "Expect: 100-continue")[:-5])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.say(b"after")
        assert (await client.answer())[2] == b"after"
        client.say(
            b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
        )
        client.say(b"3\r\ntwo\r\n0\r\n\r\n")
        assert (await client.answer())[2] == b"onetwo"

    run(test)


def test_a_body_that_nobody_wants_is_thrown_away() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        whole = post("/head", b"x" * 1_000_000)
        client.say(whole[:200_000])
        assert (await client.answer())[2] == b"/head"
        client.say(whole[200_000:], get("/next"))
        assert (await client.answer())[2] == b"/next"

    run(test)


def test_a_body_that_comes_early_without_being_told_to_ends_nothing() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        whole = post("/body", b"12345", "Expect: 100-continue")
        client.say(get("/wait"), whole, whole, get("/after"))
        await here.until(lambda: here.parrot.asked)
        here.parrot.go.set()
        answers = [await client.answer() for _ in range(4)]
        assert [body for _, _, body in answers] == [b"/wait", b"12345", b"12345", b"/after"]

    run(test)


def test_a_client_that_waits_to_send_a_body_that_nobody_wants() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(post("/head", b"12345", "Expect: 100-continue")[:-5])
        _, headers, _ = await client.answer()
        # Whether the body comes now, nobody knows: the connection cannot go on.
        assert headers["connection"] == "close"
        assert await client.rest() == b""

    run(test)


@pytest.mark.parametrize(
    ("request_", "closes"),
    [
        (get("/a"), False),
        (get("/a", "Connection: close"), True),
        (b"GET /a HTTP/1.0\r\nHost: x\r\n\r\n", True),
        (get("/a", "Connection: Upgrade", "Upgrade: h2c"), False),
        (get("/a").replace(b"GET", b"CONNECT"), True),
        (get("/a", "Connection: Upgrade, close", "Upgrade: h2c"), True),
        (get("/a", "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x05hello", True),
    ],
)
def test_which_connections_stay_open(request_: bytes, closes: bool) -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(request_)
        status, headers, body = await client.answer()
        assert (status, body) == (200, b"/a")
        assert (headers.get("connection") == "close") is closes
        if closes:
            assert await client.rest() == b""
        else:
            client.say(get("/again"))
            assert (await client.answer())[2] == b"/again"

    run(test)


def test_a_client_that_would_rather_speak_http_2() -> None:
    """Java's and curl's ask so with their first request, and send its body at once."""
    wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")

    async def test(here: Place) -> None:
        client = await here.client()
        whole = post("/body", b"abcdef", *wish)
        client.say(whole[:-3])
        await here.until(lambda: here.parrot.asked)
        client.say(whole[-3:], post("/body", b"two", *wish), get("/three", *wish), get("/four"))
        answers = [await client.answer() for _ in range(4)]
        assert [body for _, _, body in answers] == [b"abcdef", b"two", b"/three", b"/four"]
        assert here.parrot.requests[0].headers[b"http2-settings"] == b"AAMAAABk"
        client.say(
            b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n5\r\nafter\r\n0\r\n\r\n"
        )
        assert (await client.answer())[2] == b"after"

    run(test)


def test_trailers_are_no_headers() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        trailers = b"Content-Encoding: br\r\nX-Cloudai-Timeout: none\r\n"
        client.say(CHUNKED, b"3\r\none\r\n0\r\n", trailers, b"\r\n", get("/next"))
        assert (await client.answer())[::2] == (200, b"one")
        assert (await client.answer())[::2] == (200, b"/next")
        (one, two) = here.parrot.requests
        assert set(one.headers) == {b"host", b"transfer-encoding"}
        assert set(two.headers) == {b"host"}

    run(test)


@pytest.mark.parametrize("before", [b"3;a=", b"3\r\none\r\n0;", b"3\r\none\r\n0\r\nX: "])
def test_extensions_of_chunks_and_trailers_are_bounded(before: bytes) -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(CHUNKED, before)
        await here.until(lambda: here.parrot.asked)
        for _ in range(20):
            client.say(b"x" * 5000)
            await client.writer.drain()
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert body == b"The request has more than 65536 bytes beside its body."
        assert await client.rest() == b""

    run(test)


def test_a_body_in_tiny_pieces_takes_little_more_than_its_size() -> None:
    async def test(here: Place) -> None:
        parrot = here.parrot
        link = Connection(here.server)
        request = Request("POST", "/", {}, link, parrot.limits, parrot.intake, 0.0)
        tracemalloc.start()
        for number in range(200_000):
            request.feed(b"%06d" % number)
        request.end()
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert taken < 3_000_000
        assert await request.body() == b"".join(b"%06d" % number for number in range(200_000))

    run(test)


def test_garbage_in_a_body_that_nobody_wants_is_not_answered() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(CHUNKED.replace(b"/body", b"/head"), b"3\r\none\r\n")
        assert (await client.answer())[2] == b"/head"
        client.say(b"no size\r\n")
        assert await client.rest() == b""  # a pooled client would take it for its next answer

    run(test)


def test_who_closes_its_side_gets_its_answers() -> None:
    async def test(here: Place) -> None:
        clients = [await here.client() for _ in range(4)]
        one, several, cut, stream = clients
        one.say(get("/wait"))
        several.say(get("/wait"), post("/body", b"two"), get("/three"))
        cut.say(get("/wait"), get("/two"), post("/body", b"three")[:-1])
        stream.say(get("/pieces"))
        for client in clients:
            client.writer.write_eof()
        await here.until(lambda: len(here.parrot.asked) == 4)
        await asyncio.sleep(0.1)
        here.parrot.go.set()
        status, headers, body = await one.answer()
        assert (status, headers["connection"], body) == (200, "close", b"/wait")
        assert [(await several.answer())[2] for _ in range(3)] == [b"/wait", b"two", b"/three"]
        assert [(await cut.answer())[2] for _ in range(2)] == [b"/wait", b"/two"]
        assert (await stream.answer())[2] == b"0;1;2;"
        for client in clients:
            assert await client.rest() == b""
        await here.until(lambda: not here.server.connections)

    run(test)


def test_who_leaves_is_told_from_who_closes_its_side() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/wait"))
        await here.until(lambda: here.parrot.asked)
        client.writer.close()
        await here.until(lambda: here.parrot.requests[0].gone)
        here.parrot.go.set()
        await here.until(lambda: not here.server.connections)
        assert here.parrot.left == ["/wait"]  # the answer went nowhere, and said so

    run(test)


def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(b"GET /pieces HTTP/1.0\r\n\r\n")
        _, headers, _ = await client.answer(head_only=True)
        assert "transfer-encoding" not in headers
        assert await client.rest() == b"0;1;2;"

    run(test)


def test_head_has_no_body() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        for path, header in (("/abc", "content-length"), ("/pieces", "transfer-encoding")):
            client.say(get(path).replace(b"GET", b"HEAD", 1))
            _, headers, _ = await client.answer(head_only=True)
            assert header in headers
        client.say(get("/after"))
        assert (await client.answer())[2] == b"/after"

    run(test)


def test_paths_are_unescaped_and_queries_cut_off() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        for asked, path in (
            ("/a%20b?c=/d", b"/a b"),
            ("http://host/e?f", b"/e"),
            ("/g#h", b"/g"),
            ("/%C3%A9", "/é".encode()),
        ):
            client.say(get(asked))
            assert (await client.answer())[2] == path

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"NOT HTTP\r\n\r\n",
        b"CONNECT host:1 HTTP/1.1\r\nHost: host:1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_request(data: bytes) -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(data)
        status, headers, body = await client.answer()
        assert status == 400
        assert headers["connection"] == "close"
        assert b"no request in HTTP/1.1" in body
        assert await client.rest() == b""

    run(test)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["Host: x", "Host: y"], 400),
        (["Host: x", "Transfer-Encoding: gzip, chunked"], 501),
        (["Host: x", *["A: 1"] * 4000], 431),
        (["Host: x", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], 501),
    ],
)
def test_heads_that_are_not_taken(headers: list[str], expected: int) -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        head = "\r\n".join(["POST /body HTTP/1.1", *headers])
        client.say(head.encode() + b"\r\n\r\n3\r\none\r\n0\r\n\r\n")
        status, found, _ = await client.answer()
        assert (status, found["connection"]) == (expected, "close")
        assert await client.rest() == b""
        assert not here.parrot.asked

    run(test)


def test_a_coding_is_known_in_any_case() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(CHUNKED.replace(b"chunked", b"Chunked"), b"3\r\none\r\n0\r\n\r\n")
        status, _, body = await client.answer()
        assert (status, body) == (200, b"one")

    run(test)


def test_a_header_that_is_repeated_is_one_list() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/a", "Accept: text/csv", "X-A: 1", "Accept: application/json"))
        await client.answer()
        assert here.parrot.requests[0].headers[b"accept"] == b"text/csv, application/json"

    run(test)


def test_garbage_after_a_request_is_not_its_answer() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/wait"), b"\x00\x01garbage\r\n\r\n")
        await here.until(lambda: here.parrot.asked)
        here.parrot.go.set()
        status, headers, body = await client.answer()
        assert (status, body, headers["connection"]) == (200, b"/wait", "close")
        assert await client.rest() == b""

    run(test)


def test_a_head_that_is_too_large_or_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", 0.3)

    async def test(here: Place) -> None:
        large, slow, silent = [await here.client() for _ in range(3)]
        large.say(b"GET / HTTP/1.1\r\nX-Long: ", b"a" * (65 << 10))
        assert (await large.answer())[0] == 431
        slow.say(b"GET / HTTP/1.1\r\nHost:")
        assert await slow.rest() == b""
        assert await silent.rest() == b""

    run(test)


def test_a_body_that_comes_too_slowly_or_is_too_large() -> None:
    async def test(here: Place) -> None:
        for sent, status in ((post("/body", b"x" * 10)[:-5], 408), (post("/body", b"x" * 99), 413)):
            client = await here.client()
            client.say(sent)
            assert (await client.answer())[0] == status
        # Asked for or not, a rest that does not come ends the connection.
        client = await here.client()
        client.say(post("/head", b"x" * 10)[:-5])
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""

    run(test, body_timeout=0.3, body=50)


def test_a_client_that_does_not_read_is_let_go() -> None:
    async def test(here: Place) -> None:
        for path in ("/large", "/endless"):
            client = await here.client()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.say(get(path, "Connection: close"))
            await here.until(lambda path=path: path in here.parrot.asked)
            await here.until(lambda: not here.server.connections)
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await client.rest()) < LARGE
        assert here.parrot.left == ["/endless"]  # and its generator was closed
        assert here.parrot.closed.is_set()

    run(test, write_timeout=0.3)


def test_a_client_that_reads_slowly_gets_all() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/large", "Connection: close"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        got = 0
        until = asyncio.get_running_loop().time() + 2.0
        while piece := await client.reader.read(8 << 20):
            got += len(piece)
            if asyncio.get_running_loop().time() < until:  # twice the time to read nothing
                await asyncio.sleep(0.05)
        assert got == LARGE

    run(test, write_timeout=1.0)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate of this machine and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        capture_output=True, check=False, cwd=folder,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl is not installed")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell")
@pytest.mark.parametrize("closes", [True, False])
def test_a_client_that_reads_slowly_over_tls_gets_all(tls: Path, closes: bool) -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/large", *["Connection: close"] * closes))
        await client.reader.readuntil(b"\r\n\r\n")
        got = 0
        until = asyncio.get_running_loop().time() + 2.0
        while got < LARGE and (piece := await client.reader.read(8 << 20)):
            got += len(piece)
            if asyncio.get_running_loop().time() < until:  # four times the time to read nothing
                await asyncio.sleep(0.05)
        assert got == LARGE

    run(test, tls, write_timeout=0.5)


def test_a_client_over_tls_that_does_not_read_is_let_go(tls: Path) -> None:
    async def test(here: Place) -> None:
        for path in ("/large", "/endless"):
            client = await here.client()
            client.say(get(path, "Connection: close"))
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await here.until(lambda path=path: path in here.parrot.asked)
            await here.until(lambda: not here.server.connections)
        assert here.parrot.left == ["/endless"]

    run(test, tls, write_timeout=0.3)


def test_over_tls_an_answer_reaches_a_client_that_still_sends(tls: Path) -> None:
    async def test(here: Place) -> None:
        for headers in ([], ["Connection: close"]):
            client = await here.client()
            client.say(post("/body", b"x" * (20 << 20), *headers))
            assert (await client.answer())[0] == 413
            await client.writer.drain()
            if headers:
                assert await client.rest() == b""

    run(test, tls, body=50)


def test_who_does_not_read_gets_no_more_answers() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.say(get("/large"), get("/second"))
        await here.until(lambda: here.parrot.asked)
        await asyncio.sleep(0.1)
        assert here.parrot.asked == ["/large"]  # the answer is not read: the next one waits
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.answer())[2]) == LARGE
        assert (await client.answer())[2] == b"/second"

    run(test)


def test_a_client_that_leaves_ends_its_stream() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/endless"))
        await client.reader.readexactly(1 << 20)
        client.writer.transport.abort()
        await here.until(lambda: here.parrot.left)
        assert here.parrot.closed.is_set()
        await here.until(lambda: not here.server.connections)

    run(test)


def test_stopping_lets_what_is_under_way_end() -> None:
    async def test(here: Place) -> None:
        idle, busy = await here.client(), await here.client()
        idle.say(get("/a"))
        await idle.answer()
        busy.say(get("/wait"))
        await here.until(lambda: "/wait" in here.parrot.asked)
        stopping = asyncio.ensure_future(here.server.stop(60))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await here.client()
        assert not stopping.done()
        here.parrot.go.set()
        status, headers, body = await busy.answer()
        assert (status, body, headers["connection"]) == (200, b"/wait", "close")
        await stopping
        assert not here.server.connections

    run(test)


def test_stopping_ends_what_does_not_end_by_itself() -> None:
    async def test(here: Place) -> None:
        client = await here.client()
        client.say(get("/wait"))
        await here.until(lambda: here.parrot.asked)
        await here.server.stop(0.1)
        status, _, body = await client.answer()
        assert (status, body) == (503, b"The server is stopping.")
        assert await client.rest() == b""

    run(test)


def test_the_same_app_over_asgi() -> None:
    async def main() -> None:
        parrot = Parrot(Limits(body=50, body_timeout=0.3))

        async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
            await asgi.run(parrot, scope, receive, send)

        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            assert (await http.post("/body", content=b"abc")).content == b"abc"
            assert (await http.post("/body", content=b"x" * 51)).status_code == 413
            assert (await http.get("/pieces")).content == b"0;1;2;"
            assert (await http.get("/a%20b")).text == "/a b"

    asyncio.run(main())


def test_another_server_can_run_the_app() -> None:
    """uvicorn, over a real socket."""
    uvicorn = pytest.importorskip("uvicorn")

    async def main() -> None:
        parrot = Parrot(Limits(body=50))

        async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
            await asgi.run(parrot, scope, receive, send)

        sock = socket.create_server(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{sock.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
        running = asyncio.ensure_future(server._serve([sock]))
        async with httpx.AsyncClient(base_url=base, timeout=30) as http:
            assert (await http.post("/body", content=b"abc")).content == b"abc"
            assert (await http.post("/body", content=b"x" * 51)).status_code == 413
            assert (await http.get("/pieces")).content == b"0;1;2;"
            async with http.stream("GET", "/endless") as endless:
                async for _ in endless.aiter_bytes():
                    break
            async with asyncio.timeout(30):
                await parrot.closed.wait()
        server.should_exit = True
        await running

    asyncio.run(main())
