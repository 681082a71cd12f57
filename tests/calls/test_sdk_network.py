"""What the vendors' own SDKs ask (azure-identity, Key Vault, blobs, Cloud Storage) leaves this
machine as all else does: through the proxy, with our authorities and certificates, in time."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import loopback
import pytest
from company import NOWHERE, Place

import cloudai
from cloudai.errors import CallTimeout, CertificateRefused, CloudAIError
from cloudai.protocols import Call
from cloudai.types import SecretRef

WAIT = 0.4
"""Seconds; the services below drip for much longer."""

SDKS = ("identity", "keyvault", "blobs", "storage")
Ask = Callable[..., Any]


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    return request.param


def answer(asked: loopback.Asked) -> bytes:
    """As Entra ID, Key Vault, Azure OpenAI, Azure ML, Blob Storage and Cloud Storage answer."""
    path = urlsplit(asked.path).path
    host = f"https://{asked.headers['host']}"
    if path.endswith("/openid-configuration"):
        base = f"{host}/{path.split('/')[1]}"
        return told(
            {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
            }
        )
    if path.endswith("/oauth2/v2.0/token"):
        return told({"token_type": "Bearer", "expires_in": 3599, "access_token": "entra-token"})
    if path.startswith("/secrets/"):
        if "authorization" not in asked.headers:
            resource = f"https://{asked.headers['host'].partition('.')[2]}"
            challenge = f'Bearer authorization="{host}/tenant-id", resource="{resource}"'
            return loopback.http(b"{}", "401 No", **{"WWW-Authenticate": challenge})
        return told({"value": "azure-secret-key", "id": f"{host}{path}", "attributes": {}})
    if path.endswith("/listSecrets"):
        return told({"sasToken": "sv=1&sig=blob-signature"})
    if "/datastores/" in path:
        about = {"accountName": "a", "endpoint": asked.headers["host"], "containerName": "c"}
        return told({"properties": about})
    if path.startswith("/a/c/"):
        length = {"Content-Range": "bytes 0-4/5", "ETag": '"1"', "x-ms-blob-type": "BlockBlob"}
        return loopback.http(b"hello", "206 Partial", **length)
    if loopback.is_token(asked):
        return loopback.token()
    if path.startswith("/download/storage/"):
        return loopback.http(b"hello")
    return loopback.http(loopback.chat_body("azure"))


def told(value: Any) -> bytes:
    return loopback.http(json.dumps(value).encode())


def is_sdk(sdk: str, asked: loopback.Asked) -> bool:
    """Whether it is the request that the SDK is for."""
    mark = {
        "identity": "/oauth2/",
        "keyvault": "/secrets/",
        "blobs": "/a/c/",
        "storage": "/download/",
    }
    return mark[sdk] in asked.path


@contextmanager
def client(
    sdk: str, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **about: Any
) -> Iterator[Ask]:
    """What asks through the SDK, once."""
    if sdk == "storage":
        about = {**loopback.settings("vertex", url, folder, monkeypatch), **about}
    else:
        names = ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET")
        for name in names:
            monkeypatch.setenv(f"AZURE_{name}", name.lower().replace("_", "-"))
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", url)
        keys: dict[str, Any] = {"endpoint": url, "credential": "environment"}
        if sdk == "keyvault":
            vault = url.replace("localhost", "127.0.0.1")
            keys["api_key"] = SecretRef(store="keyvault", name="key", vault=vault)
        if sdk == "blobs":
            keys |= {"subscription": "s", "resource_group": "g", "workspace": "w"}
            keys["management_endpoint"] = url
        about = {"provider": "azure", **keys, **about}
    with cloudai.Client(retries=0, **about) as made:
        yield lambda timeout=30.0: ask(sdk, made, timeout)


def ask(sdk: str, client: cloudai.Client, timeout: float) -> Any:
    if sdk in {"identity", "keyvault"}:
        return client.chat.create("hi", model="m", timeout=timeout).text
    bound = client.training._bound
    call: Call = bound.caller.call(timeout)
    if sdk == "storage":
        from cloudai.providers.vertex.gcs import Files

        return bound.profile.shared(Files.of).get("gs://bucket/name", call).decode()
    from cloudai.providers.azure.ml.workspace import Workspace

    return Workspace(bound.profile).read("data", "name", call).decode()


def test_e10_sdks_go_through_the_proxy(
    sdk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Place(tmp_path / "tls", answer, monkeypatch) as place:
        monkeypatch.setenv("HTTPS_PROXY", place.tunnel.url)
        with client(sdk, NOWHERE, tmp_path, monkeypatch) as ask:
            assert ask() == "hello"
        assert any(is_sdk(sdk, asked) for asked in place.server.asked)
        assert place.tunnel.asked
        assert all(":9 HTTP/1." in line for line in place.tunnel.asked)


def test_e10_sdks_go_past_the_proxy(
    sdk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Place(tmp_path / "tls", answer, monkeypatch) as place:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8,localhost")
        with client(sdk, place.url, tmp_path, monkeypatch) as ask:
            assert ask() == "hello"


def test_sdks_show_the_client_s_certificate(
    sdk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Place(tmp_path / "tls", answer, monkeypatch) as place:
        place.tls.load_verify_locations(place.authority)
        place.tls.verify_mode = ssl.CERT_REQUIRED
        shown = {
            "client_certificate": str(place.authority),
            "client_key": str(place.folder / "key.pem"),
        }
        with client(sdk, place.url, tmp_path, monkeypatch, **shown) as ask:
            assert ask() == "hello"


def test_c5_sdks_tell_a_certificate_at_once(
    sdk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import certifi

    with Place(tmp_path / "tls", answer, monkeypatch) as place:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
        with (
            client(sdk, place.url, tmp_path, monkeypatch) as ask,
            pytest.raises(CertificateRefused, match="REQUESTS_CA_BUNDLE"),
        ):
            ask()
        assert place.server.accepted == 1


@pytest.mark.parametrize("where", ["head", "body"])
def test_k10_sdks_end_with_the_call(
    sdk: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then, which the SDKs' own limits of one read never meet."""
    ended = threading.Event()

    def respond(asked: loopback.Asked) -> Iterator[bytes]:
        whole = answer(asked)
        quick = 0 if where == "head" else whole.index(b"\r\n\r\n") + 4
        if not is_sdk(sdk, asked) or b" 401 " in whole[:20]:
            quick = len(whole)
        yield whole[:quick]
        for at in range(quick, len(whole)):
            if ended.wait(WAIT / 2):
                return
            yield whole[at : at + 1]

    with Place(tmp_path / "tls", respond, monkeypatch) as place:
        with client(sdk, place.url, tmp_path, monkeypatch) as ask:
            began = time.monotonic()
            with pytest.raises(CloudAIError) as caught:
                ask(WAIT)
            took = time.monotonic() - began
        ended.set()
    assert isinstance(caught.value, CallTimeout)
    assert "blob-signature" not in repr(caught.value)
    assert took < 5 * WAIT
