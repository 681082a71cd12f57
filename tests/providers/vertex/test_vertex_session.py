"""Credentials, tokens, places: who asks, where, and with what."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloudai import AsyncClient, Client
from cloudai._core.profiles.config import Config
from cloudai.errors import AuthenticationError, ConfigError, NotFound
from cloudai.protocols import Call
from cloudai.providers.vertex.session import VertexSession
from cloudai.providers.vertex.tokens import Tokens
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import SecretRef

FLASH = "gemini-3.5-flash"


def session(**keys: Any) -> VertexSession:
    return VertexSession(Config().profile(provider="vertex", **keys))


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("europe-west4", "https://europe-west4-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
        ("us", "https://aiplatform.us.rep.googleapis.com"),
    ],
)
def test_hosts_are_those_of_google_genai(location: str, url: str) -> None:
    genai = pytest.importorskip("google.genai")
    from google.oauth2.credentials import Credentials

    theirs = genai.Client(
        vertexai=True, project="p", location=location, credentials=Credentials("x")
    )
    assert session(project="p", location=location).url() == url
    assert theirs._api_client._http_options.base_url.rstrip("/") == url
    theirs.close()


def test_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = session(project="p", location="us-central1")
    assert plain.url("storage") == "https://storage.googleapis.com"
    private = session(
        project="p",
        location="us-central1",
        endpoint="https://us-central1-aiplatform.p.googleapis.com",
    )
    assert private.url("storage") == "https://storage.googleapis.com"
    assert private.url() == "https://us-central1-aiplatform.p.googleapis.com"
    gateway = session(project="p", location="us-central1", endpoint="http://gateway:8080/")
    assert gateway.url("logging") == gateway.url() == "http://gateway:8080"
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING", "http://logs/")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://files")
    assert gateway.url("logging") == "http://logs"
    assert plain.url("storage") == "http://files"


def test_missing_location_says_where_it_looked(cloud: VertexEmulator) -> None:
    keys = cloud.keys()
    del keys["location"]
    with pytest.raises(ConfigError) as caught:
        Client(provider="vertex", **keys).chat.create("Hi", model=FLASH)
    for place in ("arguments", "CLOUDAI_LOCATION", "cloudai.toml", "GOOGLE_CLOUD_LOCATION"):
        assert place in str(caught.value)
    assert cloud.requests == []


def test_missing_project_says_where_it_looked(cloud: VertexEmulator, tmp_path: Path) -> None:
    about = json.loads(cloud.credentials.read_text())
    del about["project_id"]
    path = tmp_path / "account.json"
    path.write_text(json.dumps(about))
    keys = {**cloud.keys(), "credentials": str(path)}
    del keys["project"]
    with pytest.raises(ConfigError) as caught:
        Client(provider="vertex", **keys).chat.create("Hi", model=FLASH)
    for place in ("CLOUDAI_PROJECT", "GOOGLE_CLOUD_PROJECT", "credential"):
        assert place in str(caught.value)
    assert cloud.requests == []


def test_project_of_the_credential(cloud: VertexEmulator) -> None:
    keys = cloud.keys()
    del keys["project"]
    assert Client(provider="vertex", **keys).chat.create("Hi", model=FLASH).text


def test_application_default_credentials(
    cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    assert Client(provider="vertex").chat.create("Hi", model=FLASH).text


def test_impersonation(cloud: VertexEmulator) -> None:
    client = Client(
        provider="vertex", impersonate="robot@p.iam.gserviceaccount.com", **cloud.keys()
    )
    assert client.chat.create("Hi", model=FLASH).text
    paths = [one.path for one in cloud.requests]
    assert any("robot@p.iam" in path and "generateAccessToken" in path for path in paths)


def test_workload_identity(cloud: VertexEmulator, tmp_path: Path) -> None:
    """A file of another kind: a token of another issuer, exchanged."""
    subject = tmp_path / "subject"
    subject.write_text("a-token-of-another-issuer")
    path = tmp_path / "federated.json"
    path.write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/"
                "workloadIdentityPools/pool/providers/own",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{cloud.url}/token",
                "credential_source": {"file": str(subject)},
            }
        )
    )
    client = Client(provider="vertex", **{**cloud.keys(), "credentials": str(path)})
    assert client.chat.create("Hi", model=FLASH).text
    asked = [one.body for one in cloud.requests if one.path == "/token"]
    assert asked
    assert all(b"token-exchange" in body for body in asked)


def test_on_a_machine_of_google_s(cloud: VertexEmulator, tmp_path: Path) -> None:
    """Neither a file nor a project is given: both come from the metadata server."""
    keys = cloud.keys()
    del keys["project"], keys["credentials"]
    script = f"""
