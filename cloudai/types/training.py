"""Training jobs: the neutral spec. Frozen values, no I/O.

The spec is checked field by field when it is made; what only a provider can judge
(an instance that does not exist there, a name that is taken) its ``plan`` judges.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias

import msgspec

from cloudai.types._base import (
    JSON,
    Seconds,
    SecretRef,
    check_json,
    check_name,
    check_positive,
    invalid,
)

TrainingKind: TypeAlias = Literal["script", "container", "finetune"]

_ACCELERATOR = re.compile(r"([A-Za-z][A-Za-z0-9.]*)(?:-(\d+)GB)?(?::(\d+))?\Z")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# Accelerators sold under one name with several memories: the name alone is ambiguous.
_MEMORIES = {"A100": (40, 80), "V100": (16, 32), "H100": (80, 94)}


class Accelerator(msgspec.Struct, frozen=True):
    """An accelerator by name, memory and count, as ``"A100-40GB:8"`` says it.

    Parameters
    ----------
    name: such as ``"L4"``. memory: GiB on each, None where the name has only one.
    count: how many on one node.
    """

    name: str
    memory: int | None = None
    count: int = 1

    @classmethod
    def parse(cls, text: str, field: str = "resources.accelerator") -> Accelerator:
        """Reads ``NAME[-<n>GB][:COUNT]``. Raises InvalidRequest for another form, and for a
        name that needs its memory told, such as ``"A100"``."""
        match = _ACCELERATOR.match(text)
        if not match:
            raise invalid(field, text, "is not NAME[-<n>GB][:COUNT]", 'Such as "A100-40GB:8".')
        name, memory, count = match[1].upper(), match[2], int(match[3] or 1)
        if count < 1:
            raise invalid(field, text, "asks for none", "Leave it out, or ask for at least one.")
        if memory is None and name in _MEMORIES:
            choices = " or ".join(f'"{name}-{gb}GB:{count}"' for gb in _MEMORIES[name])
            raise invalid(field, text, "is ambiguous", f"Say {choices}.")
        return cls(name, int(memory) if memory else None, count)

    def __str__(self) -> str:
        return f"{self.name}{f'-{self.memory}GB' if self.memory else ''}:{self.count}"


class Resources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job or an endpoint runs on.

    Parameters
    ----------
    accelerator: ``"A100-40GB:8"`` means eight on each node. None: CPU, or locally whatever
        this machine has.
    cpus: cores on each node. memory, disk: GiB on each node.
    nodes: machines. nproc: processes on each node; None means one for each accelerator, and
        one on CPUs.
    any_of: further accelerators that would do, in order of preference.
    instance_type: the provider's own machine name; goes before all the above.
    """

    accelerator: str | None = None
    cpus: int | None = None
    memory: float | None = None
    disk: float | None = None
    nodes: int = 1
    nproc: int | None = None
    any_of: tuple[str, ...] = ()
    instance_type: str | None = None

    def __post_init__(self) -> None:
        for name in ("cpus", "memory", "disk", "nproc", "nodes"):
            check_positive(f"resources.{name}", getattr(self, name))
        if self.accelerator is not None:
            Accelerator.parse(self.accelerator)
        for index, text in enumerate(self.any_of):
            Accelerator.parse(text, f"resources.any_of[{index}]")


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One named input.

    Parameters
    ----------
    uri: a path, or ``s3://``, ``gs://``, ``azureml://``, as the provider reads it.
    mode: ``copy`` before the start, ``stream`` while it runs, or ``mount``. Locally the
        directory is handed over as it is, whatever the mode.
    """

    uri: str
    mode: Literal["copy", "stream", "mount"] = "copy"


class Outputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where results go; None leaves the place to the provider.

    Parameters
    ----------
    model, checkpoints, data: a path or URI each.
    """

    model: str | None = None
    checkpoints: str | None = None
    data: str | None = None


