"""What a provider implements: one small Protocol per capability.

An adapter is a class made as ``Adapter(profile)`` (a ``cloudai.Profile``). Each method takes
one frozen request and a ``Call``, and gives one frozen result. It maps every vendor error to
the tree of ``cloudai.errors``, retries nothing, and keeps to the call's deadline. Everything
else (retries, logical names, validation of what is common, ledger, spans) is done above it,
once.

Where the SDK is natively async, the adapter also has the async twin; else the async client runs
the sync method in a worker thread.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from cloudai.errors import CallTimeout
from cloudai.types import (
    ChatChunk,
    ChatReply,
    ChatRequest,
    Deployment,
    EmbeddingReply,
    EmbeddingRequest,
    EndpointStatus,
    JobStatus,
    LogPage,
    Plan,
    Prediction,
    PredictRequest,
    SecretRef,
)

SpecT = TypeVar("SpecT", contravariant=True)


class Call(msgspec.Struct, frozen=True):
    """What belongs to one call rather than to its request.

    Parameters
    ----------
    deadline: ``time.monotonic()`` after which the answer is of no use; None: no deadline.
    key: the idempotency key of a create.
    """

    deadline: float | None = None
    key: str | None = None

    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def remaining(self, default: float = 600.0) -> float:
        """Seconds left, for the vendor's own timeout. Raises CallTimeout when none are."""
        if self.deadline is None:
            return default
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise CallTimeout("the call's deadline has passed")
        return left


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a resource lies: what has to be the same for its id to mean the same thing.

    Parameters
    ----------
    account: the AWS account; the Azure subscription and resource group; the Google Cloud project.
    tenant: of the Azure subscription. region: of the provider's own.
    workspace: within the account: Azure ML's workspace, Azure OpenAI's resource.
    emulator: the address that was asked, where it is none of the vendor's own.
    """

    account: str = ""
    tenant: str = ""
    region: str = ""
    workspace: str = ""
    emulator: str = ""

    def differs(self, other: Place) -> bool:
        """Whether the other is somewhere else. What either could not learn is not compared; a
        tag's owner still is."""
        ours, theirs = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        known = [name for name in ours if name == "emulator" or (ours[name] and theirs[name])]
        return any(ours[name] != theirs[name] for name in known)

    def __str__(self) -> str:
        said = [f"{name} {value}" for name, value in msgspec.structs.asdict(self).items() if value]
        return ", ".join(said) or "this machine"


class Chat(Protocol):
    """Chat. ``stream`` yields chunks; the last one with a ``finish_reason`` ends it."""

    def create(self, request: ChatRequest, call: Call) -> ChatReply: ...
    def stream(self, request: ChatRequest, call: Call) -> Iterator[ChatChunk]: ...


@runtime_checkable
class AsyncChat(Protocol):
    """The async twin of ``Chat``."""

    async def acreate(self, request: ChatRequest, call: Call) -> ChatReply: ...
    def astream(self, request: ChatRequest, call: Call) -> AsyncIterator[ChatChunk]: ...


class Embeddings(Protocol):
    """Embeddings: one request, its vectors in the texts' order.

    An adapter whose service limits the texts of a request also has ``groups(request)``, which
    gives all texts in parts that fit one request each, in order, and raises InvalidRequest for
    what the model cannot do. ``embed`` then gets such parts: the core sends, paces and retries
    each for itself, so that no answered text is paid twice.

    An adapter with models that rank also has ``rerank(request, call)``, from a ``RerankRequest``
    to a ``RerankReply``.
    """

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply: ...


@runtime_checkable
class AsyncEmbeddings(Protocol):
    """The async twin of ``Embeddings``."""

    async def aembed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply: ...


class Jobs(Protocol[SpecT]):
    """Training jobs (``Jobs[TrainingJob]``) and batch transforms (``Jobs[BatchTransform]``).

    ``submit`` gets a spec with its name and idempotency key set, and gives the provider's id at
    once; it raises what ``plan`` lists as violations before it sends anything. ``find`` gives
    the id of the job that was submitted with a key, or None: the core asks it before it submits
    again after an ambiguous failure. ``delete`` removes the job and all that it left at the
    provider, and takes an id that is gone already for done. An adapter whose ``submit`` makes
    several things also has ``discard(spec, call)``: it removes what a submission left that came
    to no job, and leaves a job that has the name alone.

    Whose a resource is: ``where(call)`` gives the place that the profile works in, and
    ``owner(id, call)`` the idempotency key that a resource carries at the provider as its tag
    (None where it carries none of ours; raises NotFound). Without the two nothing is compared.
    ``tag_of(key)`` says how a key stands in such a tag, where that is not the key itself.
    Where ``where`` asks the service, ``check(spec)`` raises beforehand what the spec itself has
    wrong, by which nothing is sent for it.
    ``resume(id, spec, call)`` goes on with a batch whose worker was lost. ``hourly(id, call)``
    gives US dollars an hour of what runs now, None where that is not known.
    """

    def plan(self, spec: SpecT) -> Plan: ...
    def submit(self, spec: SpecT, call: Call) -> str: ...
    def find(self, key: str, call: Call) -> str | None: ...
    def status(self, id: str, call: Call) -> JobStatus: ...
    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage: ...
    def cancel(self, id: str, call: Call) -> None: ...
    def delete(self, id: str, call: Call) -> None: ...
    def list(self, call: Call) -> Sequence[JobStatus]: ...


class Endpoints(Protocol):
    """Endpoints. ``deploy`` gives the id at once; the core waits for RUNNING.

    ``find``, ``delete``, ``discard``, ``where``, ``check``, ``owner``, ``tag_of`` and ``hourly``
    are as for jobs. An adapter whose provider streams answers also has
    ``stream(id, request, call)``, an iterator of bytes.
    """

    def plan(self, spec: Deployment) -> Plan: ...
    def deploy(self, spec: Deployment, call: Call) -> str: ...
    def find(self, key: str, call: Call) -> str | None: ...
    def status(self, id: str, call: Call) -> EndpointStatus: ...
    def predict(self, id: str, request: PredictRequest, call: Call) -> Prediction: ...
    def update(self, id: str, spec: Deployment, call: Call) -> None: ...
    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage: ...
    def delete(self, id: str, call: Call) -> None: ...
    def list(self, call: Call) -> Sequence[EndpointStatus]: ...


class Secrets(Protocol):
    """A store of secrets: gives the value of a reference."""

    def get(self, ref: SecretRef, call: Call) -> str: ...
