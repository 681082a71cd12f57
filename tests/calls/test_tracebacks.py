"""K17: no secret in what a failure leaves behind: the variables of our frames (as Sentry and rich
show them), messages, pickles, reprs, logs."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import loopback
import pytest

import cloudai
from cloudai.errors import CloudAIError, NotFound, ProviderError
from cloudai.protocols import Call
from cloudai.types import BatchTransform, SecretRef, TrainingJob

for name in ("moto", "openai", "google.genai", "azure.ai.ml"):
    pytest.importorskip(name)

VALUE = "s3cr3t-of-the-store"
HIDDEN = ("azure-secret-key", "aws-secret-key", "aws-session-token", "ya29.secret-token", VALUE)


def left_behind(error: BaseException) -> list[str]:
    """Where a failure, and what caused it, shows a secret."""
    found: list[str] = []
    seen: list[BaseException] = []
    todo: BaseException | None = error
    while todo is not None and todo not in seen:
        seen.append(todo)
        told = traceback.TracebackException.from_exception(todo, capture_locals=True)
        for frame in told.stack:
            if "/cloudai/" in frame.filename and "/site-packages/" not in frame.filename:
                places = {
                    f"{frame.name} {name}": text for name, text in (frame.locals or {}).items()
                }
                found += [at for at, text in places.items() if any(one in text for one in HIDDEN)]
        words = {"message": str(todo), "repr": repr(todo), "fields": repr(todo.__dict__)}
        found += [at for at, text in words.items() if any(one in text for one in HIDDEN)]
        todo = todo.__cause__ or todo.__context__
    try:
        packed = pickle.dumps(error)
    except TypeError:
        packed = b""
    found += ["pickle" for one in HIDDEN if one.encode() in packed]
    return found


@pytest.fixture
def heard() -> Generator[io.StringIO]:
    """All that our loggers say."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("cloudai")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield out
    logger.removeHandler(handler)
    logger.setLevel(before)


KEYS: dict[str, dict[str, Any]] = {
    "aws": {"role": "arn:aws:iam::123456789012:role/r", "bucket": "bucket"},
    "azure": {},
    "vertex": {"bucket": "gs://bucket"},
}
ASK: dict[str, Callable[[Any, str, Path], Any]] = {
    "chat": lambda c, p, _: c.chat.create("hi", model=loopback.MODELS[p]),
    "stream": lambda c, p, _: list(c.chat.stream("hi", model=loopback.MODELS[p])),
    "embeddings": lambda c, p, _: c.embeddings.create(["hi"], model=loopback.EMBED[p]),
    "training": lambda c, _, at: c.training.submit(TrainingJob(source=str(at), entry="train.py")),
    "jobs": lambda c, *_: c.training.list(),
    "deploy": lambda c, p, at: c.endpoints.deploy(
        str(at), name="one", wait=False, framework="pytorch==2.6" if p == "aws" else "pytorch"
    ),
    "predict": lambda c, *_: c.endpoints.attach("one").predict([1]),
    "batch": lambda c, p, at: c.batch.submit(
        BatchTransform(chat=loopback.MODELS[p], input=str(at / "in"), output=str(at / "out.jsonl"),
                       format="jsonl")
    ),
    "batches": lambda c, *_: c.batch.list(),
}  # fmt: skip


@pytest.mark.parametrize("how", ["nothing", "{}", "403", "cut"])
@pytest.mark.parametrize("provider", loopback.PROVIDERS)
def test_k17_whatever_fails_leaves_no_secret(
    provider: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: io.StringIO
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "aws-session-token")
    answer = {
        "nothing": loopback.http(b"nothing"),
        "{}": loopback.http(b"{}"),
        "403": loopback.refusal(provider, 403),
        "cut": b"HTTP/1.1 200",
    }[how]
    (tmp_path / "train.py").write_text("")
    (tmp_path / "handler.py").write_text("def load(d): ...\ndef predict(m, i): return i\n")
    (tmp_path / "in").write_text('"a"\n' * 100)
    asks = ASK
    if how == "cut":  # which what makes something looks for again and again
        asks = {what: ask for what, ask in ASK.items() if what in {"chat", "embeddings", "jobs"}}
    failed: list[CloudAIError] = []
    with loopback.Server(
        lambda asked: loopback.token() if loopback.is_token(asked) else answer
    ) as server:
        keys = {"retries": 0, "timeout": 1 if how == "cut" else 5, **KEYS[provider]}
        with loopback.client(provider, server.url, tmp_path, monkeypatch, **keys) as ours:
            for ask in asks.values():
                try:
                    ask(ours, provider, tmp_path)
                except CloudAIError as error:
                    failed.append(error)
            for one in (ours, ours.profile, ours.chat, ours.training, ours.endpoints):
                assert not [secret for secret in HIDDEN if secret in repr(one)]
    assert [(str(error), left_behind(error)) for error in failed if left_behind(error)] == []
    assert len(failed) > (1 if how == "cut" else 5)
    assert not [secret for secret in HIDDEN if secret in heard.getvalue()]


