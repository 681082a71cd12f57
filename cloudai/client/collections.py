"""``client.training`` and ``client.batch``: plan, submit, attach, list.

Both are collections of jobs; they differ in their spec, their handle and how a job without a
name gets one.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from cloudai._core.calls import threads
from cloudai._core.profiles import registry
from cloudai._core.profiles.registry import Capability
from cloudai.client._create import checked, create, named
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.client.jobs import AsyncBatchJob, AsyncJob, BatchJob, Job, check_kind
from cloudai.types import BatchTransform, JobStatus, Plan, TrainingJob

Spec = TypeVar("Spec", TrainingJob, BatchTransform)
Handle = TypeVar("Handle")


class _Flows(Generic[Spec, Handle]):
    """What a collection does, in sync."""

    _capability: ClassVar[Capability]
    _handle: ClassVar[Any]

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def _bound(self) -> CapabilityBinding:
        return self._runtime.binding(self._capability)

    def _named(self, spec: Spec, binding: CapabilityBinding) -> Any:
        return named(checked(_resolved(spec, binding)), _stem(spec))

    def _plan(self, spec: Spec) -> Plan:
        binding = self._bound
        made = self._named(spec, binding)
        plan: Plan = binding.adapter.plan(made)
        table = registry.table(binding.profile.spec)
        if table is None:
            return plan
        named = [getattr(made, field, None) for field in ("chat", "embeddings")]
        notes = [table.ending(model) for model in named if isinstance(model, str)]
        base, tuned = getattr(made, "base_model", None), registry.tuning_table(binding.profile.spec)
        if base is not None and tuned is not None:
            notes.append(tuned.ending(base) if tuned.find(base) else table.ending(base))
        return replace(plan, notes=(*plan.notes, *filter(None, notes)))

    def _submit(self, spec: Spec, timeout: float | None) -> Handle:
        binding = self._bound
        made = self._named(spec, binding)
        uri = create(
            self._runtime, binding, self._capability, made, binding.adapter.submit, timeout
        )
        _, kind, native = self._runtime.locate(uri)
        return self._handle(self._runtime, binding, kind, native)

    def _attach(self, id: str) -> Handle:
        binding, native = self._bound, id
        if id.startswith("cloudai:"):
            binding, kind, native = self._runtime.locate(id)
            check_kind(kind, self._capability, id)
        handle = self._handle(self._runtime, binding, self._capability, native)
        handle._status()  # raises NotFound here rather than at the first use
        return handle

    def _list(self) -> list[JobStatus]:
        binding = self._bound
        operation = f"{self._capability}.list"
        return list(binding.caller.run(operation, binding.adapter.list, binding.caller.call()))


class _Jobs(_Flows[Spec, Handle]):
    """A collection of jobs."""

    def plan(self, spec: Spec) -> Plan:
        """What ``submit`` would send, what it would refuse, what a move would lose and what it
        would cost, found out without a connection."""
        return self._plan(spec)

    def submit(self, spec: Spec, *, timeout: float | None = None) -> Handle:
        """Starts the job and gives its handle at once.

        Parameters
        ----------
        spec: the job. One with an idempotency key that was used before gives the same job.
        timeout: seconds for the submission itself, retries included; not for the job.

        Raises InvalidRequest before anything is sent; Conflict for a name, a key or an output
        that is taken; UnsupportedByProvider for what this provider cannot do.
        """
        return self._submit(spec, timeout)

    def attach(self, id: str) -> Handle:
        """The job of a handle's URI, or of the provider's own id. Raises NotFound."""
        return self._attach(id)

    def list(self) -> list[JobStatus]:
        """The jobs at the provider that were made through cloudai."""
        return self._list()


class _AsyncJobs(_Flows[Spec, Handle]):
    """The async twin of ``_Jobs``."""

    async def plan(self, spec: Spec) -> Plan:
        """What ``submit`` would send, refuse, lose and cost, found out without a connection."""
        return await threads.run(self._plan, spec)

    async def submit(self, spec: Spec, *, timeout: float | None = None) -> Handle:
        """Starts the job and gives its handle at once. A cancelled submit still ends, and what
        it made is recorded."""
        return await threads.finish(self._submit, spec, timeout)

    async def attach(self, id: str) -> Handle:
        """The job of a handle's URI, or of the provider's own id. Raises NotFound."""
        return await threads.run(self._attach, id)

    async def list(self) -> list[JobStatus]:
        """The jobs at the provider that were made through cloudai."""
        return await threads.run(self._list)


class Training(_Jobs[TrainingJob, Job]):
    """Training jobs on a profile."""

    _capability = "training"
    _handle = Job


class AsyncTraining(_AsyncJobs[TrainingJob, AsyncJob]):
    """Training jobs on a profile, under asyncio."""

    _capability = "training"
    _handle = AsyncJob


class Batch(_Jobs[BatchTransform, BatchJob]):
    """Batch transforms on a profile. One that was killed goes on where it was when it is
    submitted again."""

    _capability = "batch"
    _handle = BatchJob


class AsyncBatch(_AsyncJobs[BatchTransform, AsyncBatchJob]):
    """Batch transforms on a profile, under asyncio."""

    _capability = "batch"
    _handle = AsyncBatchJob


def _resolved(spec: Any, binding: CapabilityBinding) -> Any:
    """A batch's logical model names as the vendor's; other specs as they are."""
    if not isinstance(spec, BatchTransform):
        return spec
    changes = {
        field: binding.profile.model(getattr(spec, field) or None)
        for field in ("chat", "embeddings")
        if getattr(spec, field) is not None
    }
    return msgspec.structs.replace(spec, **changes) if changes else spec


def _stem(spec: Any) -> str:
    if isinstance(spec, BatchTransform):
        return f"batch-{PurePath(spec.input).stem}"
    return PurePath(spec.entry or spec.base_model or spec.image or "job").stem