import cloudai
client = cloudai.Client(provider="vertex", **{keys!r})
assert client.chat.create("Hi", model={FLASH!r}).text
"""
    host = cloud.url.removeprefix("http://")
    kept = ("PATH", "PYTHONPATH", "CLOUDAI_HOME", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env |= {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=env)


@pytest.mark.parametrize("content", [None, "not json", '{"type": "service_account"}'])
def test_credential_files_that_are_none(
    cloud: VertexEmulator, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    client = Client(provider="vertex", **{**cloud.keys(), "credentials": str(path)})
    with pytest.raises(AuthenticationError):
        client.chat.create("Hi", model=FLASH)


def test_no_credential_at_all(
    cloud: VertexEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    keys = cloud.keys()
    del keys["credentials"]
    with pytest.raises(AuthenticationError, match="application-default"):
        Client(provider="vertex", **keys).chat.create("Hi", model=FLASH)


def test_one_refresh_serves_a_crowd(client: Client, cloud: VertexEmulator) -> None:
    cloud.identity.delay = 0.2
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: client.chat.create("Hi", model=FLASH), range(16)))
    assert cloud.identity.issued == 1


async def test_refresh_does_not_block_the_loop(aclient: AsyncClient, cloud: VertexEmulator) -> None:
    assert (await aclient.chat.create("Hi", model=FLASH)).text  # what it imports is loaded
    cloud.identity.revoke()
    cloud.identity.delay = 5.0
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            longest = max(longest, time.perf_counter() - before)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(aclient.chat.create("Hi", model=FLASH) for _ in range(16)))
    ticking.cancel()
    assert cloud.identity.issued == 2
    assert longest < 4.0  # a busy machine, and the emulator in this process, take some


def test_revoked_token_is_renewed(client: Client, cloud: VertexEmulator) -> None:
    assert client.chat.create("Hi", model=FLASH).text
    cloud.identity.revoke()
    assert client.chat.create("Hi", model=FLASH).text
    assert cloud.identity.issued == 2


async def test_revoked_token_is_renewed_async(aclient: AsyncClient, cloud: VertexEmulator) -> None:
    assert (await aclient.chat.create("Hi", model=FLASH)).text
    cloud.identity.revoke()
    assert (await aclient.chat.create("Hi", model=FLASH)).text


def test_tokens_are_renewed_ahead() -> None:
    made: list[float] = []
    fetched = threading.Event()

    def fetch() -> tuple[dict[str, str], float]:
        made.append(time.time())
        if len(made) == 2:
            fetched.set()
        return {"authorization": f"Bearer {len(made)}"}, time.time() + (
            100 if len(made) == 1 else 3600
        )

    tokens = Tokens(fetch)
    assert tokens.headers(5) == {"authorization": "Bearer 1"}
    # 100 s are left: less than EARLY, so that a new one is fetched beside the call.
    assert tokens.headers(5) == {"authorization": "Bearer 1"}
    assert fetched.wait(60)
    deadline = time.monotonic() + 60
    while tokens.headers(5) != {"authorization": "Bearer 2"}:
        assert time.monotonic() < deadline
    assert len(made) == 2


def test_a_failed_refresh_reaches_everyone_and_is_tried_again() -> None:
    answers: list[Any] = [
        AuthenticationError("no"),
        ({"authorization": "Bearer x"}, time.time() + 3600),
    ]

    def fetch() -> tuple[dict[str, str], float]:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    tokens = Tokens(fetch)
    with pytest.raises(AuthenticationError):
        tokens.headers(5)
    assert tokens.headers(5) == {"authorization": "Bearer x"}


def test_tokens_show_nothing() -> None:
    tokens = Tokens(lambda: ({"authorization": "Bearer CANARY"}, time.time() + 3600))
    tokens.headers(1)
    assert "CANARY" not in repr(tokens)
    with pytest.raises(TypeError):
        pickle.dumps(tokens)


def test_no_secret_in_logs_errors_and_ledger(
    client: Client, cloud: VertexEmulator, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    key = json.loads(cloud.credentials.read_text())["private_key"].splitlines()[3]
    client.chat.create("Hi", model=FLASH)
    cloud.faults.add("throttle", ":generateContent", retry_after=0.01)
    client.chat.create("Hi", model=FLASH)
    with pytest.raises(NotFound) as caught:
        client.chat.create("Hi", model="gemini-9")
    told = caplog.text + repr(caught.value) + str(caught.value) + repr(client)
    told += pickle.dumps(caught.value).decode("latin-1")
    told += "".join(
        path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()
    )
    assert "ya29" not in told
    assert key not in told


def test_secret_manager(client: Client, cloud: VertexEmulator) -> None:
    cloud.secrets["api-key"] = "first"
    cloud.secrets["api-key"] = "second"
    profile = client.profile
    from cloudai.providers.vertex.secrets import SecretManager

    store = SecretManager(profile)
    assert store.get(SecretRef(store="secretmanager", name="api-key"), Call()) == "second"
    assert (
        store.get(SecretRef(store="secretmanager", name="api-key", version="1"), Call()) == "first"
    )
    full = f"projects/{cloud.project}/secrets/api-key"
    assert store.get(SecretRef(store="secretmanager", name=full), Call()) == "second"
    with pytest.raises(NotFound):
        store.get(SecretRef(store="secretmanager", name="none"), Call())


def test_spec_and_chat_load_no_heavy_sdk(cloud: VertexEmulator) -> None:
    script = f"""
import sys
import cloudai.providers.vertex
assert not [m for m in sys.modules if m.startswith(("google.auth", "urllib3", "aiohttp"))]
import cloudai
client = cloudai.Client(provider="vertex", **{cloud.keys()!r})
assert client.chat.create("Hi", model={FLASH!r}).text
heavy = ("google.genai", "google.cloud.a", "google.cloud.s", "google.api_core", "grpc",
         "pydantic", "aiohttp", "numpy")
assert not [m for m in sys.modules if m.startswith(heavy)], sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
