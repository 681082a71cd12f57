"""Machines of Azure ML by what they have: a dated table, never fetched."""

from __future__ import annotations

from typing import Final

from cloudai.errors import InvalidRequest
from cloudai.types import Accelerator, CostRange, Resources
from cloudai.types._base import invalid

AS_OF: Final = "2025-08-15"
"""Azure's VM size pages, read on that date."""
PRICES_OF: Final = "2026-11-30"

GPU: Final[dict[tuple[str, int | None, int], str]] = {
    ("A100", 40, 8): "Standard_ND96asr_v4",
    ("A100", 80, 8): "Standard_ND96amsr_A100_v4",
    ("A100", 80, 1): "Standard_NC24ads_A100_v4",
    ("A100", 80, 2): "Standard_NC48ads_A100_v4",
    ("A100", 80, 4): "Standard_NC96ads_A100_v4",
    ("H100", 94, 1): "Standard_NC40ads_H100_v5",
    ("H100", 94, 2): "Standard_NC80adis_H100_v5",
    ("H100", 80, 8): "Standard_ND96isr_H100_v5",
    ("H200", None, 8): "Standard_ND96isr_H200_v5",
    ("T4", None, 1): "Standard_NC4as_T4_v3",
    ("T4", None, 4): "Standard_NC64as_T4_v3",
    ("A10", None, 1): "Standard_NV36ads_A10_v5",
    ("A10", None, 2): "Standard_NV72ads_A10_v5",
}

CPU: Final = (
    (4, 14.0, "Standard_DS3_v2"),
    (8, 28.0, "Standard_DS4_v2"),
    (16, 56.0, "Standard_DS5_v2"),
    (32, 128.0, "Standard_D32s_v3"),
    (64, 256.0, "Standard_D64s_v3"),
)
"""Cores, GiB and name, the smallest first."""

HOUR: Final = {
    "Standard_DS3_v2": 0.293,
    "Standard_DS4_v2": 0.585,
    "Standard_DS5_v2": 1.17,
    "Standard_D32s_v3": 1.536,
    "Standard_D64s_v3": 3.072,
    "Standard_NC4as_T4_v3": 0.526,
    "Standard_NC64as_T4_v3": 4.352,
    "Standard_NV36ads_A10_v5": 3.2,
    "Standard_NV72ads_A10_v5": 6.52,
    "Standard_NC24ads_A100_v4": 3.673,
    "Standard_NC48ads_A100_v4": 7.346,
    "Standard_NC96ads_A100_v4": 14.692,
    "Standard_ND96asr_v4": 27.197,
    "Standard_ND96amsr_A100_v4": 32.77,
    "Standard_NC40ads_H100_v5": 6.98,
    "Standard_NC80adis_H100_v5": 13.96,
    "Standard_ND96isr_H100_v5": 98.32,
    "Standard_ND96isr_H200_v5": 84.8,
}
"""US dollars an hour, on demand, Linux, East US (H200: West US 3), as SkyPilot's catalogue and
others read them off Azure's Retail Prices API; Azure ML adds nothing to the machine's price ("Plan
and manage costs for Azure Machine Learning")."""


def hourly(machines: list[tuple[str, int]]) -> float | None:
    """US dollars an hour of so many machines of each type; None where a price is not known."""
    prices = [(HOUR.get(name), count) for name, count in machines]
    if any(price is None for price, _ in prices):
        return None
    return round(sum((price or 0.0) * count for price, count in prices), 4)


def cost(name: str, count: int, low: float, high: float, what: str) -> CostRange | None:
    """What machines cost for ``low`` to ``high`` hours; None without a known price."""
    price = hourly([(name, count)])
    if price is None:
        return None
    return CostRange(
        low=round(price * low, 4),
        high=round(price * high, 4),
        basis=f"{count} × {name} at {HOUR[name]} USD an hour (on demand, East US), {what}",
        as_of=PRICES_OF,
    )


def machine(resources: Resources) -> str:
    """The machine for what is asked. Raises InvalidRequest, naming candidates, where there is
    none: nothing larger is taken in silence."""
    if resources.instance_type is not None:
        return resources.instance_type
    if resources.accelerator is None:
        for cpus, memory, name in CPU:
            if (resources.cpus or 0) <= cpus and (resources.memory or 0) <= memory:
                return name
        raise invalid(
            "resources.cpus",
            resources.cpus,
            "is more than any machine of the table has",
            "Name one: resources.instance_type.",
        )
    first: InvalidRequest | None = None
    for text in (resources.accelerator, *resources.any_of):
        try:
            return _gpu(text)
        except InvalidRequest as error:
            first = first or error
    assert first is not None  # noqa: S101 - the loop ran at least once
    raise first


def _gpu(text: str) -> str:
    wanted = Accelerator.parse(text)
    for (name, memory, count), machine in GPU.items():
        same = wanted.memory in {None, memory} or memory is None
        if (name, count) == (wanted.name, wanted.count) and same:
            return machine
    near = sorted(
        f"{name}{f'-{memory}GB' if memory else ''}:{count}"
        for name, memory, count in GPU
        if name == wanted.name
    )
    raise invalid(
        "resources.accelerator",
        text,
        "is on no machine of Azure ML's table",
        f"There are: {', '.join(near) or ', '.join(sorted({n for n, _, _ in GPU}))}; or name a "
        "machine: resources.instance_type.",
    )
