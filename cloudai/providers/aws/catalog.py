"""Machines: static tables with their dates. Nothing is fetched; models are in ``models``.

Prices are on-demand, US dollars, us-east-1, from AWS's price pages as of ``AS_OF``; those of g6e,
p4d and p5 as others read them off AWS's price list (2026-07 to 2026-09). p4de, p5.4xlarge and p5en
are EC2's prices by 1.15, which is SageMaker's share on p4d and p5. Other regions differ, mostly
upwards; what is not in a table has no known price and its cost is None.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from cloudai.types import Accelerator

AS_OF: Final = "2025-12-01"

REGIONS: Final = frozenset(
    [
        "af-south-1",
        "ap-east-1",
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-northeast-3",
        "ap-south-1",
        "ap-south-2",
        "ap-southeast-1",
        "ap-southeast-2",
        "ap-southeast-3",
        "ap-southeast-4",
        "ca-central-1",
        "ca-west-1",
        "eu-central-1",
        "eu-central-2",
        "eu-north-1",
        "eu-south-1",
        "eu-south-2",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "il-central-1",
        "me-central-1",
        "me-south-1",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
        "us-gov-east-1",
        "us-gov-west-1",
        "cn-north-1",
        "cn-northwest-1",
    ]
)
"""Regions that are known without botocore's own list, which takes 20 MB when it is loaded. Of any
other one that list is asked."""


class Machine(NamedTuple):
    """An instance type of SageMaker.

    Parameters
    ----------
    cpus: vCPUs. memory: GiB. gpu: accelerator name. gpu_memory: GiB on each. gpus: how many.
    price: US dollars an hour for training; None where it is not known here.
    """

    cpus: int
    memory: float
    gpu: str | None = None
    gpu_memory: int | None = None
    gpus: int = 0
    price: float | None = None


# Instance types and their accelerators: EC2's pages on accelerated computing, read 2026-11.
# Whether SageMaker has the type botocore's service model tells, which plan() asks.
MACHINES: Final[dict[str, Machine]] = {
    "ml.m5.large": Machine(2, 8, price=0.115),
    "ml.m5.xlarge": Machine(4, 16, price=0.23),
    "ml.m5.2xlarge": Machine(8, 32, price=0.461),
    "ml.m5.4xlarge": Machine(16, 64, price=0.922),
    "ml.m5.12xlarge": Machine(48, 192, price=2.765),
    "ml.m5.24xlarge": Machine(96, 384, price=5.53),
    "ml.c5.xlarge": Machine(4, 8, price=0.204),
    "ml.c5.2xlarge": Machine(8, 16, price=0.408),
    "ml.c5.4xlarge": Machine(16, 32, price=0.816),
    "ml.c5.9xlarge": Machine(36, 72, price=1.836),
    "ml.c5.18xlarge": Machine(72, 144, price=3.672),
    "ml.r5.large": Machine(2, 16),
    "ml.r5.xlarge": Machine(4, 32),
    "ml.r5.2xlarge": Machine(8, 64),
    "ml.r5.4xlarge": Machine(16, 128),
    "ml.r5.12xlarge": Machine(48, 384),
    "ml.r5.24xlarge": Machine(96, 768),
    "ml.g4dn.xlarge": Machine(4, 16, "T4", 16, 1, 0.736),
    "ml.g4dn.2xlarge": Machine(8, 32, "T4", 16, 1, 0.94),
    "ml.g4dn.4xlarge": Machine(16, 64, "T4", 16, 1, 1.505),
    "ml.g4dn.12xlarge": Machine(48, 192, "T4", 16, 4, 4.89),
    "ml.g5.xlarge": Machine(4, 16, "A10G", 24, 1, 1.408),
    "ml.g5.2xlarge": Machine(8, 32, "A10G", 24, 1, 1.515),
    "ml.g5.4xlarge": Machine(16, 64, "A10G", 24, 1, 2.03),
    "ml.g5.8xlarge": Machine(32, 128, "A10G", 24, 1, 3.06),
    "ml.g5.16xlarge": Machine(64, 256, "A10G", 24, 1, 5.12),
    "ml.g5.12xlarge": Machine(48, 192, "A10G", 24, 4, 7.09),
    "ml.g5.24xlarge": Machine(96, 384, "A10G", 24, 4, 10.18),
    "ml.g5.48xlarge": Machine(192, 768, "A10G", 24, 8, 20.36),
    "ml.g6.xlarge": Machine(4, 16, "L4", 24, 1, 1.127),
    "ml.g6.2xlarge": Machine(8, 32, "L4", 24, 1, 1.222),
    "ml.g6.4xlarge": Machine(16, 64, "L4", 24, 1, 1.654),
    "ml.g6.8xlarge": Machine(32, 128, "L4", 24, 1, 2.518),
    "ml.g6.12xlarge": Machine(48, 192, "L4", 24, 4, 5.752),
    "ml.g6.48xlarge": Machine(192, 768, "L4", 24, 8, 16.688),
    "ml.g6e.xlarge": Machine(4, 32, "L40S", 48, 1, 2.61),
    "ml.g6e.2xlarge": Machine(8, 64, "L40S", 48, 1, 2.8),
    "ml.g6e.12xlarge": Machine(48, 384, "L40S", 48, 4, 13.12),
    "ml.g6e.48xlarge": Machine(192, 1536, "L40S", 48, 8, 37.66),
    "ml.p3.2xlarge": Machine(8, 61, "V100", 16, 1, 3.825),
    "ml.p3.8xlarge": Machine(32, 244, "V100", 16, 4, 14.688),
    "ml.p3.16xlarge": Machine(64, 488, "V100", 16, 8, 28.152),
    "ml.p3dn.24xlarge": Machine(96, 768, "V100", 32, 8, 35.894),
    "ml.p4d.24xlarge": Machine(96, 1152, "A100", 40, 8, 25.251),
    "ml.p4de.24xlarge": Machine(96, 1152, "A100", 80, 8, 31.564),
    "ml.p5.4xlarge": Machine(16, 256, "H100", 80, 1, 7.912),
    "ml.p5.48xlarge": Machine(192, 2048, "H100", 80, 8, 63.296),
    "ml.p5e.48xlarge": Machine(192, 2048, "H200", 141, 8),
    "ml.p5en.48xlarge": Machine(192, 2048, "H200", 141, 8, 72.79),
    "ml.p6-b200.48xlarge": Machine(192, 2048, "B200", 180, 8),
    "ml.trn1.2xlarge": Machine(8, 32, "TRAINIUM", 32, 1),
    "ml.trn1.32xlarge": Machine(128, 512, "TRAINIUM", 32, 16, 28.497),
    "ml.inf2.xlarge": Machine(4, 16, "INFERENTIA2", 32, 1, 0.99),
}

# Their own disks are encrypted by their hardware, and SageMaker refuses another key for these
# ("VolumeKmsKeyId", API reference, read 2026-11).
_OWN_DISK: Final = re.compile(
    r"ml\.(?:[a-z]\d[a-z]*d[a-z]*|g[456]e?|g4dn|p3dn|p4de?|p5e?n?|p6[a-z0-9-]*|trn\dn?)\."
)


def own_disk(machine: str) -> bool:
    """Whether an instance type comes with disks of its own."""
    return _OWN_DISK.match(machine) is not None


Chip = Literal["cpu", "graviton", "gpu", "neuron"]

_GRAVITON: Final = re.compile(r"ml\.[a-z]+\d+g[a-z]*\.")
"""Families of Graviton have a g behind their generation: m7g, c6gn, r8gd."""


def chip(machine: str) -> Chip:
    """What the images of an instance type have to be made for, by its name: types that the table
    lacks are asked for too."""
    if machine.startswith(("ml.trn", "ml.inf")):
        return "neuron"
    if _GRAVITON.match(machine):
        return "graviton"
    return "gpu" if machine.startswith(("ml.g", "ml.p")) else "cpu"


_CPU_ORDER: Final = ("ml.m5.", "ml.c5.", "ml.r5.")


def with_accelerator(wanted: Accelerator) -> list[str]:
    """The machines that have exactly this, the smallest first; of like ones those with a price on
    demand."""
    found = [
        name
        for name, machine in MACHINES.items()
        if machine.gpu == wanted.name
        and machine.gpus == wanted.count
        and wanted.memory in {None, machine.gpu_memory}
    ]
    return sorted(found, key=lambda name: (MACHINES[name].cpus, MACHINES[name].price is None))


def near(wanted: Accelerator) -> list[str]:
    """The machines with the same accelerator in another number or memory, for a hint."""
    return [
        f"{machine.gpu}-{machine.gpu_memory}GB:{machine.gpus} ({name})"
        for name, machine in MACHINES.items()
        if machine.gpu == wanted.name
    ]


def with_cpus(cpus: int, memory: float) -> str | None:
    """The smallest CPU machine with at least this many cores and GiB."""
    found = [
        (machine.cpus, machine.memory, _CPU_ORDER.index(name[:6]), name)
        for name, machine in MACHINES.items()
        if machine.gpu is None and machine.cpus >= cpus and machine.memory >= memory
    ]
    return min(found)[3] if found else None


def hourly(machines: list[tuple[str, int]]) -> float | None:
    """US dollars an hour of so many machines of each type; None where a price is not known."""
    total = 0.0
    for name, count in machines:
        found = MACHINES.get(name)
        if found is None or found.price is None:
            return None
        total += found.price * count
    return round(total, 4)
