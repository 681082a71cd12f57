"""What a move from one provider to another would lose, found out from the plans of both: offline
and without credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Config
from cloudai.client import Client
from cloudai.errors import AuthenticationError, ConfigError, InvalidRequest, MissingExtra
from cloudai.types import BatchTransform, CostRange, Deployment, Plan, TrainingJob, Violation
from cloudai.types._base import met

Spec: TypeAlias = TrainingJob | Deployment | BatchTransform

_PLACES: Final = ("source", "inputs", "outputs", "input", "output", "model", "variants")
"""The fields that hold paths and URIs."""
_MACHINE: Final = frozenset({"instancetype", "machinetype"})
"""What the vendors call the machine, without its underscores."""
_ROUNDS: Final = 4
"""How often refused fields are left out to find what the rest would run on."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """An object or folder that has to be copied before the move.

    Parameters
    ----------
    field: of the spec. source: where it is. target: where it would be.
    """

    field: str
    source: str
    target: str


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """The spec at one provider.

    Parameters
    ----------
    name, provider: the profile and its provider. plan: see ``Plan``.
    machine: the vendor's name of the machine; None where none is named.
    cost: the plan's; where the spec is refused, that of the rest of it.
    stand_ins: keys of the profile that are not set, and what the plan took in their place.
    """

    name: str
    provider: str
    plan: Plan
    machine: str | None = None
    cost: CostRange | None = None
    stand_ins: dict[str, str] = {}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a move would cost.

    Parameters
    ----------
    source, target: the two sides; the target's plan is of the spec with the copied places.
    refused: what the target does not take and has to be changed first.
    lost: what the target takes and does not carry out, and the source does.
    gained: what the source does not carry out, and the target does.
    copies: what has to be copied from the one store to the other.
    """

    source: Side
    target: Side
    refused: tuple[Violation, ...] = ()
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the target takes the spec as it is, but for what has to be copied."""
        return not self.refused


def compare(
    spec: Spec, source: str, target: str, *, config: str | Path | None = None
) -> Comparison:
    """What moving a spec from one profile to another would lose.

    Parameters
    ----------
    spec: a TrainingJob, Deployment or BatchTransform.
    source, target: profiles of cloudai.toml, or providers' names. What a provider needs and has
        no value for (a region, a bucket) is planned with a stand-in, told in ``stand_ins``.
    config: a cloudai.toml; None takes the nearest one.

    Nothing is sent, and no credential is read. Raises ConfigError for an unknown profile and
    MissingExtra where a provider's packages are not installed.
    """
    before = _side(spec, source, config)
    store = registry.spec(before.provider).store
    to = registry.spec(Config(config).profile(target).provider)
    moved, copies = (spec, ()) if store == to.store else _moved(spec, store, to.store)
    after = _side(moved, target, config)
    refused = [one for one in after.plan.violations if one not in before.plan.violations]
    lost = [one for one in after.plan.dropped if one not in before.plan.dropped]
    for name, table in spec.native.items():
        if name != to.name and not any(one.startswith(f"native.{name}") for one in lost):
            lost.append(f"native.{name}: {', '.join(table)}: for {name} alone")
    return Comparison(
        source=before,
        target=after,
        refused=tuple(refused),
        lost=tuple(lost),
        gained=tuple(one for one in before.plan.dropped if one not in after.plan.dropped),
        copies=copies,
    )


def _side(spec: Spec, name: str, config: str | Path | None) -> Side:
    """The spec at one place, with the set of stand-ins that has the least against it; of equal
    ones the smallest, and then the first."""
    found: list[Side] = []
    problem: ConfigError | AuthenticationError | None = None
    for client, stand_ins in _clients(name, config):
        with client:
            try:
                plan = _plan(client, spec)
                rest = _rest(client, spec, plan)
            except MissingExtra:
                raise
            except (ConfigError, AuthenticationError) as error:
                problem = error
                continue
            found.append(
                Side(
                    name=client.profile.name,
                    provider=client.profile.provider,
                    plan=plan,
                    machine=_machine(rest),
                    cost=rest.cost,
                    stand_ins=stand_ins,
                )
            )
        if plan.ok:
            break
    if not found:
        raise problem or ConfigError(f"{name!r} plans nothing")
    return min(found, key=lambda side: len(side.plan.violations))


def _clients(name: str, config: str | Path | None) -> Iterator[tuple[Client, dict[str, str]]]:
    profile = Config(config).profile(name)
    # A key that is not set is never looked for outside, where a vendor's chain may ask a network.
    missing = [
        {key: value for key, value in keys.items() if profile.get(key) is None}
        for keys in profile.spec.stand_ins or ({},)
    ]
    for keys in sorted(missing, key=len):
        yield Client(name, config=config, **keys), keys


def _plan(client: Client, spec: Spec) -> Plan:
    capability: Any
    if isinstance(spec, TrainingJob):
        capability, plan = "training", client.training.plan
    elif isinstance(spec, BatchTransform):
        capability, plan = "batch", client.batch.plan
    else:
        capability, plan = "endpoints", client.endpoints.plan
    try:
        return plan(spec)  # type: ignore[arg-type]
    except InvalidRequest as error:
        # The provider lacks the capability, or refuses before it plans.
        violation = Violation(error.field or capability, error.message, error.hint or "")
        return Plan(
            provider=client.profile.provider,
            capability=capability,
            requests=(),
            violations=(violation,),
        )


def _rest(client: Client, spec: Spec, plan: Plan) -> Plan:
    """The plan of what is left of a spec without its refused fields; where that is refused too,
    the plan itself."""
    rest, left = plan, spec
    for _ in range(_ROUNDS):
        if rest.ok and rest.requests:
            return rest
        left = _without(left, rest.violations)
        if left is None:
            return plan
        rest = _plan(client, left)
    return plan


def _without(spec: Spec, violations: tuple[Violation, ...]) -> Any:
    """The spec with the refused fields at their defaults; None where one has no default."""
    fields = {one.name: one for one in msgspec.structs.fields(type(spec))}
    changes: dict[str, Any] = {}
    for violation in violations:
        field = fields.get(re.split(r"[.\[]", violation.field)[0])
        if field is None or field.required or field.name == "source":
            return None
        default = field.default
        if default is msgspec.NODEFAULT:
            factory: Any = field.default_factory
            default = factory()
        if getattr(spec, field.name) == default:
            return None
        changes[field.name] = default
    try:
        return msgspec.structs.replace(spec, **changes)
    except InvalidRequest:
        return None


def _machine(plan: Plan) -> str | None:
    found = dict.fromkeys(
        name for request in plan.requests for name in _named(msgspec.to_builtins(request.body))
    )
    return ", ".join(found) or None


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            plain = str(name).replace("_", "").lower()
            if plain in _MACHINE and isinstance(inner, str):
                yield inner
            else:
                yield from _named(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _named(inner)


def _moved(spec: Spec, store: str, other: str) -> tuple[Any, tuple[Copy, ...]]:
    """The spec with its objects in the other store, and what has to be copied for it."""
    begin = store.partition("{path}")[0]
    if not begin or not other:
        return spec, ()
    copies: list[Copy] = []

    def move(value: Any, field: str) -> Any:
        if isinstance(value, str) and value.startswith(begin):
            copy = Copy(
                field=field,
                source=value,
                target=other.replace("{path}", value.removeprefix(begin).lstrip("/")),
            )
            copies.append(copy)
            return copy.target
        if isinstance(value, dict):
            return {name: move(inner, f"{field}.{name}") for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [move(inner, f"{field}[{index}]") for index, inner in enumerate(value)]
        return value

    table = msgspec.to_builtins(spec)
    for name in _PLACES:
        if name in table:
            table[name] = move(table[name], name)
    return (msgspec.convert(table, met(type(spec))) if copies else spec), tuple(copies)
