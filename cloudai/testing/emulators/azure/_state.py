"""What the emulated cloud holds: keys, tokens, deployments, files, jobs, secrets, and its clock."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from cloudai.testing.emulators.common.answers import Answers
from cloudai.testing.emulators.common.fates import Fates
from cloudai.types import ChatChunk

SUBSCRIPTION = "00000000-0000-0000-0000-00000000c10d"
GROUP = "cloudai"
ACCOUNT = "acme"
WORKSPACE = "lab"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "22222222-3333-4444-5555-666666666666"


class Clock:
    """The emulated cloud's time: the real one, ``speed`` times as fast, plus what ``advance``
    adds. Jobs go through their lives by it."""

    def __init__(self, speed: float = 1.0) -> None:
        self._begun = self._real = time.time()
        self._lock = threading.Lock()
        self._speed = speed

    def __call__(self) -> float:
        with self._lock:
            return self._begun + (time.time() - self._real) * self._speed

    def advance(self, seconds: float) -> None:
        """Lets ``seconds`` pass at once."""
        with self._lock:
            self._begun += seconds

    def freeze(self) -> None:
        """Stops the clock; ``advance`` alone moves it from then on."""
        now = self()
        with self._lock:
            self._begun, self._speed = now, 0.0


class Deployed(msgspec.Struct, kw_only=True):
    """A model deployment.

    Parameters
    ----------
    model, version, sku, capacity: as deployed. ready_at: when its creation ends, by the clock.
    fate: what its creation ends in.
    limit: requests in ``window`` real seconds before it answers 429 with Retry-After.
    any_use: False holds it to its kind: batch deployments serve batches alone, others none.
    refused: how many it answered so; early: how many of them came although an earlier answer,
        half a second before or longer, had said to wait.
    """

    name: str
    model: str
    version: str = "1"
    sku: str = "GlobalStandard"
    capacity: int = 10
    format: str = "OpenAI"
    ready_at: float = 0.0
    fate: str = "Succeeded"
    tags: dict[str, str] = {}
    any_use: bool = True
    limit: int | None = None
    window: float = 1.0
    since: float = 0.0
    used: int = 0
    refused: int = 0
    early: int = 0
    told_at: float | None = None
    deleted_at: float | None = None


BATCH_SKUS = frozenset({"GlobalBatch", "DataZoneBatch"})


class Held(msgspec.Struct, kw_only=True):
    """A file."""

    id: str
    name: str
    purpose: str
    content: bytes
    created: float
    status: str = "processed"


class Executor(Protocol):
    """Who does the emulated cloud's actual work; the default is scripted.

    A method may run long: it is called in the thread of the request (or of the look) that needs
    its result, outside the emulator's lock.
    """

    def chat(self, deployment: Deployed, body: dict[str, Any]) -> dict[str, Any]:
        """The assistant's message for a chat completion's body: ``content``, ``tool_calls``; and,
        where they are known, its ``finish_reason`` and ``usage``. Raises Refused."""
        ...

    def stream(self, deployment: Deployed, body: dict[str, Any]) -> Iterator[ChatChunk] | None:
        """The assistant's message as it is made; None: ``chat`` gives it, and it is cut into
        pieces. Raises Refused, before the first piece where the request is to blame."""
        ...

    def embed(self, deployment: Deployed, text: str, dimensions: int) -> list[float]:
        """The vector of one text."""
        ...

    def dimensions(self, deployment: Deployed) -> int:
        """Numbers of a vector whose length is not asked for."""
        ...

    def train(self, job: Any) -> str:
        """Does the work of an Azure ML job (``_ml.Running``), and gives the state it ends in:
        ``Completed``, ``Failed`` or ``Canceled``."""
        ...

    def serve(self, job: Any, endpoint: str, deployment: str) -> str | None:
        """Brings an online deployment up; the log of one that does not come up."""
        ...

    def unserve(self, endpoint: str, deployment: str) -> None:
        """Takes an online deployment down."""
        ...

    def log(self, endpoint: str, deployment: str) -> str:
        """What an online deployment has written."""
        ...

    def score(self, endpoint: str, deployment: str, body: str) -> Any:
        """The answer of an online endpoint's deployment to one request's body."""
        ...


class Vaulted(msgspec.Struct, kw_only=True):
    """One version of a secret."""

    value: str
    version: str
    enabled: bool = True
    expires: int | None = None


class Vault(msgspec.Struct, kw_only=True):
    """A Key Vault. ``forbidden``: answers 403 to everybody. ``reads``: secrets read so far."""

    secrets: dict[str, list[Vaulted]] = {}
    deleted: dict[str, list[Vaulted]] = {}
    forbidden: bool = False
    reads: int = 0

    def put(self, name: str, value: str, **about: Any) -> str:
        """Adds a version of a secret, and gives its name."""
        version = secrets.token_hex(16)
        self.secrets.setdefault(name, []).append(Vaulted(value=value, version=version, **about))
        return version

    def delete(self, name: str) -> None:
        """Deletes a secret softly: it stays recoverable."""
        self.deleted[name] = self.secrets.pop(name)


class AzureState:
    """All state, under one lock."""

    def __init__(
        self,
        executor: Executor,
        clock: Clock,
        subscription: str = SUBSCRIPTION,
        tenant: str = TENANT,
        workspace: str = WORKSPACE,
        location: str = "westeurope",
    ) -> None:
        self.subscription, self.tenant = subscription, tenant
        self.workspace, self.location = workspace, location
        self.lock = threading.RLock()
        self.clock = clock
        self.executor = executor
        self.keys = {secrets.token_hex(16)}
        self.tokens: dict[str, tuple[str, float]] = {}
        self.identity_header = secrets.token_hex(16)
        self.client_secret = secrets.token_urlsafe(24)
        self.deployments: dict[str, Deployed] = {}
        self.files: dict[str, Held] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.tunings: dict[str, dict[str, Any]] = {}
        self.vault = Vault()
        self.tuned: dict[str, dict[str, Any]] = {}
        self.sas = secrets.token_hex(24)
        self.ml: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.operations: dict[str, Any] = {}
        self.fates: dict[str, list[str]] = {}
        self.told = Fates("azure")
        self.answers = Answers()
        self.requests: list[Any] = []

    @property
    def workspace_id(self) -> str:
        """The Azure ML workspace's id in Resource Manager."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{GROUP}/providers"
            f"/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    def fate(self, kind: str, usual: str) -> str:
        """What the next of its kind ends in: scripted, else as usual."""
        waiting = self.fates.get(kind)
        return waiting.pop(0) if waiting else usual

    def issue(self, resource: str, lifetime: float = 3600.0) -> tuple[str, float]:
        """A token for a resource, and the Unix time it expires."""
        token = f"emulated-token.{secrets.token_urlsafe(24)}"
        until = time.time() + lifetime
        with self.lock:
            self.tokens[token] = (resource.rstrip("/"), until)
        return token, until

    def token_for(self, authorization: str) -> str | None:
        """The resource that a bearer token was issued for; None for one that is not valid."""
        kind, _, token = authorization.partition(" ")
        found = self.tokens.get(token) if kind.lower() == "bearer" else None
        return found[0] if found and found[1] > time.time() else None
