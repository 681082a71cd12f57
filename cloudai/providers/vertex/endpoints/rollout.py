"""The next step of an endpoint towards what its record says. Pure.

Vertex AI changes one thing of an endpoint at a time, and each change is a long operation or a
write. Whoever looks at the endpoint asks for its next step and takes it; the record and the
endpoint itself are all the state there is, so that a rollout survives the process that began it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from cloudai._core.numerals import numeral
from cloudai.providers.vertex import common
from cloudai.providers.vertex.endpoints import wire
from cloudai.providers.vertex.endpoints.wire import Record, Target


class Deploy(msgspec.Struct, frozen=True):
    """Put a variant on, with this split of the traffic."""

    target: Target
    split: dict[str, int]


class Undeploy(msgspec.Struct, frozen=True):
    """Take a DeployedModel off that gets no traffic any more."""

    id: str
    split: dict[str, int]


class Shift(msgspec.Struct, frozen=True):
    """Change the split of the traffic, and the record with it."""

    split: dict[str, int]
    record: Record


class Tidy(msgspec.Struct, frozen=True):
    """Remove the Models of former variants, then write the record."""

    models: tuple[str, ...]
    record: Record


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do yet."""

    reason: str


class Failed(msgspec.Struct, frozen=True):
    """A variant did not come up. ``record`` leads back to the former ones; None: there are
    none."""

    reason: str
    record: Record | None


class Settled(msgspec.Struct, frozen=True):
    """It is as it is to be."""


Step: TypeAlias = Deploy | Undeploy | Shift | Tidy | Wait | Failed | Settled


def next_step(
    endpoint: dict[str, Any], operations: list[dict[str, Any]], kept: Record, now: float
) -> Step:
    """What to do next.

    Parameters
    ----------
    endpoint: as the service has it. operations: the endpoint's. now: Unix seconds,
        by the service's clock.
    """
    deployed = {one["id"] for one in endpoint.get("deployedModels", ())}
    current = {id: int(share) for id, share in endpoint.get("trafficSplit", {}).items() if share}
    if any(not operation.get("done") for operation in operations):
        return Wait("an operation is under way")
    for one in kept.variants:
        if one.id in deployed:
            continue
        failure = _failure(operations, kept)
        if failure is not None:
            return Failed(failure, _back(kept, operations))
        if not current:
            return Deploy(one, {"0": 100})
        return Deploy(one, {"0": 0, **current})
    wanted, reason, whole = _wanted(kept, deployed, now)
    if wanted != current:
        began = now if kept.began is None else kept.began
        return Shift(wanted, msgspec.structs.replace(kept, began=began))
    if not whole:
        return Wait(reason)
    ours = {one.id for one in kept.variants}
    for id in sorted(deployed - ours):
        return Undeploy(id, wanted)
    if kept.former:
        keep = {one.model for one in kept.variants}
        models = tuple(one.model for one in kept.former if one.model not in keep)
        return Tidy(models, msgspec.structs.replace(kept, former=()))
    return Settled()


def _wanted(kept: Record, deployed: set[str], now: float) -> tuple[dict[str, int], str, bool]:
    """The split that is right now, what it is called, and whether it is the last one."""
    fresh = {one.id: one.weight for one in kept.variants}
    former = {one.id: one.weight for one in kept.former if one.id in deployed}
    share = _share(kept, now) if former else 100.0
    new = wire.split(fresh)
    if share >= 100 or not sum(former.values()):
        return {id: value for id, value in new.items() if value}, "", True
    scaled: dict[str, float] = {}
    for weights, part in ((fresh, share), (former, 100 - share)):
        total = sum(weights.values())
        for id, weight in weights.items():
            scaled[id] = scaled.get(id, 0.0) + part * weight / total
    found = {id: value for id, value in wire.split(scaled).items() if value}
    return found, f"rolling out: {numeral(share)} % go to the new variants", False


def _share(kept: Record, now: float) -> float:
    """Percent of the traffic that the new variants get by now."""
    rollout = kept.rollout
    if rollout.kind == "all":
        return 100.0
    passed = 0.0 if kept.began is None else max(0.0, now - kept.began)
    if rollout.kind == "canary":
        return rollout.percent if passed < rollout.bake else 100.0
    steps = 1 + (int(passed // rollout.bake) if rollout.bake else 100)
    return min(100.0, rollout.percent * steps)


def _failure(operations: list[dict[str, Any]], kept: Record) -> str | None:
    """Why the last deployment since the record was written failed, if it did."""
    found: list[tuple[float, str]] = []
    for operation in operations:
        about = operation.get("metadata", {})
        if "DeployModelOperationMetadata" not in about.get("@type", "") or (
            "Undeploy" in about.get("@type", "")
        ):
            continue
        at = common.seconds(about.get("genericMetadata", {}).get("createTime")) or 0.0
        error = operation.get("error")
        if error and at > kept.since:
            found.append((at, str(error.get("message") or "the deployment failed")))
    return max(found)[1] if found else None


def newest(operations: list[dict[str, Any]]) -> float:
    """When the newest of an endpoint's operations began, by the service's clock; 0 without any.
    What fails later belongs to what was asked for later."""
    return max(
        (
            common.seconds(one.get("metadata", {}).get("genericMetadata", {}).get("createTime"))
            or 0.0
            for one in operations
        ),
        default=0.0,
    )


def _back(kept: Record, operations: list[dict[str, Any]]) -> Record | None:
    """The record that leads back to the former variants."""
    if not kept.former:
        return None
    # What was new is what has to go now.
    return Record(
        variants=kept.former,
        former=kept.variants,
        since=newest(operations),
        service_account=kept.service_account,
    )
