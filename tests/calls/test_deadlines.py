"""A deadline is of the whole call, on every provider, sync and async; a stream's is silence."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import loopback
import pytest

from cloudai.errors import (
    CallTimeout,
    CloudAIError,
    ConnectionFailed,
    ProviderError,
    StreamTruncated,
)

WAIT = 0.6
"""Seconds; the services below drip for twenty times as long."""


@pytest.fixture(params=loopback.PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


class Ended(threading.Event):
    """Ends a dripping service when the test has ended."""

    def drip(self, data: bytes) -> Iterator[bytes]:
        for at in range(len(data)):
            if self.wait(WAIT / 10):
                return
            yield data[at : at + 1]


@pytest.fixture
def ended() -> Iterator[Ended]:
    event = Ended()
    yield event
    event.set()


def tokens_first(respond: Callable[[loopback.Asked], bytes | Iterator[bytes]]) -> loopback.Respond:
    return lambda asked: loopback.token() if loopback.is_token(asked) else respond(asked)


def dripping(provider: str, where: str, ended: Ended) -> loopback.Respond:
    def respond(asked: loopback.Asked) -> Iterator[bytes]:
        whole = loopback.http(loopback.chat_body(provider))
        head, _, body = whole.partition(b"\r\n\r\n")
        if where == "head":
            yield from ended.drip(whole)
        elif where == "body":
            yield head + b"\r\n\r\n"
            yield from ended.drip(body)
        else:
            pieces = loopback.stream_pieces(provider, ["one", "two " * 50])
            for number, piece in enumerate(loopback.streamed(provider, pieces)):
                # The head and what is first come at once, then a byte at a time.
                yield from (piece,) if number < 3 else ended.drip(piece)

    return tokens_first(respond)


@pytest.mark.parametrize("where", ["head", "body", "stream"])
def test_k10_a_dripping_service_ends_in_time(
    provider: str, where: str, ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        loopback.Server(dripping(provider, where, ended)) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch, retries=0) as ours,
    ):
        model = loopback.MODELS[provider]
        began = time.monotonic()
        with pytest.raises(CloudAIError) as caught:
            if where == "stream":
                for _ in ours.chat.stream("hi", model=model, timeout=WAIT):
                    began = time.monotonic()
            else:
                ours.chat.create("hi", model=model, timeout=WAIT)
        took = time.monotonic() - began
    assert isinstance(caught.value, StreamTruncated if where == "stream" else CallTimeout)
    assert took < 8 * WAIT  # the drip goes on for more than twice as long


@pytest.mark.parametrize("where", ["head", "body", "stream"])
async def test_k10_a_dripping_service_ends_in_time_async(
    provider: str, where: str, ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback.Server(dripping(provider, where, ended)) as server:
        async with loopback.async_client(
            provider, server.url, tmp_path, monkeypatch, retries=0
        ) as ours:
            model = loopback.MODELS[provider]
            began = time.monotonic()
            with pytest.raises(CloudAIError) as caught:
                if where == "stream":
                    async for _ in ours.chat.stream("hi", model=model, timeout=WAIT):
                        began = time.monotonic()
                else:
                    await ours.chat.create("hi", model=model, timeout=WAIT)
            took = time.monotonic() - began
    assert isinstance(caught.value, StreamTruncated if where == "stream" else CallTimeout)
    assert took < 3 * WAIT


def slow_stream(provider: str) -> loopback.Respond:
    """Each piece within the time, all of them together longer."""

    def respond(asked: loopback.Asked) -> Iterator[bytes]:
        for piece in loopback.streamed(provider, loopback.stream_pieces(provider, "abcd")):
            yield piece
            time.sleep(WAIT / 3)

    return tokens_first(respond)


async def test_a7_a_stream_that_flows_may_take_longer_than_the_timeout(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback.Server(slow_stream(provider)) as server:
        async with loopback.async_client(provider, server.url, tmp_path, monkeypatch) as ours:
            stream = ours.chat.stream("hi", model=loopback.MODELS[provider], timeout=WAIT)
            text = "".join([chunk.text async for chunk in stream])
    assert text == "abcd"


def test_a6_a_stream_whose_last_line_has_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for provider in ("azure", "vertex"):
        body = b"".join(loopback.stream_pieces(provider, ["hello"])).rstrip(b"\n")
        answer = loopback.http(body, content_type="text/event-stream")
        with (
            loopback.Server(tokens_first(lambda asked, answer=answer: answer)) as server,
            loopback.client(provider, server.url, tmp_path, monkeypatch) as ours,
        ):
            stream = ours.chat.stream("hi", model=loopback.MODELS[provider])
            assert "".join(chunk.text for chunk in stream) == "hello"
            assert stream.reply.finish_reason == "stop"


def broken_gzip(asked: loopback.Asked) -> bytes:
    packed = gzip.compress(b"x" * 1000)
    return loopback.http(packed[:10] + b"\xff" * 20, content_encoding="gzip")


def test_a8_a_broken_gzip_answer(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        loopback.Server(tokens_first(broken_gzip)) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch, retries=0) as ours,
        pytest.raises(ConnectionFailed),
    ):
        ours.chat.create("hi", model=loopback.MODELS[provider])


async def test_a8_a_broken_gzip_answer_async(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback.Server(tokens_first(broken_gzip)) as server:
        async with loopback.async_client(
            provider, server.url, tmp_path, monkeypatch, retries=0
        ) as ours:
            with pytest.raises(ConnectionFailed):
                await ours.chat.create("hi", model=loopback.MODELS[provider])


@pytest.mark.parametrize("known", [True, False])
async def test_k26_an_answer_without_bounds(
    provider: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 MiB where a kilobyte is due; whether it says how long it is or not."""
    sent = 0

    def respond(asked: loopback.Asked) -> Iterator[bytes]:
        nonlocal sent
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        length = b"content-length: %d\r\n\r\n" % (200 << 20)
        yield head + (length if known else b"connection: close\r\n\r\n")
        for _ in range(200):
            yield b" " * (1 << 20)
            sent += 1

    with loopback.Server(tokens_first(respond)) as server:
        with (
            loopback.client(provider, server.url, tmp_path, monkeypatch, retries=0) as ours,
            pytest.raises(ProviderError, match="MiB"),
        ):
            ours.chat.create("hi", model=loopback.MODELS[provider])
        async with loopback.async_client(
            provider, server.url, tmp_path, monkeypatch, retries=0
        ) as ours:
            with pytest.raises(ProviderError, match="MiB"):
                await ours.chat.create("hi", model=loopback.MODELS[provider])
    assert sent < 400 - 150


