"""Texts over several requests: each is asked for, refused and asked again for itself."""

from __future__ import annotations

import json
import struct
import threading
from collections import Counter
from pathlib import Path

import loopback
import pytest

from cloudai._core.batches import transforms
from cloudai._core.batches.runner import run_batch
from cloudai._core.calls.texts import Texts, TooLarge
from cloudai.errors import InvalidRequest, ProviderError, ServiceUnavailable
from cloudai.protocols import Call
from cloudai.types import BatchTransform, EmbeddingReply, EmbeddingRequest, Usage


class Windows:
    """Lets a part of the requests through, refuses the rest, and counts what was paid."""

    def __init__(self, provider: str, through: int, status: int = 429) -> None:
        self._provider = provider
        self._left = through
        self._status = status
        self._lock = threading.Lock()
        self.paid: Counter[str] = Counter()

    def __call__(self, asked: loopback.Asked) -> bytes:
        if loopback.is_token(asked):
            return loopback.token()
        with self._lock:
            self._left -= 1
            if -10 <= self._left < 0:
                return loopback.refusal(self._provider, self._status, retry_after="0.05")
            self.paid.update(loopback.texts_of(self._provider, asked))
        return loopback.http(loopback.vectors_body(self._provider, asked))


@pytest.fixture(params=loopback.PROVIDERS)
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    from cloudai.providers.azure.openai.wire import embeddings as wire

    monkeypatch.setattr(wire, "MAX_TEXTS", 1)  # a request a text, as the others have it
    return request.param


TEXTS = [f"text {n}" for n in range(60)]


def test_c3_no_text_is_paid_twice(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Windows(provider, 40)
    with (
        loopback.Server(service) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch) as ours,
    ):
        reply = ours.embeddings.create(TEXTS, model=loopback.EMBED[provider])
    assert len(reply) == 60
    assert reply.usage.input_tokens == 60
    assert service.paid == Counter(TEXTS)


async def test_c3_no_text_is_paid_twice_async(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Windows(provider, 40, 503)
    with loopback.Server(service) as server:
        async with loopback.async_client(provider, server.url, tmp_path, monkeypatch) as ours:
            reply = await ours.embeddings.create(TEXTS, model=loopback.EMBED[provider])
    assert len(reply) == 60
    assert service.paid == Counter(TEXTS)


class Adapter:
    """Takes ``most`` texts at once, and fails as told."""

    def __init__(self, most: int = 1, fails: int = 0) -> None:
        self._most = most
        self._fails = fails
        self.asked: list[tuple[str, ...]] = []

    def groups(self, request: EmbeddingRequest) -> list[tuple[str, ...]]:
        return [
            request.texts[at : at + self._most] for at in range(0, len(request.texts), self._most)
        ]

    def embed(self, request: EmbeddingRequest) -> EmbeddingReply:
        self.asked.append(request.texts)
        if self._fails and len(self.asked) >= self._fails:
            raise ServiceUnavailable("down")
        if len(request.texts) > 2:
            raise TooLarge("too many")
        if request.texts[0] == "bad":
            raise TooLarge("one alone")
        return EmbeddingReply(
            data=b"".join(struct.pack("<f", float(text)) for text in request.texts),
            dim=1,
            model="m",
            provider="p",
            usage=Usage(input_tokens=len(request.texts)),
            cost=0.5,
        )


def request(*texts: str) -> EmbeddingRequest:
    return EmbeddingRequest(model="m", texts=texts)


def test_c3_a_fallback_asks_only_for_what_is_left() -> None:
    given = Texts(request(*map(str, range(10))))
    broken, other = Adapter(1, fails=4), Adapter(2)
    with pytest.raises(ServiceUnavailable):
        given.run(broken, broken.embed)
    reply = given.run(other, other.embed)
    assert [row[0] for row in reply.vectors] == [float(n) for n in range(10)]
    twice = Counter(text for part in broken.asked + other.asked for text in part)
    # What the broken one was asked and did not answer is asked again, nothing else.
    assert sum(twice.values()) - 10 == len(broken.asked) - 3


def test_c3_a_part_that_is_too_large_goes_in_halves() -> None:
    given, adapter = Texts(request(*map(str, range(7)))), Adapter(7)
    reply = given.run(adapter, adapter.embed)
    assert [row[0] for row in reply.vectors] == [float(n) for n in range(7)]
    assert reply.usage.input_tokens == 7
    assert reply.cost == 0.5 * (len(adapter.asked) - 3)
    with pytest.raises(InvalidRequest, match="one alone"):
        Texts(request("bad")).run(adapter, adapter.embed)


def test_vectors_that_are_missing_are_told() -> None:
    adapter = Adapter()
    with pytest.raises(ProviderError, match="1 vectors came for 2"):
        Texts(request("1", "2")).run(object(), lambda part: adapter.embed(request("1")))


def test_c3_a_batch_line_that_is_refused_has_no_other_paid_twice(tmp_path: Path) -> None:
    paid: Counter[str] = Counter()

    class One:
        """A request a text, as Titan and Gemini have it; refuses some."""

        def groups(self, request: EmbeddingRequest) -> list[tuple[str, ...]]:
            return [(text,) for text in request.texts]

        def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
            (text,) = request.texts
            if text.startswith("bad"):
                raise InvalidRequest("too long")
            paid[text] += 1
            data = struct.pack("<f", float(text))
            return EmbeddingReply(
                data=data, dim=1, model="m", provider="p", usage=Usage(input_tokens=1)
            )

    lines = ["bad 0" if n in {5, 17} else str(n % 40) for n in range(50)]
    given, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = BatchTransform(
        input=str(given), output=str(output), embeddings="m", batch_size=50, on_error="skip"
    )
    done = run_batch(spec, transforms.embeddings(One(), "m", {}))
    assert (done.lines, done.errors) == (50, 2)
    told = [json.loads(line) for line in output.read_text().splitlines()]
    for line, one in zip(lines, told, strict=True):
        assert one is None if line == "bad 0" else one["embedding"] == [float(line)]
    # Equal lines are asked for each; beyond them nothing is.
    assert sum(paid.values()) <= 48
