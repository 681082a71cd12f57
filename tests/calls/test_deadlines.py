"""A deadline is of the whole call, on every provider, sync and async; a stream's is silence.

DRIP=3 lets the drips of K10 run at a timeout of three seconds, which a call may pass by a tenth;
with -s it shows what each took (``make drip``). Unset, the timeout is short and the bound wide:
other tests share the machine.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loopback
import pytest

from cloudai.errors import (
    CallTimeout,
    CloudAIError,
    ConnectionFailed,
    ProviderError,
    ServiceUnavailable,
    StreamTruncated,
)

WAIT = 0.6
DRIP = float(os.environ.get("DRIP", "0.4"))
"""Seconds; the services of K10 drip for ten times as long and more."""
BOUND = DRIP * 1.1 if "DRIP" in os.environ else 4.0


@pytest.fixture(params=loopback.PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


class Ended(threading.Event):
    """Ends a dripping service when the test has ended."""

    def drip(self, data: bytes) -> Iterator[bytes]:
        for at in range(len(data)):
            if self.wait(DRIP / 10):
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


OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    "chat": lambda client, provider: client.chat.create("hi", model=loopback.MODELS[provider]),
    "embeddings": lambda client, provider: client.embeddings.create(
        ["hi"], model=loopback.EMBED[provider]
    ),
    "training": lambda client, provider: client.training.list(),
    "endpoints": lambda client, provider: client.endpoints.attach("one"),
    "batch": lambda client, provider: client.batch.attach(ONE[provider]),
}
ONE = {
    "aws": "one",
    "azure": "one",
    "vertex": "projects/p/locations/us-central1/batchPredictionJobs/1",
}
KEYS: dict[str, dict[str, Any]] = {"aws": {"bucket": "bucket"}, "azure": {}, "vertex": {}}
DRIPS = [
    (provider, what, where)
    for provider in loopback.PROVIDERS
    for what, where in [
        ("chat", "head"),
        ("chat", "stream"),
        *((one, "body") for one in OPERATIONS),
    ]
    if (provider, what) != ("azure", "endpoints")  # those are Resource Manager's
]


@functools.cache
def loaded(provider: str) -> None:
    """Loads what a provider's first call loads, which is no part of its wait."""
    folder = Path(os.environ["CLOUDAI_HOME"])
    answer = loopback.http(loopback.chat_body(provider))

    async def once(url: str, patch: pytest.MonkeyPatch) -> None:
        async with loopback.async_client(provider, url, folder, patch) as ours:
            await ours.chat.create("hi", model=loopback.MODELS[provider])

    with (
        pytest.MonkeyPatch.context() as patch,
        loopback.Server(tokens_first(lambda asked: answer)) as server,
        loopback.client(provider, server.url, folder, patch) as ours,
    ):
        ours.chat.create("hi", model=loopback.MODELS[provider])
        thread = threading.Thread(target=lambda: asyncio.run(once(server.url, patch)))
        thread.start()
        thread.join()


def ended_in_time(about: str, began: float, error: CloudAIError) -> None:
    took = time.monotonic() - began
    print(f"\n{about:40} {took:5.2f} s of {DRIP:g} {type(error).__name__}", end="")
    # A machine that is busy may let the time pass before a stream has begun.
    assert isinstance(error, (StreamTruncated, CallTimeout) if "stream" in about else CallTimeout)
    assert took < BOUND  # the drip goes on for more than ten times as long


@pytest.mark.parametrize(("provider", "what", "where"), DRIPS)
def test_k10_a_dripping_service_ends_in_time(
    provider: str,
    what: str,
    where: str,
    ended: Ended,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded(provider)
    about = {"retries": 0, "timeout": DRIP, **KEYS[provider]}
    with (
        loopback.Server(dripping(provider, where, ended)) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch, **about) as ours,
    ):
        began = time.monotonic()
        with pytest.raises(CloudAIError) as caught:
            if where == "stream":
                for _ in ours.chat.stream("hi", model=loopback.MODELS[provider]):
                    began = time.monotonic()
            else:
                OPERATIONS[what](ours, provider)
        ended_in_time(f"{provider} {what} {where}", began, caught.value)


@pytest.mark.parametrize(("provider", "what", "where"), DRIPS)
async def test_k10_a_dripping_service_ends_in_time_async(
    provider: str,
    what: str,
    where: str,
    ended: Ended,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded(provider)
    about = {"retries": 0, "timeout": DRIP, **KEYS[provider]}
    with loopback.Server(dripping(provider, where, ended)) as server:
        async with loopback.async_client(
            provider, server.url, tmp_path, monkeypatch, **about
        ) as ours:
            began = time.monotonic()
            with pytest.raises(CloudAIError) as caught:
                if where == "stream":
                    model = loopback.MODELS[provider]
                    async for _ in ours.chat.stream("hi", model=model):
                        began = time.monotonic()
                else:
                    await OPERATIONS[what](ours, provider)
            ended_in_time(f"{provider} {what} {where} async", began, caught.value)


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


NONE = {
    "300": (loopback.http(b"{}", "300 Multiple Choices"), "300"),
    "202": (loopback.http(b"{}", "202 Accepted"), "answer|vectors"),
    "{}": (loopback.http(b"{}"), "answer|vectors"),
    "list": (loopback.http(b"[]"), "answer"),
    "null": (loopback.http(b"null"), "answer"),
    "page": (loopback.http(b"<html>hello</html>", content_type="text/html"), "answer"),
    "error": (
        loopback.http(b'{"error": {"code": 13, "message": "no way"}}'),
        "answer|no way|vectors",
    ),
}
"""Answers that are none, and what each is told by."""
EMPTY = {("vertex", "training", "{}"), ("vertex", "training", "202")}
"""An empty list is ``{}`` in Google's JSON (proto3: fields of their default are left out)."""
ASKED = [(what, name) for what in ("chat", "embeddings", "training") for name in NONE]


def told_at_once(error: CloudAIError, name: str, began: float) -> None:
    # An error's own words say what it is; those of 13, which no service of OpenAI's format has,
    # are of a service that is not there.
    kinds = (ProviderError, ServiceUnavailable) if name == "error" else (ProviderError,)
    assert isinstance(error, kinds), error
    assert re.search(NONE[name][1], str(error)), error
    assert "Error(" not in str(error)
    assert time.monotonic() - began < 10  # nothing is waited for, or asked again


@pytest.mark.parametrize(("what", "name"), ASKED)
async def test_k16_an_answer_that_is_none(
    provider: str, what: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, ask = NONE[name][0], OPERATIONS[what]
    with loopback.Server(tokens_first(lambda asked: answer)) as server:
        with loopback.client(provider, server.url, tmp_path, monkeypatch, **KEYS[provider]) as ours:
            if (provider, what, name) in EMPTY:
                assert ask(ours, provider) == []
                return
            began = time.monotonic()
            with pytest.raises(CloudAIError) as caught:
                ask(ours, provider)
            if name != "error":
                assert len([one for one in server.asked if not loopback.is_token(one)]) == 1
            told_at_once(caught.value, name, began)
        async with loopback.async_client(
            provider, server.url, tmp_path, monkeypatch, **KEYS[provider], retries=0
        ) as ours:
            with pytest.raises(CloudAIError) as caught:
                await ask(ours, provider)
            told_at_once(caught.value, name, time.monotonic())


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