@pytest.mark.parametrize(
    "answer",
    [
        loopback.http(b"{}", "300 Multiple Choices"),
        loopback.http(b"{}", "202 Accepted"),
        loopback.http(b"{}"),
        loopback.http(b'{"error": {"code": 13, "message": "no"}}'),
    ],
)
async def test_k16_an_answer_that_is_none(
    provider: str, answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback.Server(tokens_first(lambda asked: answer)) as server:
        with (
            loopback.client(provider, server.url, tmp_path, monkeypatch, retries=0) as ours,
            pytest.raises(CloudAIError),
        ):
            ours.chat.create("hi", model=loopback.MODELS[provider])
        async with loopback.async_client(
            provider, server.url, tmp_path, monkeypatch, retries=0
        ) as ours:
            with pytest.raises(CloudAIError):
                await ours.chat.create("hi", model=loopback.MODELS[provider])


async def test_k18_a_cancelled_chat_closes_its_connection(
    provider: str, ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Semaphore(0)

    def respond(asked: loopback.Asked) -> Iterator[bytes]:
        arrived.release()
        ended.wait(30)
        yield b""

    with loopback.Server(tokens_first(respond)) as server:
        async with loopback.async_client(provider, server.url, tmp_path, monkeypatch) as ours:
            chats = [
                asyncio.ensure_future(ours.chat.create("hi", model=loopback.MODELS[provider]))
                for _ in range(20)
            ]
            for _ in chats:
                await asyncio.to_thread(arrived.acquire, timeout=20)
            for chat in chats:
                chat.cancel()
            await asyncio.gather(*chats, return_exceptions=True)
            # The service's threads wait elsewhere: what the client does to its ends is seen here.
            gone = [await asyncio.to_thread(closed, one) for one in list(server.open)]
    assert sum(gone) >= 20


def closed(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
