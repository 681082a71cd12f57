"""What the requests for training, endpoints and batch share: machines, tags, the last touch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cloudai._core.machines import choose
from cloudai.errors import CloudAIError, ConfigError, InvalidRequest, NotFound
from cloudai.formats import botocore_limits as limits
from cloudai.providers.aws import catalog
from cloudai.types import CostRange, Resources, Violation
from cloudai.types._base import invalid

KEY_TAG: Final = "cloudai:key"
NAME_TAG: Final = "cloudai:name"
KIND_TAG: Final = "cloudai:kind"

DEFAULT_MACHINE: Final = "ml.m5.xlarge"
"""The smallest machine that trains and serves PyTorch with room to spare; CPU."""


_CAPACITY: Final = re.compile(r"(\w+: )?(CapacityError|Unable to provision|InsufficientInstance)")


class Draft:
    """A plan in the making: collects what is wrong and what is lost."""

    def __init__(self) -> None:
        self.errors: list[CloudAIError] = []
        self.dropped: list[str] = []

    @property
    def violations(self) -> tuple[Violation, ...]:
        return tuple(_violation(error) for error in self.errors)

    def attempt(self, work: Callable[[], Any], default: Any = None) -> Any:
        """``work()``; what it refuses is noted, and the result is then ``default``."""
        try:
            return work()
        except (InvalidRequest, ConfigError, NotFound) as error:
            self.errors.append(error)
            return default

    def wrong(self, error: InvalidRequest) -> None:
        self.errors.append(error)

    def found(self, violations: Iterable[Violation]) -> None:
        """Notes what a check that all providers share has found."""
        for one in violations:
            self.wrong(
                InvalidRequest(f"{one.field}: {one.problem}", field=one.field, hint=one.mend)
            )

    def refuse(self) -> None:
        """Raises the first thing that is wrong, if there is any."""
        if self.errors:
            error = self.errors[0]
            error.provider = "aws"
            raise error

    def check(
        self, shape: Any, body: Mapping[str, Any], fields: Mapping[str, str] | None = None
    ) -> None:
        """Holds a request against the service's model. ``fields`` says which field of the spec a
        part of the request comes from."""
        told = {getattr(error, "field", None) for error in self.errors}
        for path, text in limits.check(shape, body):
            field = next(
                (ours for theirs, ours in (fields or {}).items() if path.startswith(theirs)), path
            )
            if field not in told:
                self.wrong(InvalidRequest(f"{field}: {path} {text}", field=field, provider="aws"))


def _violation(error: CloudAIError) -> Violation:
    field = getattr(error, "field", None) or "profile"
    return Violation(field, error.message, error.hint or "")


def machines(resources: Resources, shape: Any, field: str = "resources") -> list[str]:
    """The instance types that the resources ask for, in order of preference.

    Raises InvalidRequest for one that SageMaker lacks (``shape`` is the operation's enum of
    them), and where no machine has what is asked; nothing larger is taken in its stead.
    """
    known: list[str] = shape.metadata["enum"]
    if resources.instance_type is not None:
        if resources.instance_type not in known:
            raise invalid(
                f"{field}.instance_type",
                resources.instance_type,
                "is no instance type that SageMaker has for this",
                _nearest(resources.instance_type, known),
            )
        return [resources.instance_type]
    plain = resources.accelerator is None and not resources.any_of
    if plain and resources.cpus is None and resources.memory is None:
        return [DEFAULT_MACHINE]
    table = [machine for machine in catalog.TABLE if machine.name in known]
    return [found.name for found in choose(resources, table, field=field, who="SageMaker")]


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "See SageMaker's list of them."


_TAG_VALUE: Final = re.compile(r"[\w .:/=+\-@]{1,256}\Z")


def check_key(key: str | None) -> None:
    """Refuses an idempotency key that no tag can hold: it is found again by its tag."""
    if key is not None and not _TAG_VALUE.match(key):
        raise invalid(
            "idempotency_key", key, "is nothing that a tag of AWS holds",
            "Use at most 256 letters, digits, spaces and . : / = + - @ _",
        )  # fmt: skip


def tags(own: Mapping[str, str], key: str | None, name: str, kind: str) -> list[dict[str, str]]:
    """The user's tags and cloudai's, which find the resource again."""
    made = {**own, KIND_TAG: kind, NAME_TAG: name}
    if key is not None:
        made[KEY_TAG] = key
    return [{"Key": label, "Value": value} for label, value in made.items()]


def no_capacity(reason: str | None) -> bool:
    """Whether a FailureReason says that there was no machine; what the user's own code wrote
    into it comes later in the text."""
    return reason is not None and _CAPACITY.match(reason) is not None


def own_disks(machines: Iterable[str]) -> list[str]:
    """What is lost of a KMS key on these machines."""
    found = sorted({name for name in machines if catalog.own_disk(name)})
    return [f"kms_key: the disks of {name} are encrypted by its hardware" for name in found]


def volume_key(kms_key: str | None, machines: Iterable[str]) -> str | None:
    """The key for the volumes of these machines: SageMaker takes none for disks of their own."""
    return None if any(catalog.own_disk(name) for name in machines) else kms_key


def cost(machine: str, count: int, low: float, high: float, what: str) -> CostRange | None:
    """What machines cost for ``low`` to ``high`` seconds; None without a known price."""
    price = catalog.price(machine)
    if price is None:
        return None
    hour = price * count
    return CostRange(
        low=round(hour * low / 3600, 4),
        high=round(hour * high / 3600, 4),
        basis=f"{count} × {machine} at {price} USD an hour (on demand, us-east-1), {what}",
        as_of=catalog.AS_OF,
    )
