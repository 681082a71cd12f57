"""The worker of a client-side batch:
``python -m cloudai.providers.azure.openai.batch_worker FOLDER``,
with the profile on its standard input."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.batches.runner import Transform, run_batch
from cloudai._core.calls.call import Caller
from cloudai._core.calls.retry import RetryPolicy
from cloudai._core.calls.texts import Texts
from cloudai._core.profiles.config import Config, Profile
from cloudai._core.profiles.secrets import SecretCache
from cloudai.errors import CloudAIError, JobCancelled
from cloudai.protocols import Call
from cloudai.providers.azure import SPEC
from cloudai.providers.azure.openai.client_batch import read, write
from cloudai.types import BatchTransform, SecretRef, State


class _Asked:
    """Whether the batch is to stop."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "cancel"

    def is_set(self) -> bool:
        return self._file.exists()


def profile_of(plain: dict[str, Any], secret: dict[str, str]) -> Profile:
    """The client's profile, in this process."""
    from cloudai._core.profiles.secrets import Secret

    settings: dict[str, Any] = {k: v for k, v in plain.items() if k not in {"name", "home"}}
    if "api_key" in settings:
        settings["api_key"] = msgspec.convert(settings["api_key"], SecretRef)
    settings.update({name: Secret(value) for name, value in secret.items()})

    def fetch(ref: SecretRef) -> str:
        if ref.store == "keyvault":
            from cloudai.providers.azure.secrets import KeyVaultSecrets

            return KeyVaultSecrets(made).get(ref, Call())
        return Config()._fetch(ref)

    made = Profile(plain["name"], SPEC, settings, secrets=SecretCache(fetch))
    return made


def transform_of(spec: BatchTransform, profile: Profile) -> tuple[Transform, Any]:
    """What transforms the records, and what identifies it."""
    caller = Caller("azure", profile.timeout, RetryPolicy(profile.retries))
    if spec.chat is not None:
        from cloudai.providers.azure.openai.chat import AzureChat

        chat = AzureChat(profile)

        def create(request: Any, _: Call) -> Any:
            return caller.run(
                "chat", lambda call: chat.create(request, call), caller.call(), request.model
            )

        return transforms.chat(create, spec.chat, spec.params), ["chat", spec.chat]
    if spec.embeddings is not None:
        from cloudai.providers.azure.openai.embeddings import AzureEmbeddings

        adapter = AzureEmbeddings(profile)

        class Patient:
            """The adapter, with retries."""

            def embed(self, request: Any, call: Call) -> Any:
                return Texts(request).run(
                    adapter,
                    lambda part: caller.run(
                        "embeddings",
                        lambda call: adapter.embed(part, call),
                        caller.call(),
                        part.model,
                    ),
                )

        made = transforms.embeddings(Patient(), spec.embeddings, spec.params)
        return made, ["embeddings", spec.embeddings]
    from cloudai.providers.azure.chosen import endpoints as endpoints_of

    endpoints = endpoints_of(profile)

    class Asking:
        """The deployment, with retries."""

        def predict(self, id: str, request: Any, call: Call) -> Any:
            return caller.run(
                "predict",
                lambda call: endpoints.predict(id, request, call),
                caller.call(),
                id,
            )

    name = str(spec.endpoint)
    return transforms.endpoint(Asking(), name, spec.params), ["endpoint", name]


def run(folder: Path, profile: Profile) -> None:
    """Runs the batch, or goes on with it, and records its end."""
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=BatchTransform)
    state = read(folder)
    state.state, state.started, state.pid = State.RUNNING, time.time(), os.getpid()
    write(folder, state)
    last = 0.0

    def progress(done: int, total: int | None, errors: int) -> None:
        nonlocal last
        state.done, state.total, state.errors = done, total, errors
        if time.monotonic() - last > 0.1:
            last = time.monotonic()
            write(folder, state)

    try:
        transform, identity = transform_of(spec, profile)
        # A line that fails would have its neighbours asked, and paid for, again.
        size = spec.batch_size if spec.embeddings is not None else 1
        result = run_batch(
            msgspec.structs.replace(spec, batch_size=size),
            transform,
            identity=identity,
            progress=progress,
            cancelled=_Asked(folder),
        )
    except JobCancelled as error:
        state.state, state.reason = State.CANCELLED, error.message
    except CloudAIError as error:
        state.state, state.reason = State.FAILED, f"{type(error).__name__}: {error}"
    else:
        state.state = result.state
        state.outputs = {"output": str(result.output)}
        if result.errors_file is not None:
            state.outputs["errors"] = str(result.errors_file)
        state.done, state.total, state.errors = result.lines, result.lines, result.errors
        if result.errors:
            state.reason = f"{result.errors} of {result.lines} lines failed"
    state.ended = time.time()
    write(folder, state)
    print(f"{state.state}: {state.done} lines, {state.errors} failed", flush=True)  # noqa: T201


def main() -> None:
    folder = Path(sys.argv[1])
    plain, secret = msgspec.json.decode(sys.stdin.buffer.read(), type=list[dict[str, Any]])
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    run(folder, profile_of(plain, secret))


if __name__ == "__main__":
    main()
