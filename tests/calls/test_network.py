"""Networks as companies have them: proxies, authorities, certificates; alike on each provider."""

from __future__ import annotations

import ssl
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
from company import NOWHERE, Place

from cloudai._core.calls.network import bypassed, proxy
from cloudai.errors import CertificateRefused, CloudAIError, ConfigError


@pytest.fixture(params=loopback.PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    def respond(asked: loopback.Asked) -> bytes:
        if loopback.is_token(asked):
            return loopback.token()
        return loopback.http(loopback.chat_body(provider))

    with Place(tmp_path / "tls", respond, monkeypatch) as made:
        yield made


async def test_e10_through_a_proxy(
    provider: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", place.tunnel.url)
    model = loopback.MODELS[provider]
    with loopback.client(provider, NOWHERE, tmp_path, monkeypatch) as ours:
        assert ours.chat.create("hi", model=model).text == "hello"
    before = len(place.tunnel.asked)
    async with loopback.async_client(provider, NOWHERE, tmp_path, monkeypatch) as ours:
        assert (await ours.chat.create("hi", model=model)).text == "hello"
    assert before >= 1
    assert len(place.tunnel.asked) > before
    assert all(line.startswith("CONNECT localhost:9 HTTP/1.") for line in place.tunnel.asked)


async def test_e10_past_the_proxy(
    provider: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", f"10.0.0.0/8,localhost:{place.server.port}")
    model = loopback.MODELS[provider]
    with loopback.client(provider, place.url, tmp_path, monkeypatch) as ours:
        assert ours.chat.create("hi", model=model).text == "hello"
    async with loopback.async_client(provider, place.url, tmp_path, monkeypatch) as ours:
        assert (await ours.chat.create("hi", model=model)).text == "hello"


@pytest.mark.parametrize("name", ["CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_e10_the_authorities_that_the_environment_names(
    provider: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """REQUESTS_CA_BUNDLE has all other tests here."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    where = place.authority
    if name == "SSL_CERT_DIR":  # of OpenSSL's kind: by the hash of the subject
        where = tmp_path / "authorities"
        where.mkdir()
        (where / _hash_of(place.authority)).write_bytes(place.authority.read_bytes())
    monkeypatch.setenv(name, str(where))
    model = loopback.MODELS[provider]
    with loopback.client(provider, place.url, tmp_path, monkeypatch) as ours:
        assert ours.chat.create("hi", model=model).text == "hello"
    async with loopback.async_client(provider, place.url, tmp_path, monkeypatch) as ours:
        assert (await ours.chat.create("hi", model=model)).text == "hello"


def _hash_of(certificate: Path) -> str:
    asked = ["openssl", "x509", "-hash", "-noout", "-in", str(certificate)]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("no openssl program")
    return f"{found.stdout.strip()}.0"


async def test_c5_a_certificate_is_told_at_once(
    provider: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import certifi

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    model = loopback.MODELS[provider]
    with (
        loopback.client(provider, place.url, tmp_path, monkeypatch) as ours,
        pytest.raises(CertificateRefused, match="REQUESTS_CA_BUNDLE") as caught,
    ):
        ours.chat.create("hi", model=model)
    assert not caught.value.retryable
    assert place.server.accepted == 1
    async with loopback.async_client(provider, place.url, tmp_path, monkeypatch) as ours:
        with pytest.raises(CertificateRefused):
            await ours.chat.create("hi", model=model)
    assert place.server.accepted == 2


async def test_a_client_certificate_is_shown(
    provider: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.tls.load_verify_locations(place.authority)
    place.tls.verify_mode = ssl.CERT_REQUIRED
    shown = {
        "client_certificate": str(place.authority),
        "client_key": str(place.folder / "key.pem"),
    }
    model = loopback.MODELS[provider]
    with loopback.client(provider, place.url, tmp_path, monkeypatch, **shown) as ours:
        assert ours.chat.create("hi", model=model).text == "hello"
    async with loopback.async_client(provider, place.url, tmp_path, monkeypatch, **shown) as ours:
        assert (await ours.chat.create("hi", model=model)).text == "hello"
    shown["client_key"] = str(place.folder / "nothing.pem")
    with (
        loopback.client(provider, place.url, tmp_path, monkeypatch, **shown) as ours,
        pytest.raises(ConfigError, match="client_certificate"),
    ):
        ours.chat.create("hi", model=model)


@pytest.mark.parametrize(
    ("host", "port", "listed", "past"),
    [
        ("api.example.com", 443, "example.com", True),
        ("api.example.com", 443, ".example.com", True),
        ("example.com", 443, ".example.com", True),
        ("notexample.com", 443, "example.com", False),
        ("api.example.com", 443, "other.com, api.example.com", True),
        ("api.example.com", 443, "example.com:8443", False),
        ("api.example.com", 8443, "example.com:8443", True),
        ("10.1.2.3", 443, "10.0.0.0/8", True),
        ("11.1.2.3", 443, "10.0.0.0/8", False),
        ("10.1.2.3", 443, "10.1.2.3:443", True),
        ("fd00::1", 443, "fd00::/8", True),
        ("fd00::1", 443, "[fd00::1]:443", True),
        ("API.Example.com.", 443, "example.COM", True),
        ("anything", 1, "*", True),
        ("anything", 1, "", False),
    ],
)
def test_e10_no_proxy(host: str, port: int, listed: str, past: bool) -> None:
    assert bypassed(host, port, listed) is past


def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:proxy-password@127.0.0.1:1080")
    with pytest.raises(ConfigError, match="SOCKS") as caught:
        proxy("https://example.com")
    assert "proxy-password" not in str(caught.value)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:proxy-password@127.0.0.1:1080")
    found = proxy("https://example.com")
    assert found is not None
    assert "proxy-password" not in repr(found)
    assert "user" not in repr(found.headers).lower()


async def test_k17_no_secret_in_the_frames_of_a_traceback(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "aws-session-token")
    hidden = ("azure-secret-key", "aws-secret-key", "aws-session-token", "ya29.secret-token")
    answers = [loopback.http(b"nothing"), loopback.refusal(provider, 503), b"HTTP/1.1 200"]
    given: list[bytes] = []

    def respond(asked: loopback.Asked) -> Iterator[bytes] | bytes:
        if loopback.is_token(asked):
            return loopback.token()
        return given[-1]

    with loopback.Server(respond) as server:
        for answer in answers:
            given.append(answer)
            failures: list[CloudAIError] = []
            with loopback.client(
                provider, server.url, tmp_path, monkeypatch, retries=0, timeout=1
            ) as ours:
                try:
                    ours.chat.create("hi", model=loopback.MODELS[provider])
                except CloudAIError as error:
                    failures.append(error)
            async with loopback.async_client(
                provider, server.url, tmp_path, monkeypatch, retries=0, timeout=1
            ) as ours:
                try:
                    await ours.chat.create("hi", model=loopback.MODELS[provider])
                except CloudAIError as error:
                    failures.append(error)
            assert len(failures) == 2
            for error in failures:
                seen = 0
                for frame, _ in traceback.walk_tb(error.__traceback__):
                    if "/cloudai/" not in frame.f_code.co_filename.replace("\\", "/"):
                        continue
                    seen += 1
                    for name, value in frame.f_locals.items():
                        told = repr(value)
                        assert not [one for one in hidden if one in told], (frame, name)
                assert seen > 3
