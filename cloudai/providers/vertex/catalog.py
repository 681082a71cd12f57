"""Static tables of Vertex AI: machines, regions, images, prices. Dated; never fetched.

Machines and regions: "Configure compute resources for custom training" and "Locations", Vertex AI
documentation. Prices: Vertex AI's and Gemini's price pages, us-central1, list prices in US
dollars. All read 2025-11; ``resources.instance_type`` goes past the tables where they are old.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai._core import machines
from cloudai._core.machines import choose
from cloudai._core.numerals import numeral
from cloudai.errors import InvalidRequest
from cloudai.types import Accelerator, CostRange, Resources

AS_OF: Final = "2025-11-01"


class Machine(msgspec.Struct, frozen=True):
    """A machine type.

    Parameters
    ----------
    type: Compute Engine's name. vendor, count: the accelerators on it, in Vertex AI's words.
    hour: US dollars an hour on demand; None where it is not known.
    """

    type: str
    vendor: str | None = None
    count: int = 0
    hour: float | None = None


class Chip(msgspec.Struct, frozen=True):
    """An accelerator: Vertex AI's name, the machines that carry it, the regions that have it."""

    vendor: str
    machines: tuple[Machine, ...]
    regions: frozenset[str]


def _family(vendor: str, *rows: tuple[int, str, float | None]) -> tuple[Machine, ...]:
    return tuple(Machine(name, vendor, count, hour) for count, name, hour in rows)


_WIDE: Final = frozenset(
    [
        "us-central1",
        "us-east1",
        "us-east4",
        "us-west1",
        "us-west2",
        "us-west4",
        "europe-west1",
        "europe-west2",
        "europe-west3",
        "europe-west4",
        "asia-east1",
        "asia-northeast1",
        "asia-northeast3",
        "asia-south1",
        "asia-southeast1",
        "australia-southeast1",
        "northamerica-northeast1",
    ]
)

