"""What the conformance suite is told of azure: an emulator that runs Azure ML's work here."""

from __future__ import annotations

import atexit
import os
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from cloudai.testing.conformance import Harness
from cloudai.testing.emulators.azure import AzureEmulator, LocalExecutor
from cloudai.types import BatchTransform

_OPERATIONS = {
    "chat.create": "POST /openai/.*/chat/completions",
    "chat.stream": "POST /openai/.*/chat/completions",
    "embeddings.create": "POST /openai/.*/embeddings",
    "training.submit": "PUT /subscriptions/.*/jobs/",
    "endpoints.deploy": "PUT /subscriptions/.*/onlineEndpoints/[^/]+$",
    "endpoints.predict": "POST /score/",
    "batch.submit": "PUT /subscriptions/.*/batchEndpoints/[^/]+$",
}


@cache
def emulator() -> AzureEmulator:
    """One for all tests of the process."""
    made = AzureEmulator(LocalExecutor(), speed=20.0).start()
    atexit.register(made.stop)
    return made


class AzureFaults:
    """Faults by the client's operations."""

    def __init__(self, azure: AzureEmulator) -> None:
        self._faults = azure.faults

    def throttle(self, operation: str, *, times: int, retry_after: float) -> object:
        match = _OPERATIONS[operation]
        return self._faults.add("throttle", match, times=times, retry_after=retry_after)

    def fail(self, operation: str, *, times: int) -> object:
        return self._faults.add("unavailable", _OPERATIONS[operation], times=times)

    def lose_reply(self, operation: str) -> object:
        return self._faults.add("lose_reply", _OPERATIONS[operation])

    def cut_stream(self, chunks: int) -> object:
        # The first two events of the service hold no text; an event has some 180 bytes.
        return self._faults.add("cut", _OPERATIONS["chat.stream"], after=900 + 180 * chunks)


class AzureHarness(Harness):
    """Chat and embeddings on Azure OpenAI; training, endpoints and batch on Azure ML."""

    provider = "azure"
    requires = ("openai", "azure.identity", "azure.mgmt.core", "azure.storage.blob", "werkzeug")
    chat_model = "smart"
    embedding_model = "embed"
    gaps: ClassVar[dict[str, str]] = {
        "batch:resume": "Azure ML tells no progress of a batch endpoint's job, and a cancelled "
        "one begins anew",
        "embeddings:truncate": "Azure OpenAI refuses overlong texts, and counts tokens only there",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        azure = emulator()
        azure.reset()
        azure.deploy("smart")
        azure.deploy("embed", model="text-embedding-3-small")
        os.environ.update(
            {name: value for name, value in azure.env.items() if not name.startswith("CLOUDAI_")}
        )
        self._azure = azure
        self._capability = "chat"

    def prepare(self, capability: str) -> None:
        self._capability = capability

    def keys(self) -> dict[str, Any]:
        env = self._azure.env
        keys = {
            name.removeprefix("CLOUDAI_").lower(): value
            for name, value in env.items()
            if name.startswith("CLOUDAI_")
        }
        keys["api_key"] = self._azure.key
        if self._capability in {"training", "endpoints", "batch"}:
            keys["workspace"] = "lab"
            keys["compute"] = "cluster"
        return keys

    def faults(self) -> AzureFaults:
        return AzureFaults(self._azure)

    def slow(self, spec: BatchTransform) -> BatchTransform:
        return msgspec.structs.replace(super().slow(spec), shards=20)


HARNESS = AzureHarness
