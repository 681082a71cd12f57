"""Limits, retries and fallbacks, on real sockets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import loopback
import pytest

import cloudai
from cloudai.errors import RateLimited, ServiceUnavailable


@pytest.fixture(params=loopback.PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


class Script:
    """The answers to chats, in their order; then all well."""

    def __init__(self, provider: str, *statuses: int, **headers: str) -> None:
        self._provider = provider
        self._statuses = list(statuses)
        self._headers = headers
        self.times: list[float] = []

    def __call__(self, asked: loopback.Asked) -> bytes:
        if loopback.is_token(asked):
            return loopback.token()
        self.times.append(time.monotonic())
        if self._statuses:
            return loopback.refusal(self._provider, self._statuses.pop(0), **self._headers)
        return loopback.http(loopback.chat_body(self._provider))


def test_c1_25_of_25_after_a_storm(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that came seldom were each refused once; then the service is well."""
    model = loopback.MODELS[provider]
    service = Script(provider, 429, retry_after="0.05")
    with (
        loopback.Server(service) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch) as ours,
        ThreadPoolExecutor(25) as pool,
    ):
        for _ in range(4):
            assert ours.chat.create("hi", model=model, timeout=4.0).text == "hello"
            service._statuses.append(429)
            time.sleep(0.2)
        futures = []
        for _ in range(25):
            futures.append(pool.submit(ours.chat.create, "hi", model=model, timeout=6.0))
            time.sleep(0.01)
        assert [future.result().text for future in futures] == ["hello"] * 25


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_c2_a_retry_after_counts_for_every_status(
    provider: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an earlier 429, and as a date."""
    service = Script(provider, 429, status, retry_after="0.3")
    with (
        loopback.Server(service) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch) as ours,
    ):
        ours.chat.create("hi", model=loopback.MODELS[provider])
    first, second, third = service.times
    assert second - first >= 0.3
    assert third - second >= 0.3


def test_an_outage_is_hardly_amplified(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Script(provider, *[503] * 1000)
    failed = 0
    with (
        loopback.Server(service) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch) as ours,
        ThreadPoolExecutor(25) as pool,
    ):

        def one() -> bool:
            try:
                ours.chat.create("hi", model=loopback.MODELS[provider], timeout=5.0)
            except ServiceUnavailable:
                return True
            return False

        failed = sum(pool.map(lambda _: one(), range(100)))
    assert failed == 100
    assert len(service.times) <= 140


def test_c4_a_dead_profile_is_not_asked_by_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, well = Script("azure", *[503] * 100), Script("azure")
    with loopback.Server(dead) as first, loopback.Server(well) as second:
        (tmp_path / "cloudai.toml").write_text(
            f"""
            [profiles.first]
            provider = "azure"
            endpoint = "{first.url}"
            api_key = {{ env = "KEY" }}
            fallback = ["second"]
            models = {{ default = "gpt" }}
            [profiles.second]
            provider = "azure"
            endpoint = "{second.url}"
            api_key = {{ env = "KEY" }}
            models = {{ default = "gpt" }}
            """
        )
        monkeypatch.setenv("KEY", "k")
        with cloudai.Client("first", config=tmp_path / "cloudai.toml") as ours:
            assert [ours.chat.create("hi").text for _ in range(12)] == ["hello"] * 12
    assert len(dead.times) <= 5
    assert len(well.times) == 12


def test_a_limit_longer_than_the_call_is_told(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        loopback.Server(Script(provider, 429, retry_after="30")) as server,
        loopback.client(provider, server.url, tmp_path, monkeypatch) as ours,
        pytest.raises(RateLimited) as caught,
    ):
        ours.chat.create("hi", model=loopback.MODELS[provider], timeout=2.0)
    assert caught.value.retry_after == 30