CHIPS: Final[dict[str, Chip]] = {
    "L4": Chip(
        "NVIDIA_L4",
        _family(
            "NVIDIA_L4",
            (1, "g2-standard-4", 0.81),
            (2, "g2-standard-24", 2.30),
            (4, "g2-standard-48", 4.60),
            (8, "g2-standard-96", 9.20),
        ),
        frozenset(
            [
                "us-central1",
                "us-east1",
                "us-east4",
                "us-west1",
                "us-west4",
                "europe-west1",
                "europe-west2",
                "europe-west3",
                "europe-west4",
                "europe-west6",
                "asia-east1",
                "asia-northeast1",
                "asia-northeast3",
                "asia-south1",
                "asia-southeast1",
                "northamerica-northeast2",
                "me-central2",
            ]
        ),
    ),
    "T4": Chip(
        "NVIDIA_TESLA_T4",
        _family(
            "NVIDIA_TESLA_T4",
            (1, "n1-standard-8", 0.84),
            (2, "n1-standard-16", 1.68),
            (4, "n1-standard-32", 3.36),
        ),
        _WIDE,
    ),
    "V100-16GB": Chip(
        "NVIDIA_TESLA_V100",
        _family(
            "NVIDIA_TESLA_V100",
            (1, "n1-standard-8", 3.29),
            (2, "n1-standard-16", 6.58),
            (4, "n1-standard-32", 13.16),
            (8, "n1-standard-64", 26.32),
        ),
        frozenset(["us-central1", "us-east1", "us-west1", "europe-west4", "asia-east1"]),
    ),
    "P100": Chip(
        "NVIDIA_TESLA_P100",
        _family(
            "NVIDIA_TESLA_P100",
            (1, "n1-standard-8", 2.12),
            (2, "n1-standard-16", 4.24),
            (4, "n1-standard-32", 8.48),
        ),
        frozenset(
            [
                "us-central1",
                "us-east1",
                "us-west1",
                "europe-west1",
                "europe-west4",
                "asia-east1",
                "australia-southeast1",
            ]
        ),
    ),
    "A100-40GB": Chip(
        "NVIDIA_TESLA_A100",
        _family(
            "NVIDIA_TESLA_A100",
            (1, "a2-highgpu-1g", 4.22),
            (2, "a2-highgpu-2g", 8.45),
            (4, "a2-highgpu-4g", 16.90),
            (8, "a2-highgpu-8g", 33.80),
            (16, "a2-megagpu-16g", 64.02),
        ),
        frozenset(
            [
                "us-central1",
                "us-east1",
                "us-west1",
                "us-west3",
                "us-west4",
                "europe-west4",
                "asia-northeast1",
                "asia-northeast3",
                "asia-southeast1",
                "me-west1",
            ]
        ),
    ),
    "A100-80GB": Chip(
        "NVIDIA_A100_80GB",
        _family(
            "NVIDIA_A100_80GB",
            (1, "a2-ultragpu-1g", 5.78),
            (2, "a2-ultragpu-2g", 11.56),
            (4, "a2-ultragpu-4g", 23.13),
            (8, "a2-ultragpu-8g", 46.25),
        ),
        frozenset(["us-central1", "us-east4", "us-east5", "europe-west4", "asia-southeast1"]),
    ),
    "H100-80GB": Chip(
        "NVIDIA_H100_80GB",
        _family(
            "NVIDIA_H100_80GB",
            (1, "a3-highgpu-1g", 12.63),
            (2, "a3-highgpu-2g", 25.25),
            (4, "a3-highgpu-4g", 50.50),
            (8, "a3-highgpu-8g", 101.01),
        ),
        frozenset(
            [
                "us-central1",
                "us-east4",
                "us-east5",
                "us-west1",
                "us-west4",
                "europe-west1",
                "europe-west4",
                "asia-northeast1",
                "asia-southeast1",
            ]
        ),
    ),
    "H200": Chip(
        "NVIDIA_H200_141GB",
        _family("NVIDIA_H200_141GB", (8, "a3-ultragpu-8g", 99.77)),
        frozenset(
            [
                "us-central1",
                "us-east1",
                "us-east4",
                "us-east5",
                "us-south1",
                "us-west1",
                "europe-west1",
            ]
        ),
    ),
    "B200": Chip(
        "NVIDIA_B200",
        _family("NVIDIA_B200", (8, "a4-highgpu-8g", None)),
        frozenset(["us-central1", "us-east4", "us-south1", "us-west2", "us-west3", "europe-west4"]),
    ),
}

_MEMORY: Final = {"H200": 141, "L4": 24, "T4": 16, "P100": 16}
"""GiB of those whose name does not tell."""

# n2: vCPUs → US dollars an hour; 4 GiB a vCPU, and 8 on highmem at about 1.31 times the price.
_N2: Final = (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)
_N2_VCPU_HOUR: Final = 0.0558
DEFAULT_CPU: Final = Machine("n2-standard-4", hour=4 * _N2_VCPU_HOUR)
_CPUS: Final = [
    machines.Machine(f"n2-{kind}-{size}", size, size * share, hour=size * _N2_VCPU_HOUR * price)
    for kind, share, price in (("standard", 4, 1.0), ("highmem", 8, 1.31))
    for size in _N2
    if kind == "standard" or size <= 96
]

SPOT_SHARE: Final = 0.4
"""What spot costs of the price on demand, at most ("60-91% discounts", spot VM price page)."""


