"""The client: five capabilities of one profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.calls import threads
from cloudai._core.profiles.config import Profile
from cloudai._core.state.ledger import Entry, Ledger
from cloudai.client import _ownership as ownership
from cloudai.client._runtime import KINDS, Runtime
from cloudai.client.chat import AsyncChat, Chat
from cloudai.client.collections import AsyncBatch, AsyncTraining, Batch, Training
from cloudai.client.embeddings import AsyncEmbeddings, Embeddings
from cloudai.client.endpoint import AsyncEndpoint, Endpoint
from cloudai.client.endpoints import AsyncEndpoints, Endpoints
from cloudai.client.jobs import AsyncBatchJob, AsyncJob, BatchJob, Job
from cloudai.client.models import KnownModel, Models
from cloudai.client.streams import AsyncChatStream, ChatStream
from cloudai.types import BatchTransform, Deployment, State, TrainingJob
from cloudai.types._base import met

__all__ = [
    "AsyncBatch",
    "AsyncBatchJob",
    "AsyncChat",
    "AsyncChatStream",
    "AsyncClient",
    "AsyncEmbeddings",
    "AsyncEndpoint",
    "AsyncEndpoints",
    "AsyncJob",
    "AsyncTraining",
    "Batch",
    "BatchJob",
    "Chat",
    "ChatStream",
    "Client",
    "Embeddings",
    "Endpoint",
    "Endpoints",
    "Job",
    "KnownModel",
    "Lost",
    "Models",
    "Training",
]


SPECS: Final[dict[str, Any]] = {
    "training": TrainingJob,
    "endpoint": Deployment,
    "batch": BatchTransform,
}
"""What the ledger keeps of each kind of resource."""


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A resource at its provider that carries cloudai's tag and stands in no row of the ledger."""

    uri: str
    kind: str
    name: str
    state: State