class Spot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run on capacity that may be taken back.

    Parameters
    ----------
    max_wait: seconds to wait for capacity, running time included (SageMaker's
        MaxWaitTimeInSeconds); None: as long as the provider waits.
    require_checkpoint: True refuses a spot job that has no place for checkpoints, since it
        would start from scratch each time.
    """

    max_wait: Seconds | None = None
    require_checkpoint: bool = True


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a job is started anew.

    Parameters
    ----------
    max: how often at most. on: for which ends: ``preempted`` (also a worker killed by a
        signal), ``failed`` (a non-zero exit code), ``capacity``.
    """

    max: int = 0
    on: tuple[Literal["preempted", "failed", "capacity"], ...] = ("preempted",)

    def __post_init__(self) -> None:
        if self.max < 0:
            raise invalid("retry.max", self.max, "is negative", "Use 0 for none.")


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric that is read from the log.

    Parameters
    ----------
    name: what it is called. regex: its first group is the number, such as
        ``r"loss=([0-9.e+-]+)"`` (SageMaker's MetricDefinitions work alike).
    """

    name: str
    regex: str

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.regex).groups
        except re.error as error:
            raise invalid(
                "metrics.regex", self.regex, f"is no regular expression ({error})"
            ) from None
        if groups < 1:
            raise invalid(
                "metrics.regex", self.regex, "has no group", "Put the number in parentheses."
            )


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training job, for any provider.

    Parameters
    ----------
    name: unique among the jobs one remembers; None makes one from the entry and a random end.
    kind: ``script`` (``source`` and ``entry``), ``container`` (``image`` and ``command``) or
        ``finetune`` (``base_model`` and ``method`` on ``inputs["train"]``).
    source: the directory that travels with the job. entry: the script in it, ``.py`` or ``.sh``;
        a shell script is started once on each node, with ``/bin/sh``.
    ignore: patterns of what does not travel, as ``.gitignore`` has them, after those of the
        source's ``.gitignore`` and ``.cloudaiignore`` files and the names that look like a
        secret; ``!NAME`` lets one travel.
    requirements: a requirements file in ``source``; installed before the start.
    framework: such as ``"pytorch"`` or ``"tensorflow==2.19"``; picks the provider's image.
    image: a container image; overrides ``framework``. command: its command.
    args: command line arguments of the script, before those made of ``hyperparameters``.
    hyperparameters: typed JSON values; the script finds them in ``CLOUDAI_HPS`` and as
        ``--name=value`` arguments.
    hyperparameter_args: False leaves the ``--name=value`` arguments out.
    env: environment variables. secrets: the same, by reference; resolved where the job runs.
    inputs: by name, a path or URI or an ``Input``; the script finds a directory (or file) in
        ``CLOUDAI_INPUT_<NAME>``.
    outputs, resources, spot, retry: see there.
    timeout: seconds of running before it is stopped as TIMED_OUT; None: the provider's limit.
    metrics: what to read from the log.
    tags: recorded with the job at the provider.
    base_model, method: of a fine-tuning job.
    idempotency_key: two submissions with one key make one job; None makes a random key.
    native: arguments of one provider alone, by provider name; merged into its request last.
    """

    name: str | None = None
    kind: TrainingKind = "script"
    source: str | None = None
    entry: str | None = None
    ignore: tuple[str, ...] = ()
    requirements: str | None = None
    framework: str = "pytorch"
    image: str | None = None
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hyperparameters: dict[str, JSON] = {}
    hyperparameter_args: bool = True
    env: dict[str, str] = {}
    secrets: dict[str, SecretRef] = {}
    inputs: dict[str, str | Input] = {}
    outputs: Outputs = Outputs()
    resources: Resources = Resources()
    spot: Spot | None = None
    retry: Retry = Retry()
    timeout: Seconds | None = None
    metrics: tuple[Metric, ...] = ()
    tags: dict[str, str] = {}
    base_model: str | None = None
    method: Literal["supervised", "dpo", "reinforcement"] = "supervised"
    idempotency_key: str | None = None
    native: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name("name", self.name)
        check_positive("timeout", self.timeout)
        for field in ("entry", "requirements"):
            path = PurePosixPath(getattr(self, field) or "")
            if path.is_absolute() or ".." in path.parts:
                raise invalid(
                    field, str(path), "is not inside source",
                    f"Give a path relative to {self.source}, or a source that holds it.",
                )  # fmt: skip
        for name, value in self.hyperparameters.items():
            check_json(f"hyperparameters.{name}", value)
        for field in ("env", "secrets"):
            for name in getattr(self, field):
                if not _ENV_NAME.match(name):
                    raise invalid(field, name, "is not the name of an environment variable")
        for name in self.inputs:
            if not _ENV_NAME.match(name):
                raise invalid(
                    "inputs", name, "is not a name", "Use letters, digits and underscores."
                )
        self._check_kind()

    def _check_kind(self) -> None:
        needs: dict[str, tuple[str, ...]] = {
            "script": ("source", "entry"),
            "container": ("image",),
            "finetune": ("base_model",),
        }
        if self.kind not in needs:
            raise invalid("kind", self.kind, "is not one of script, container, finetune")
        for field in needs[self.kind]:
            if not getattr(self, field):
                raise invalid(
                    field,
                    getattr(self, field),
                    f"is needed by kind={self.kind!r}",
                    f"It takes {' and '.join(needs[self.kind])}.",
                )
        if self.kind == "finetune" and "train" not in self.inputs:
            raise invalid("inputs", self.inputs, 'lacks "train"', "Name the training file.")

    def input(self, name: str) -> Input:
        """The named input as an ``Input``."""
        value = self.inputs[name]
        return value if isinstance(value, Input) else Input(uri=value)