STORES = ["env", "file", "keyvault", "secretsmanager", "ssm", "secretmanager"]


@pytest.fixture
def stored(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SecretRef, Callable[[SecretRef], str]]:
    """A reference into each store, and what reads it."""
    store: Any = request.param
    from cloudai._core.profiles.config import Config

    read = Config().fetch
    if store == "env":
        monkeypatch.setenv("THE_SECRET", VALUE)
        return SecretRef(store="env", name="THE_SECRET"), read
    if store == "file":
        (tmp_path / "secret").write_text(VALUE)
        return SecretRef(store="file", name=str(tmp_path / "secret")), read
    cloud = {"keyvault": "azure", "secretmanager": "vertex"}.get(store, "aws")
    emulated = request.getfixturevalue(f"emulated_{cloud}")
    client = emulated.client()
    if store == "keyvault":
        vault = emulated.emulator.vault_url
        emulated.emulator.vault.put("one", VALUE)
        ref = SecretRef(store=store, name="one", vault=vault)
        from cloudai.providers.azure.secrets import KeyVaultSecrets as Secrets
    elif store == "secretmanager":
        emulated.emulator.secrets["one"] = VALUE
        ref = SecretRef(store=store, name="one")
        from cloudai.providers.vertex.secrets import SecretManager as Secrets
    else:
        import boto3

        if store == "ssm":
            boto3.client("ssm").put_parameter(Name="one", Value=VALUE, Type="SecureString")
        else:
            boto3.client("secretsmanager").create_secret(Name="one", SecretString=VALUE)
        ref = SecretRef(store=store, name="one")
        from cloudai.providers.aws.secrets import AwsSecrets as Secrets
    secrets: Any = Secrets(client.profile)
    return ref, lambda ref: secrets.get(ref, Call())


@pytest.mark.parametrize("stored", STORES, indirect=True)
def test_k17_a_stored_secret_is_used_and_not_left(
    stored: tuple[SecretRef, Callable[[SecretRef], str]], heard: io.StringIO
) -> None:
    ref, read = stored
    assert read(ref) == VALUE
    asked: list[str] = []

    def respond(one: loopback.Asked) -> bytes:
        asked.append(str(one.headers))
        return loopback.refusal("azure", 403)

    with loopback.Server(respond) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloudai._core.profiles.config.Config.fetch", lambda *_: read(ref))
        with cloudai.Client(provider="azure", endpoint=server.url, api_key=ref) as client:
            for ask in (ASK["chat"], ASK["embeddings"]):
                with pytest.raises(CloudAIError) as caught:
                    ask(client, "azure", Path())
                assert left_behind(caught.value) == []
            assert VALUE not in repr(client.profile)
    assert asked
    assert all(VALUE in headers for headers in asked)
    assert VALUE not in heard.getvalue()


def _ref(store: Any, name: str) -> SecretRef:
    return SecretRef(store=store, name=name)


def test_k17_a_secret_that_is_no_text_or_lacks_a_field(
    emulated_aws: Any, emulated_vertex: Any, tmp_path: Path
) -> None:
    import boto3

    from cloudai._core.profiles.secrets import fetch_plain
    from cloudai.providers.aws.secrets import AwsSecrets
    from cloudai.providers.vertex.secrets import SecretManager

    broken = VALUE.encode() + b"\xff"
    held = boto3.client("secretsmanager")
    held.create_secret(Name="binary", SecretBinary=broken)
    held.create_secret(Name="table", SecretString=f'{{"a": "{VALUE}"}}')
    emulated_vertex.emulator.secrets["binary"] = broken
    (tmp_path / "binary").write_bytes(broken)
    with emulated_aws.client() as aws, emulated_vertex.client() as vertex:
        store, theirs = AwsSecrets(aws.profile), SecretManager(vertex.profile)
        asked: list[tuple[type[CloudAIError], Callable[[], str]]] = [
            (ProviderError, lambda: store.get(_ref("secretsmanager", "binary"), Call())),
            (NotFound, lambda: store.get(_ref("secretsmanager", "table#b"), Call())),
            (ProviderError, lambda: store.get(_ref("secretsmanager", "binary#b"), Call())),
            (ProviderError, lambda: theirs.get(_ref("secretmanager", "binary"), Call())),
            (NotFound, lambda: fetch_plain(_ref("file", str(tmp_path / "binary")))),
        ]
        for kind, read in asked:
            with pytest.raises(kind) as caught:
                read()
            assert left_behind(caught.value) == []
        assert store.get(_ref("secretsmanager", "table#a"), Call()) == VALUE
