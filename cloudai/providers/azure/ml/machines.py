"""Machines of Azure ML by what they have: a dated table, never fetched."""

from __future__ import annotations

from typing import Final

from cloudai._core import machines as _machines
from cloudai._core.machines import Machine, choose
from cloudai.types import CostRange, Resources

AS_OF: Final = "2025-08-15"
"""Azure's VM size pages, read on that date."""
PRICES_OF: Final = "2026-11-30"

TABLE: Final = (
    Machine("Standard_DS3_v2", 4, 14.0, hour=0.293),
    Machine("Standard_DS4_v2", 8, 28.0, hour=0.585),
    Machine("Standard_DS5_v2", 16, 56.0, hour=1.17),
    Machine("Standard_D32s_v3", 32, 128.0, hour=1.536),
    Machine("Standard_D64s_v3", 64, 256.0, hour=3.072),
    Machine("Standard_ND96asr_v4", chip="A100", chip_memory=40, chips=8, hour=27.197),
    Machine("Standard_ND96amsr_A100_v4", chip="A100", chip_memory=80, chips=8, hour=32.77),
    Machine("Standard_NC24ads_A100_v4", chip="A100", chip_memory=80, chips=1, hour=3.673),
    Machine("Standard_NC48ads_A100_v4", chip="A100", chip_memory=80, chips=2, hour=7.346),
    Machine("Standard_NC96ads_A100_v4", chip="A100", chip_memory=80, chips=4, hour=14.692),
    Machine("Standard_NC40ads_H100_v5", chip="H100", chip_memory=94, chips=1, hour=6.98),
    Machine("Standard_NC80adis_H100_v5", chip="H100", chip_memory=94, chips=2, hour=13.96),
    Machine("Standard_ND96isr_H100_v5", chip="H100", chip_memory=80, chips=8, hour=98.32),
    Machine("Standard_ND96isr_H200_v5", chip="H200", chips=8, hour=84.8),
    Machine("Standard_NC4as_T4_v3", chip="T4", chips=1, hour=0.526),
    Machine("Standard_NC64as_T4_v3", chip="T4", chips=4, hour=4.352),
    Machine("Standard_NV36ads_A10_v5", chip="A10", chips=1, hour=3.2),
    Machine("Standard_NV72ads_A10_v5", chip="A10", chips=2, hour=6.52),
)
"""Prices: on demand, Linux, East US (H200: West US 3), as SkyPilot's catalogue and others read them
off Azure's Retail Prices API; Azure ML adds nothing to the machine's price ("Plan and manage costs
for Azure Machine Learning")."""

_HOUR: Final = {machine.name: machine.hour for machine in TABLE}


def hourly(machines: list[tuple[str, int]]) -> float | None:
    """US dollars an hour of so many machines of each type; None where a price is not known."""
    return _machines.hourly(machines, _HOUR.get)


def cost(name: str, count: int, low: float, high: float, what: str) -> CostRange | None:
    """What machines cost for ``low`` to ``high`` hours; None without a known price."""
    price = hourly([(name, count)])
    if price is None:
        return None
    return CostRange(
        low=round(price * low, 4),
        high=round(price * high, 4),
        basis=f"{count} × {name} at {_HOUR[name]} USD an hour (on demand, East US), {what}",
        as_of=PRICES_OF,
    )


def machine(resources: Resources) -> str:
    """The machine for what is asked. Raises InvalidRequest, naming candidates, where there is
    none: nothing larger is taken in silence."""
    return resources.instance_type or choose(resources, TABLE, who="Azure ML")[0].name
