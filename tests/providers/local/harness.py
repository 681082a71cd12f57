"""The local provider's harness: real processes, and the embedded models."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_data_path

from cloudai import Client
from cloudai._core.profiles import registry
from cloudai.errors import ConfigError, ConnectionFailed
from cloudai.testing.conformance import Harness


class LocalHarness(Harness):
    """The chat model is converted once a session, and kept loaded from test to test."""

    provider = "local"
    requires = ("torch", "transformers")
    # Generous: the machines that run the tests are small and busy.
    patience = 120.0
    gaps = {
        "embeddings:dimensions": "the embedded model was not trained to have its vectors cut",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.chats = False

    def prepare(self, capability: str) -> None:
        self.chats = capability in {"chat", "embeddings", "batch"}
        if self.chats:
            try:
                _models()
            except ConfigError as error:
                pytest.skip(f"an embedded model is missing: {error}")

    def keys(self) -> dict[str, Any]:
        keys = {"home": str(self.folder / "home")}
        # Named by its folder, so that no test converts it anew into its own home.
        return {**keys, "chat_model": _chat_model()} if self.chats else keys

    def faults(self) -> Injector:
        return Injector()


class Injector:
    """What can happen between a client and this machine: the client does not get to hear what its
    submission made. There is no service that would be busy or away, and no stream to be cut."""

    def lose_reply(self, operation: str) -> None:
        capability, _, method = operation.partition(".")
        adapter = registry.load(registry.spec("local").capabilities[capability])
        real = getattr(adapter, method)
        own = method in vars(adapter)

        def lost(self: Any, spec: Any, call: Any) -> str:
            setattr(adapter, method, real) if own else delattr(adapter, method)
            real(self, spec, call)
            raise ConnectionFailed("the reply was lost", provider="local", ambiguous=True)

        setattr(adapter, method, lost)

    def throttle(self, operation: str, *, times: int, retry_after: float) -> None:
        pytest.skip("nothing on this machine has a rate limit")

    def fail(self, operation: str, *, times: int) -> None:
        pytest.skip("there is no service here that could be unavailable")

    def cut_stream(self, chunks: int) -> None:
        pytest.skip("a stream of this process has no connection that could break")


@functools.cache
def _models() -> Client:
    """A client that has both models loaded: while it lives, the others find them loaded."""
    client = Client(provider="local", chat_model=_chat_model())
    client.chat.create("Hello", max_tokens=1)
    client.embeddings.create("Hello")
    return client


@functools.cache
def _chat_model() -> str:
    """The embedded chat model as a directory: the one that ``cloudai local setup`` made, or one
    made here, which takes some 12 seconds."""
    from cloudai.engine import catalog as models
    from cloudai.engine import gguf

    found = models.find("chat", "", home=Path("/nowhere"))
    kept = user_data_path("cloudai", appauthor=False) / "models"
    if gguf.ready(found.key, kept):
        return str(gguf.place(found.key, kept))
    made = Path(tempfile.mkdtemp(prefix="cloudai-models-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return str(gguf.ensure(found.path, found.key, made))


HARNESS = LocalHarness
