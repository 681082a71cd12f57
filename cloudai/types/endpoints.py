"""Endpoints: the neutral spec, its snapshot, predictions. Frozen values, no I/O."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from cloudai.types._base import (
    JSON,
    Seconds,
    SecretRef,
    check_name,
    check_positive,
    invalid,
)
from cloudai.types.jobs import State
from cloudai.types.training import Resources

MAX_QUEUE: Final = 1024
"""Items that wait at most, unless a deployment says otherwise."""


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trained model.

    Parameters
    ----------
    uri: a directory, an object URI, or the vendor's name of a fine-tuned model.
    name, version: what it is called; the version defaults to ``digest``.
    digest: SHA-256 over the files, hexadecimal; None where it was not reckoned.
    job: the URI of the job that made it.
    """

    uri: str
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    job: str | None = None


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the models behind an endpoint.

    Parameters
    ----------
    model: a path, a URI, or a ``Model``.
    name: unique in the endpoint. weight: its share of the traffic, relative to the others'.
    handler: a Python file with ``load`` and ``predict``; None takes the endpoint's, then the
        model directory's own ``handler.py``.
    resources: what one replica runs on.
    min, max: replicas; ``max`` above ``min`` asks for autoscaling, to ``target`` requests a
        second on each replica.
    """

    model: str | Model
    name: str = "main"
    weight: float = 1.0
    handler: str | None = None
    resources: Resources = Resources()
    min: int = 1
    max: int | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        check_name("variants.name", self.name)
        if self.weight < 0:
            raise invalid("variants.weight", self.weight, "is negative")
        if self.min < 0 or (self.max is not None and self.max < max(self.min, 1)):
            raise invalid("variants.max", self.max, f"is below min={self.min}")

    @property
    def uri(self) -> str:
        return self.model.uri if isinstance(self.model, Model) else self.model


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an update takes over the traffic.

    Parameters
    ----------
    kind: ``all`` at once, ``canary`` (``percent`` first, the rest after ``bake``) or
        ``linear`` (in steps of ``percent``).
    percent: of the traffic, a step. bake: seconds between steps.
    alarms: names of the provider's alarms that roll the update back.
    """

    kind: Literal["all", "canary", "linear"] = "all"
    percent: float = 10.0
    bake: Seconds = 300.0
    alarms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise invalid("rollout.percent", self.percent, "is not above 0 and up to 100")

    @property
    def seconds(self) -> float:
        """The time that its steps take, at least."""
        steps = {"canary": 2, "linear": math.ceil(100 / self.percent)}.get(self.kind)
        return self.bake * (steps or bool(self.alarms))


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint to be deployed, on any provider.

    Parameters
    ----------
    name: the endpoint's, unique at the provider.
    variants: at least one; the weights share out the traffic.
    handler: a Python file with ``load(model_dir)`` and ``predict(model, inputs, params)``, or
        SageMaker's ``model_fn`` family; None where the model directory has its own
        ``handler.py``.
    mode: ``realtime``, ``serverless`` (scales to zero) or ``async`` (results in a bucket).
    framework, requirements: as for a training job.
    image: a container image that serves the model by itself, as ``cloudai package`` makes them:
        its reference; or the package's folder, written with ``/``, ``./``, ``../``, ``~`` or
        ``file://`` before it, whose ``platforms.json`` then says how it is run. None: the
        provider's own image.
    env, secrets: of the server process.
    rollout: how an update takes over. timeout: seconds that a deployment may take.
    workers: server processes on each replica; None: one a core on CPUs, one on a GPU.
    host, port: where a local endpoint listens; port 0 picks a free one.
    token: a reference to the bearer token that callers must send; None: none is asked for.
    max_batch: items in one ``predict`` call at most; None: 64, for a handler up
        to 256 while so many take less than 25 ms, and 1024 for embeddings on a GPU.
    max_queue: items waiting at most.
    tags, idempotency_key, native: as for a training job.
    """

    name: str
    variants: tuple[Variant, ...]
    handler: str | None = None
    mode: Literal["realtime", "serverless", "async"] = "realtime"
    framework: str = "pytorch"
    image: str | None = None
    requirements: str | None = None
    env: dict[str, str] = {}
    secrets: dict[str, SecretRef] = {}
    rollout: Rollout = Rollout()
    timeout: Seconds = 900.0
    workers: int | None = None
    host: str = "127.0.0.1"
    port: int = 0
    token: SecretRef | None = None
    max_batch: int | None = None
    max_queue: int = MAX_QUEUE
    tags: dict[str, str] = {}
    idempotency_key: str | None = None
    native: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        check_name("name", self.name)
        for field in ("timeout", "workers", "max_batch", "max_queue"):
            check_positive(field, getattr(self, field))
        if not 0 <= self.port <= 65535:
            raise invalid("port", self.port, "is not a port", "Use 1 to 65535, or 0 for any.")
        if not self.variants:
            raise invalid("variants", self.variants, "is empty", "Give at least one model.")
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise invalid("variants.name", names, "repeats a name")
        if not sum(variant.weight for variant in self.variants) > 0:
            raise invalid("variants.weight", [v.weight for v in self.variants], "adds up to 0")


class VariantStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One variant as it runs: its share of the traffic (0 to 1) and its ready replicas."""

    name: str
    model: str
    share: float
    version: str | None = None
    ready: int = 0


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of an endpoint. RUNNING means in service.

    Parameters
    ----------
    id: the provider's own id. url: where it answers, where it has a public address.
    log_tail: the server's last lines, once it failed.
    """

    id: str
    name: str
    state: State
    url: str | None = None
    variants: tuple[VariantStatus, ...] = ()
    idempotency_key: str | None = None
    reason: str | None = None
    native_state: str | None = None
    created_at: float | None = None
    log_tail: tuple[str, ...] = ()
    cost: float | None = None


class PredictRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs for one call of an endpoint.

    Parameters
    ----------
    inputs: one JSON value each. params: passed to ``predict`` as they are.
    variant: ask one variant, past the weights.
    """

    inputs: tuple[JSON, ...]
    params: dict[str, JSON] = {}
    variant: str | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's answer.

    Parameters
    ----------
    outputs: one for each input, in their order.
    variant, version: which model answered. request_id: the provider's id.
    """

    outputs: list[JSON]
    variant: str | None = None
    version: str | None = None
    request_id: str | None = None