class Unavailable(Exception):
    """No machine fits; says why and what would do."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend


def machine(resources: Resources, location: str) -> Machine:
    """The machine that carries what was asked for in a region, and never a larger one: the
    first of ``accelerator`` and ``any_of`` that there is. Raises Unavailable."""
    if resources.instance_type is not None:
        return _named(resources)
    if not (resources.accelerator or resources.any_of or resources.cpus or resources.memory):
        return DEFAULT_CPU
    here = [row for name, chip in CHIPS.items() if location in chip.regions for row in _rows(name)]
    try:
        found = choose(resources, [*_CPUS, *here], who="Vertex AI")[0]
    except InvalidRequest as error:
        if resources.accelerator is not None:
            _elsewhere(Accelerator.parse(resources.accelerator), location)
        raise Unavailable(f"{error.message}.", error.hint or "") from None
    if found.chip is None:
        return Machine(found.name, hour=found.hour)
    kind = next(name for name in CHIPS if found in _rows(name))
    return Machine(found.name, CHIPS[kind].vendor, found.chips, found.hour)


def _rows(kind: str) -> list[machines.Machine]:
    """The machines of an accelerator in the core's words."""
    wanted = Accelerator.parse(kind)
    memory = wanted.memory or _MEMORY.get(kind)
    return [
        machines.Machine(
            one.type, chip=wanted.name, chip_memory=memory, chips=one.count, hour=one.hour
        )
        for one in CHIPS[kind].machines
    ]


def _elsewhere(wanted: Accelerator, location: str) -> None:
    """Raises Unavailable where other regions have it."""
    regions = {
        region
        for kind, chip in CHIPS.items()
        if Accelerator.parse(kind).name == wanted.name
        for region in chip.regions
    }
    if regions and location not in regions:
        here = [name for name, chip in CHIPS.items() if location in chip.regions]
        raise Unavailable(
            f"{location} has no {wanted.name} (table of {AS_OF}).",
            f"It is in: {', '.join(sorted(regions))}. "
            f"{location} has: {', '.join(here) or 'no accelerator'}. "
            "Or name resources.instance_type.",
        )


def _named(resources: Resources) -> Machine:
    name = resources.instance_type or ""
    for chip in CHIPS.values():
        for one in chip.machines:
            if one.type == name and not name.startswith("n1-"):
                return one  # its accelerators are built in
    if resources.accelerator is None:
        return Machine(name)
    asked = Accelerator.parse(resources.accelerator)
    for kind, chip in CHIPS.items():
        row = _rows(kind)[0]
        if row.chip == asked.name and asked.memory in {None, row.chip_memory}:
            return Machine(name, chip.vendor, asked.count)
    raise Unavailable(f"Vertex AI has no {asked.name}.", f"It has: {', '.join(CHIPS)}.")


def hour(type: str, vendor: str | None = None, count: int = 0) -> float | None:
    """US dollars an hour of a machine type, with the accelerators its name stands for, or, of n1,
    those that are put to it."""
    for chip in CHIPS.values():
        for one in chip.machines:
            if one.type == type and (
                (one.vendor, one.count) == (vendor, count) or not type.startswith("n1-")
            ):
                return one.hour
    family, _, size = type.rpartition("-")
    if family in {"n2-standard", "n2-highmem"} and size.isdigit():
        return int(size) * _N2_VCPU_HOUR * (1.31 if family.endswith("highmem") else 1.0)
    return None


def hourly(machines: list[tuple[dict[str, Any], int]]) -> float | None:
    """US dollars an hour of so many machines by each machineSpec; None where one has no known
    price."""
    total = 0.0
    for spec, count in machines:
        chips = int(spec.get("acceleratorCount") or 0)
        price = hour(str(spec.get("machineType")), spec.get("acceleratorType"), chips)
        if price is None:
            return None
        total += price * count
    return round(total, 4)


def cost(
    machine: Machine, count: int, timeout: float | None, share: float = 1.0
) -> CostRange | None:
    """What machines cost from a minute up to the timeout, or an hour; None without a known price.

    Parameters
    ----------
    share: of the price at the least, such as ``SPOT_SHARE``.
    """
    if machine.hour is None:
        return None
    hours = (timeout or 3600.0) / 3600
    what = "the timeout" if timeout else "one hour (no timeout is set)"
    return CostRange(
        low=machine.hour * count * min(hours, 1 / 60) * share,
        high=machine.hour * count * hours,
        basis=f"{count} × {machine.type} at ${numeral(machine.hour)} an hour "
        f"(us-central1, on demand): from one minute to {what}",
        as_of=AS_OF,
    )
