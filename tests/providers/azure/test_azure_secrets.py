"""Key Vault, rotation, identities; and that no secret gets out."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import (
    AuthenticationError,
    CloudAIError,
    ConfigError,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
)
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.types import BatchTransform, SecretRef


def ref(azure: AzureEmulator, name: str = "openai-key", version: str | None = None) -> SecretRef:
    return SecretRef(store="keyvault", name=name, vault=azure.vault_url, version=version)


def test_the_key_comes_from_the_vault(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client]
) -> None:
    azure.vault.put("openai-key", azure.key)
    client = connect(api_key=ref(azure))
    for _ in range(3):
        assert client.chat.create("hi", model="smart").text == "hi"
    assert azure.vault.reads == 1
    assert azure.tokens_issued == 1


def test_as_cloudai_toml_writes_it(
    azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.vault.put("openai-key", azure.key)
    file = tmp_path / "cloudai.toml"
    file.write_text(
        'default = "prod"\n[profiles.prod]\nprovider = "azure"\n'
        f'endpoint = "{azure.url}"\n'
        f'api_key = {{ keyvault = "{azure.vault_url}", secret = "openai-key" }}\n'
        '[profiles.prod.models]\ndefault = "smart"\n'
    )
    with cloudai.Client(config=file) as client:
        assert client.chat.create("hi").text == "hi"


def test_versions(azure: AzureEmulator, connect: Callable[..., cloudai.Client]) -> None:
    first = azure.vault.put("openai-key", azure.key)
    azure.vault.put("openai-key", "another")
    assert connect(api_key=ref(azure, version=first)).chat.create("a", model="smart").text
    with pytest.raises(AuthenticationError):
        connect(api_key=ref(azure)).chat.create("a", model="smart")
    with pytest.raises(NotFound, match="version 00"):
        connect(api_key=ref(azure, version="0" * 32)).chat.create("a", model="smart")


def test_a_rotated_key_is_fetched_once(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client]
) -> None:
    azure.vault.put("openai-key", azure.key)
    client = connect(api_key=ref(azure))
    client.chat.create("hi", model="smart")
    azure.vault.put("openai-key", "rotated-key")
    azure.rotate("rotated-key")
    ready = threading.Barrier(12)

    def ask(_: int) -> str:
        ready.wait()
        return client.chat.create("hi", model="smart").text

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(ask, range(12))) == {"hi"}
    assert azure.vault.reads == 2


def test_a_rotated_key_under_asyncio(azure: AzureEmulator) -> None:
    azure.vault.put("openai-key", azure.key)
    client = cloudai.AsyncClient(provider="azure", api_key=ref(azure))

    async def several() -> set[str]:
        calls = [client.chat.create("hi", model="smart") for _ in range(12)]
        return {reply.text for reply in await asyncio.gather(*calls)}

    async def stream() -> str:
        return "".join([chunk.text async for chunk in client.chat.stream("hi", model="smart")])

    assert asyncio.run(several()) == {"hi"}
    azure.vault.put("openai-key", "rotated-key")
    azure.rotate("rotated-key")
    assert asyncio.run(several()) == {"hi"}
    azure.vault.put("openai-key", "again-another")
    azure.rotate("again-another")
    assert asyncio.run(stream()) == "hi"
    assert azure.vault.reads == 3
    asyncio.run(client.close())


def test_a_key_that_stays_wrong_is_asked_for_once_more(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client]
) -> None:
    azure.vault.put("openai-key", "wrong")
    with pytest.raises(AuthenticationError):
        connect(api_key=ref(azure)).chat.create("hi", model="smart")
    assert azure.vault.reads == 2
    assert len([r for r in azure.requests if "/chat/" in r.path]) == 1


def test_entra_id_instead_of_a_key(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client]
) -> None:
    for version in (None, "2024-10-21"):
        client = connect(**({"api_version": version} if version else {}))
        assert client.chat.create("hi", model="smart").text == "hi"
        assert client.chat.create("hi", model="smart").text == "hi"
    assert all(
        r.headers["authorization"].startswith("Bearer emulated-token")
        for r in azure.requests
        if "/chat/" in r.path
    )


@pytest.mark.parametrize("credential", ["environment", "default"])
def test_a_service_principal(
    azure: AzureEmulator,
    connect: Callable[..., cloudai.Client],
    monkeypatch: pytest.MonkeyPatch,
    credential: str,
) -> None:
    for name, value in azure.principal.items():
        monkeypatch.setenv(name, value)
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "CLOUDAI_CREDENTIAL"):
        monkeypatch.delenv(name)
    azure.vault.put("openai-key", azure.key)
    for keys in ({}, {"api_key": ref(azure)}):
        client = connect(credential=credential, **keys)
        assert client.chat.create("hi", model="smart").text == "hi"
        assert client.endpoints.list() == []
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "canary-client-secret")
    with pytest.raises(AuthenticationError, match="Invalid client secret") as caught:
        connect(credential=credential).chat.create("hi", model="smart")
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_each_profile_reads_its_vault_with_its_own_credential(
    azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDAI_CREDENTIAL")
    azure.vault.put("openai-key", azure.key)
    key = f'{{ keyvault = "{azure.vault_url}", secret = "openai-key" }}'
    file = tmp_path / "cloudai.toml"
    file.write_text(
        "".join(
            f'[profiles.{name}]\nprovider = "azure"\ncredential = "{credential}"\napi_key = {key}\n'
            for name, credential in (("may-not", "environment"), ("may", "managed-identity"))
        )
    )
    with cloudai.Client("may", config=file) as client:
        assert client.chat.create("hi", model="smart").text == "hi"
        for profile in ("may-not", "may"):
            with cloudai.Client(profile, config=file) as other:
                if profile == "may":
                    assert other.chat.create("hi", model="smart").text == "hi"
                    continue
                with pytest.raises(AuthenticationError, match="no token"):
                    other.chat.create("hi", model="smart")


def test_no_identity(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDAI_CREDENTIAL", "environment")
    with pytest.raises(AuthenticationError, match="az login"):
        connect().chat.create("hi", model="smart")
    with pytest.raises(AuthenticationError, match="no token"):
        connect(api_key=ref(azure)).chat.create("hi", model="smart")


def test_secrets_that_cannot_be_read(
    azure: AzureEmulator, connect: Callable[..., cloudai.Client]
) -> None:
    def ask(given: SecretRef) -> None:
        connect(api_key=given).chat.create("hi", model="smart")

    with pytest.raises(NotFound, match="'nothing' of https://127.0.0.1"):
        ask(ref(azure, "nothing"))
    azure.vault.put("off", "value", enabled=False)
    with pytest.raises(Conflict, match="disabled"):
        ask(ref(azure, "off"))
    azure.vault.put("gone", "value")
    azure.vault.delete("gone")
    with pytest.raises(NotFound, match="deleted, and recoverable"):
        ask(ref(azure, "gone"))
    azure.vault.forbidden = True
    with pytest.raises(PermissionDenied, match="Key Vault Secrets User"):
        ask(ref(azure, "off"))


@pytest.mark.parametrize(
    ("name", "vault", "error", "message"),
    [
        ("under_score", None, InvalidRequest, "letters, digits and hyphens"),
        ("x", "http://127.0.0.1:1", ConfigError, "plain http"),
        ("x", "http://acme.vault.azure.net", ConfigError, "plain http"),
        ("x", "https://acme.vault.azure.net/secrets/x", ConfigError, "path"),
    ],
)
def test_bad_references(
    azure: AzureEmulator,
    connect: Callable[..., cloudai.Client],
    name: str,
    vault: str | None,
    error: type[Exception],
    message: str,
) -> None:
    given = SecretRef(store="keyvault", name=name, vault=vault or azure.vault_url)
    with pytest.raises(error, match=message):
        connect(api_key=given).chat.create("hi", model="smart")
    assert not azure.requests


def test_the_vaults_own_sdk_works_with_the_emulator(azure: AzureEmulator) -> None:
    from azure.core.exceptions import (
        HttpResponseError,
        ResourceExistsError,
        ResourceNotFoundError,
    )
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    with SecretClient(azure.vault_url, DefaultAzureCredential()) as vault:
        vault.set_secret("one", "value")
        assert vault.get_secret("one").value == "value"
        assert vault.begin_delete_secret("one").result().name == "one"
        with pytest.raises(ResourceNotFoundError):
            vault.get_secret("one")
        with pytest.raises(ResourceExistsError, match="deleted but recoverable"):
            vault.set_secret("one", "again")
        vault.begin_recover_deleted_secret("one").wait()
        newer = vault.set_secret("one", "newer", enabled=False)
        versions = list(vault.list_properties_of_secret_versions("one"))
        assert [version.enabled for version in versions] == [True, False]
        with pytest.raises(HttpResponseError, match="disabled"):
            vault.get_secret("one")
        vault.update_secret_properties("one", newer.properties.version, enabled=True)
        assert vault.get_secret("one").value == "newer"
        assert [secret.name for secret in vault.list_properties_of_secrets()] == ["one"]
        vault.begin_delete_secret("one").wait()
        vault.purge_deleted_secret("one")
        assert vault.set_secret("one", "anew").value == "anew"


def test_no_secret_gets_out(
    azure: AzureEmulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    canary = "canary0key1of2cloudai3x4y5z6w7v8u9"
    azure.rotate(canary)
    azure.vault.put("openai-key", canary)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "azure", "urllib3", "msal", "aiohttp", "cloudai"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    seen: list[str] = []

    def note(thing: object) -> None:
        seen.append(repr(thing))
        seen.append(str(thing))
        try:
            seen.append(repr(pickle.dumps(thing)))
        except Exception as error:  # what does not pickle cannot leak that way
            seen.append(str(error))

    for given in (canary, ref(azure)):
        client = cloudai.Client(provider="azure", api_key=given)
        note(client)
        note(client.profile)
        reply = client.chat.create("hi", model="smart")
        note(reply)
        for chunk in client.chat.stream("hi", model="smart"):
            note(chunk)
        adapter = client.chat._runtime.binding("chat").adapter
        for held in (adapter, adapter._session, adapter._session.auth, adapter._transport):
            note(held)
            note(vars(held))
        note(adapter._session.auth.header())
        file = tmp_path / f"{type(given).__name__}.jsonl"
        file.write_text('"one"\n')
        spec = BatchTransform(chat="smart", input=str(file), output=f"{file}.out")
        note(client.batch.plan(spec))
        note(client.batch.submit(spec))
        note(client.resources())
        azure.rotate("other-key")
        for failing in (
            lambda c=client: c.chat.create("hi", model="smart"),
            lambda c=client: list(c.chat.stream("hi", model="smart")),
            lambda c=client: c.embeddings.create("hi", model="embed"),
            lambda c=client: c.batch.list(),
        ):
            try:
                failing()
            except CloudAIError as error:
                note(error)
                seen.append("".join(traceback.format_exception(error)))
            else:
                raise AssertionError("the wrong key was taken")
        azure.rotate(canary)
        client.close()
    home = Path(cloudai.Client(provider="azure").profile.home)
    seen.extend(repr(path.read_bytes()) for path in home.rglob("*") if path.is_file())
    seen.extend(record.getMessage() for record in caplog.records)
    seen.extend(capfd.readouterr())
    assert any("hi" in text for text in seen)
    tokens = [*azure.cloud_state.tokens, canary, azure.cloud_state.identity_header]
    for secret in tokens:
        leaks = [text for text in seen if secret in text]
        assert not leaks, leaks[0][:2000]
