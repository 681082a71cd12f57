"""The local provider's harness: real processes, and the embedded models."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cloudai import Client
from cloudai.errors import ConfigError
from cloudai.testing.conformance import Harness


class LocalHarness(Harness):
    """The chat model is converted once a session, and kept loaded from test to test."""

    provider = "local"
    requires = ("torch", "transformers")
    # Generous: the machines that run the tests are small and busy.
    patience = 120.0
    gaps = {}

    def prepare(self, capability: str) -> None:
        if capability in {"chat", "embeddings", "batch"}:
            try:
                _models()
            except ConfigError as error:
                if capability != "batch":
                    pytest.skip(f"an embedded model is missing: {error}")

    def keys(self) -> dict[str, Any]:
        return {"home": str(self.folder / "home"), "chat_model": _chat_model()}


@functools.cache
def _models() -> Client:
    """A client that has both models loaded: while it lives, the others find them loaded."""
    client = Client(provider="local", chat_model=_chat_model())
    client.chat.create("Hello", max_tokens=1)
    client.embeddings.create("Hello")
    return client


@functools.cache
def _chat_model() -> str:
    """The embedded chat model as a directory; converting it takes some 12 seconds."""
    from cloudai.providers.local import _models as models

    home = Path(tempfile.mkdtemp(prefix="cloudai-models-"))
    return str(models.chat_folder(models.find("chat", "", home=home), home))


HARNESS = LocalHarness