class _Base:
    def __init__(
        self,
        profile: str | None = None,
        /,
        *,
        provider: str | None = None,
        config: str | Path | None = None,
        **keys: Any,
    ) -> None:
        self._runtime = Runtime(profile, provider, config, keys)

    @property
    def profile(self) -> Profile:
        """The profile that this client works on."""
        return self._runtime.profile

    @property
    def models(self) -> Models:
        """What is known of the provider's models, with prices and ends: ``list``."""
        return Models(self.profile)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.profile.name!r}, provider={self.profile.provider!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a client does not pickle: make one in each process")

    def _resources(self) -> list[Entry]:
        return Ledger(self.profile.home).entries()

    def _forget(self, entry: Entry) -> None:
        Ledger(self.profile.home).remove(entry)

    def _adopt(self, uri: str) -> Entry:
        binding, kind, native = self._runtime.locate(uri)
        return ownership.adopt(self._runtime, binding, kind, native)

    def _lost(self) -> list[Lost]:
        found: list[Lost] = []
        for kind, capability in KINDS.items():
            if capability not in self.profile.spec.capabilities:
                continue
            binding = self._runtime.binding(capability)
            for one in ownership.lost(self._runtime, binding, kind):
                uri = binding.uri(kind, one.id)
                found.append(Lost(uri=uri, kind=kind, name=one.name or one.id, state=one.state))
        return found

    def _hourly(self, uri: str) -> float | None:
        binding, _, native = self._runtime.locate(uri)
        return ownership.hourly(binding, native)

    def _destroy(self, entry: str | Entry, force: bool = False) -> None:
        """Removes a resource at its provider and from the ledger. A create that was never
        confirmed is looked up by its key first."""
        if isinstance(entry, Entry) and entry.uri is None:
            key = entry.key
            binding, kind, _ = self._runtime.locate(entry.place)
            ownership.check_place(binding, entry)
            caller, adapter = binding.caller, binding.adapter
            found = caller.run("find", lambda call: adapter.find(key, call), caller.call())
            if found is not None:
                caller.run("delete", lambda call: adapter.delete(found, call), caller.call())
            elif hasattr(adapter, "discard"):
                spec = msgspec.json.decode(entry.spec, type=met(SPECS[kind]))
                caller.run("discard", lambda call: adapter.discard(spec, call), caller.call())
            Ledger(self.profile.home).drop(entry.profile, kind, key)
            return
        uri = entry if isinstance(entry, str) else str(entry.uri)
        binding, _, native = self._runtime.locate(uri)
        row = entry if isinstance(entry, Entry) else None
        ownership.remove(self._runtime, binding, uri, native, entry=row, force=force)


class Client(_Base):
    """Five capabilities of one profile. Thread-safe; survives a fork; costs nothing to make.

    Parameters
    ----------
    profile: a name in cloudai.toml, or a provider's name; None is the file's ``default``, and
        without a file the local provider.
    provider: instead of a profile, with its keys as further arguments:
        ``Client(provider="aws", region="eu-west-1")``.
    config: a cloudai.toml; None takes the nearest one.
    keys: further keys of the profile; they go before the environment and the file.

    Raises ConfigError for an unknown profile, provider or key, naming the nearest valid one.
    """

    @property
    def chat(self) -> Chat:
        """Chat: ``create`` and ``stream``."""
        return Chat(self._runtime)

    @property
    def embeddings(self) -> Embeddings:
        """Embeddings: ``create``."""
        return Embeddings(self._runtime)

    @property
    def training(self) -> Training:
        """Training jobs: ``plan``, ``submit``, ``attach``, ``list``."""
        return Training(self._runtime)

    @property
    def endpoints(self) -> Endpoints:
        """Endpoints: ``plan``, ``deploy``, ``attach``, ``list``."""
        return Endpoints(self._runtime)

    @property
    def batch(self) -> Batch:
        """Batch transforms: ``plan``, ``submit``, ``attach``, ``list``."""
        return Batch(self._runtime)

    def attach(self, uri: str) -> Job | BatchJob | Endpoint:
        """The handle of a URI, from whatever process it came. Raises NotFound."""
        kind = self._runtime.locate(uri)[1]
        if kind == "endpoint":
            return self.endpoints.attach(uri)
        return self.batch.attach(uri) if kind == "batch" else self.training.attach(uri)

    def resources(self) -> list[Entry]:
        """All that was created through cloudai from here and is not deleted, the oldest first."""
        return self._resources()

    def lost(self) -> list[Lost]:
        """What carries cloudai's tag at this profile's provider and the ledger does not know: made
        on another machine, or lost here. ``adopt`` takes it back."""
        return self._lost()

    def adopt(self, uri: str) -> Entry:
        """Takes a resource of cloudai's into the ledger, by its URI. Raises NotFound, and
        Conflict for what carries no tag of cloudai."""
        return self._adopt(uri)

    def forget(self, entry: Entry) -> None:
        """Takes a row out of the ledger; its provider is not asked, and what runs there runs on
        and is billed."""
        self._forget(entry)

    def hourly(self, uri: str) -> float | None:
        """US dollars an hour of what a handle's resource runs now, on demand; None where that is
        not known."""
        return self._hourly(uri)

    def destroy(self, resource: str | Entry, *, force: bool = False) -> None:
        """Removes one resource, by its URI or its ledger entry, at its provider and here.

        Raises Conflict for one that cloudai did not make, or that lies in another account,
        region or workspace than the profile's; ``force`` removes what has its name all the same.
        """
        self._destroy(resource, force)

    def close(self) -> None:
        """Closes connections and frees models. The client opens them again when it is used."""
        self._runtime.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient(_Base):
    """``Client`` under asyncio: the same names, with ``await``. One client serves many event
    loops, one after another."""

    @property
    def chat(self) -> AsyncChat:
        """See ``Client.chat``."""
        return AsyncChat(self._runtime)

    @property
    def embeddings(self) -> AsyncEmbeddings:
        """See ``Client.embeddings``."""
        return AsyncEmbeddings(self._runtime)

    @property
    def training(self) -> AsyncTraining:
        """See ``Client.training``."""
        return AsyncTraining(self._runtime)

    @property
    def endpoints(self) -> AsyncEndpoints:
        """See ``Client.endpoints``."""
        return AsyncEndpoints(self._runtime)

    @property
    def batch(self) -> AsyncBatch:
        """See ``Client.batch``."""
        return AsyncBatch(self._runtime)

    async def attach(self, uri: str) -> AsyncJob | AsyncBatchJob | AsyncEndpoint:
        """See ``Client.attach``."""
        kind = self._runtime.locate(uri)[1]
        if kind == "endpoint":
            return await self.endpoints.attach(uri)
        return await (self.batch if kind == "batch" else self.training).attach(uri)

    async def resources(self) -> list[Entry]:
        """See ``Client.resources``."""
        return await threads.run(self._resources)

    async def lost(self) -> list[Lost]:
        """See ``Client.lost``."""
        return await threads.run(self._lost)

    async def adopt(self, uri: str) -> Entry:
        """See ``Client.adopt``."""
        return await threads.run(self._adopt, uri)

    async def forget(self, entry: Entry) -> None:
        """See ``Client.forget``."""
        await threads.run(self._forget, entry)

    async def hourly(self, uri: str) -> float | None:
        """See ``Client.hourly``."""
        return await threads.run(self._hourly, uri)

    async def destroy(self, resource: str | Entry, *, force: bool = False) -> None:
        """See ``Client.destroy``."""
        await threads.finish(self._destroy, resource, force)

    async def close(self) -> None:
        """See ``Client.close``."""
        await threads.run(self._runtime.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
