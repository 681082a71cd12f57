"""Batch on azure: the service's batch API for chat, a worker process of ours for what it does
not serve (embeddings, fine-tuned models, endpoints), and Azure ML for models with handlers where
the profile names a ``workspace``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from cloudai._core.batches.assemble import absolute
from cloudai._core.batches.client_side import ClientBatches
from cloudai._core.batches.cost import HALF, estimate
from cloudai._core.batches.runner import check_paths
from cloudai._core.batches.transforms import chat_request, embedding_request
from cloudai._core.profiles.config import Profile
from cloudai.errors import CloudAIError, Conflict, UnsupportedByProvider
from cloudai.protocols import Call, Place
from cloudai.providers.azure import arm
from cloudai.providers.azure.models import TABLE
from cloudai.providers.azure.openai.service_batch import ServiceBatches
from cloudai.providers.azure.openai.wire.endpoints import fine_tuned
from cloudai.providers.azure.session import session
from cloudai.types import BatchTransform, JobStatus, LogPage, NativeRequest, Plan, Violation
from cloudai.types._base import invalid

logger: Final = logging.getLogger("cloudai")

_MODELS: Final = (
    'Azure ML transforms with a model and a handler: set workspace = "…" in the profile; '
    "Azure OpenAI takes chat= or embeddings= with a deployment"
)


_TUNED: Final = "chat: the batch API serves no fine-tuned models; cloudai's worker asks it"


class AzureBatch:
    """``Jobs[BatchTransform]`` on Azure OpenAI, and on Azure ML.

    ``native={"azure": {"runner": "client"}}`` has cloudai's own worker process ask the
    deployment line by line, where it is no batch deployment.
    """

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)
        self.service = ServiceBatches(self._session)
        self.client = ClientBatches(profile, inputs=1)
        self.ml: Any = None
        if profile.get("workspace"):
            from cloudai.providers.azure.ml.batch import AzureMLBatch

            self.ml = AzureMLBatch(profile)

    def _owner(self, id: str) -> Any:
        """Who runs the batch of an id: each gives its own kind of ids."""
        if self.ml is not None and id.startswith("cb-"):
            return self.ml
        return self.client if self.client.owns(id) else self.service

    @property
    def _serves(self) -> bool:
        """Whether the profile names an Azure OpenAI resource; one of Azure ML alone may not."""
        return self._session.has_endpoint

    def _client_side(self, spec: BatchTransform) -> str | None:
        """Why the service does not run it; None where it does."""
        if spec.embeddings is not None:
            return "embeddings: the batch API serves no embeddings; cloudai's worker asks them"
        if spec.endpoint is not None:
            return "endpoint: cloudai's worker asks the deployment"
        if spec.native.get("azure", {}).get("runner") == "client":
            return "native.azure.runner: cloudai's worker asks the deployment, as told"
        if spec.chat is not None and fine_tuned(spec.chat):
            return _TUNED
        return None

    def _check(self, spec: BatchTransform) -> None:
        """Raises what the spec itself has wrong."""
        if spec.model is not None:
            raise UnsupportedByProvider("model=", provider="azure", alternative=_MODELS)
        for name in spec.native.get("azure", {}):
            if name != "runner":
                raise invalid(f"native.azure.{name}", spec.native, "is not known", "Use runner.")
        _, output = check_paths(spec)
        if output.exists() and not spec.overwrite:
            raise Conflict(
                f"the output {output} exists",
                provider="azure",
                hint="Use overwrite=True to replace it, or name another output.",
            )
        if spec.chat is not None:
            chat_request(spec.chat, spec.params)
        if spec.embeddings is not None:
            embedding_request(spec.embeddings, spec.params)

    def plan(self, spec: BatchTransform) -> Plan:
        """Reads the input, and lists what would be sent."""
        if spec.model is not None and self.ml is not None:
            return self.ml.plan(spec)
        why = self._client_side(spec)
        requests: tuple[NativeRequest, ...] = ()
        violations: tuple[Violation, ...] = ()
        try:
            self._check(spec)
            if why is None:
                requests = self.service.requests(spec)
            else:
                body = {"input": spec.input, "output": spec.output}
                requests = (NativeRequest(operation="cloudai batch worker", body=body),)
        except CloudAIError as error:
            field = getattr(error, "field", None) or "output"
            violations = (Violation(field, str(error)),)
        dropped = [] if why is None else [why]
        if why is None and spec.timeout is not None:
            dropped.append("timeout: the service's window is 24 h; cancel it yourself")
        if why is None and (spec.concurrency, spec.batch_size) != (8, 64):
            dropped.append("concurrency, batch_size: the service chooses them")
        price = self._session.profile.prices.get(spec.chat or spec.embeddings or "")
        return Plan(
            provider="azure",
            capability="batch",
            requests=requests,
            violations=violations,
            dropped=tuple(dropped),
            cost=estimate(spec, TABLE, HALF if why is None else 1.0, price=price),
        )

    def check(self, spec: BatchTransform) -> None:
        if spec.model is not None and self.ml is not None:
            self.ml.check(spec)
        else:
            self._check(spec)

    def submit(self, spec: BatchTransform, call: Call) -> str:
        """Raises UnsupportedByProvider for a model with a handler, InvalidRequest for a bad
        line (``on_error="fail"``), before anything is sent."""
        if spec.model is not None and self.ml is not None:
            return self.ml.submit(spec, call)
        self._check(spec)
        why = self._client_side(spec)
        if why is None:
            id = self.service.submit(spec, call)
            if id is not None:
                return id
            why = _TUNED
        logger.info("azure: batch %s: %s", spec.name, why)
        return self.client.submit(absolute(spec))

    def where(self, call: Call) -> Place:
        return arm.place(self._session) if self.ml is None else self.ml.where(call)

    def owner(self, id: str, call: Call) -> str | None:
        """The idempotency key that it carries. Raises NotFound."""
        return self._owner(id).owner(id, call)

    def hourly(self, id: str, call: Call) -> float | None:
        """US dollars an hour of Azure ML's machines; None for what is billed by the token."""
        return self.ml.hourly(id, call) if self._owner(id) is self.ml is not None else None

    def resume(self, id: str | None, spec: BatchTransform, call: Call) -> None:
        """Goes on with a batch on the client's side whose worker was lost."""
        if id is not None and self.client.owns(id):
            self.client.resume(id, absolute(spec))

    def find(self, key: str, call: Call) -> str | None:
        found = self.client.find(key)
        if found is None and self.ml is not None:
            found = self.ml.find(key, call)
        if found is None and self._serves:
            found = self.service.find(key, call)
        return found

    def status(self, id: str, call: Call) -> JobStatus:
        """A snapshot; see ``ServiceBatches.status`` for what else it does."""
        return self._owner(id).status(id, call)

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The service's history of the batch, or the worker's or job's log."""
        return self._owner(id).logs(id, cursor, call)

    def cancel(self, id: str, call: Call) -> None:
        self._owner(id).cancel(id, call)

    def delete(self, id: str, call: Call) -> None:
        self._owner(id).delete(id, call)

    def list(self, call: Call) -> Sequence[JobStatus]:
        found = [*self.client.list()]
        if self.ml is not None:
            found += self.ml.list(call)
        if self._serves:
            found += self.service.list(call)
        return found
