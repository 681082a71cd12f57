"""Secrets: they do not show, do not pickle, and are fetched once at a time."""

from __future__ import annotations

import pickle
import threading
import traceback
from pathlib import Path

import pytest

from cloudai import ConfigError, NotFound, Secret, SecretRef
from cloudai._core.profiles.secrets import SecretCache, fetch_plain, parse_ref

CANARY = "canary-7f3a"


def test_a_secret_shows_nothing() -> None:
    secret = Secret(CANARY)
    shown = f"{secret} {secret!r} {[secret]} {secret:>20}"
    assert CANARY not in shown
    assert secret.reveal() == CANARY
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        pickle.dumps(SecretCache(lambda ref: CANARY))


def test_references_are_read_and_values_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{CANARY}\n")
    assert fetch_plain(parse_ref({"file": str(tmp_path / "key")}, "k")) == CANARY
    monkeypatch.setenv("MY_KEY", CANARY)
    assert fetch_plain(parse_ref({"env": "MY_KEY"}, "k")) == CANARY
    vault = parse_ref({"keyvault": "https://v", "secret": "s", "version": "3"}, "k")
    assert vault == SecretRef(store="keyvault", name="s", vault="https://v", version="3")
    for bad in ({"emv": CANARY}, CANARY, {"env": "A", "file": CANARY}, 3):
        with pytest.raises(ConfigError) as caught:
            parse_ref(bad, "api_key")
        assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_missing_variable_or_file_is_named() -> None:
    with pytest.raises(NotFound, match="NO_SUCH_VARIABLE"):
        fetch_plain(SecretRef(store="env", name="NO_SUCH_VARIABLE"))
    with pytest.raises(NotFound, match="/no/such/file"):
        fetch_plain(SecretRef(store="file", name="/no/such/file"))


def test_one_fetch_however_many_ask_and_one_renewal() -> None:
    fetched: list[int] = []
    ready = threading.Event()

    def fetch(ref: SecretRef) -> str:
        fetched.append(1)
        ready.wait(60)
        return f"{CANARY}-{len(fetched)}"

    cache = SecretCache(fetch)
    ref = SecretRef(store="env", name="X")
    got: list[Secret] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get(ref))) for _ in range(16)]
    for thread in threads:
        thread.start()
    ready.set()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert len({id(secret) for secret in got}) == 1
    threads = [
        threading.Thread(target=lambda: got.append(cache.renew(ref, got[0]))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 2
    assert cache.get(ref).reveal() == f"{CANARY}-2"


def test_a_value_is_fetched_anew_when_it_is_old() -> None:
    fetched: list[int] = []
    cache = SecretCache(lambda ref: str(fetched.append(1)), ttl=0.0)
    ref = SecretRef(store="env", name="X")
    cache.get(ref)
    cache.get(ref)
    assert len(fetched) == 2
