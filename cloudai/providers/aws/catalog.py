"""Machines: static tables with their dates. Nothing is fetched; models are in ``models``.

Prices are on-demand, US dollars, us-east-1, from AWS's price pages as of ``AS_OF``; those of g6e,
p4d and p5 as others read them off AWS's price list (2026-07 to 2026-09). p4de, p5.4xlarge and p5en
are EC2's prices by 1.15, which is SageMaker's share on p4d and p5. Other regions differ, mostly
upwards; what is not in a table has no known price and its cost is None.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from cloudai._core import machines as _machines
from cloudai._core.machines import Machine

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


# Instance types and their accelerators: EC2's pages on accelerated computing, read 2026-11.
# Whether SageMaker has the type botocore's service model tells, which plan() asks.
TABLE: Final = (
    Machine("ml.m5.large", 2, 8, hour=0.115),
    Machine("ml.m5.xlarge", 4, 16, hour=0.23),
    Machine("ml.m5.2xlarge", 8, 32, hour=0.461),
    Machine("ml.m5.4xlarge", 16, 64, hour=0.922),
    Machine("ml.m5.12xlarge", 48, 192, hour=2.765),
    Machine("ml.m5.24xlarge", 96, 384, hour=5.53),
    Machine("ml.c5.xlarge", 4, 8, hour=0.204),
    Machine("ml.c5.2xlarge", 8, 16, hour=0.408),
    Machine("ml.c5.4xlarge", 16, 32, hour=0.816),
    Machine("ml.c5.9xlarge", 36, 72, hour=1.836),
    Machine("ml.c5.18xlarge", 72, 144, hour=3.672),
    Machine("ml.r5.large", 2, 16),
    Machine("ml.r5.xlarge", 4, 32),
    Machine("ml.r5.2xlarge", 8, 64),
    Machine("ml.r5.4xlarge", 16, 128),
    Machine("ml.r5.12xlarge", 48, 384),
    Machine("ml.r5.24xlarge", 96, 768),
    Machine("ml.g4dn.xlarge", 4, 16, "T4", 16, 1, 0.736),
    Machine("ml.g4dn.2xlarge", 8, 32, "T4", 16, 1, 0.94),
    Machine("ml.g4dn.4xlarge", 16, 64, "T4", 16, 1, 1.505),
    Machine("ml.g4dn.12xlarge", 48, 192, "T4", 16, 4, 4.89),
    Machine("ml.g5.xlarge", 4, 16, "A10G", 24, 1, 1.408),
    Machine("ml.g5.2xlarge", 8, 32, "A10G", 24, 1, 1.515),
    Machine("ml.g5.4xlarge", 16, 64, "A10G", 24, 1, 2.03),
    Machine("ml.g5.8xlarge", 32, 128, "A10G", 24, 1, 3.06),
    Machine("ml.g5.16xlarge", 64, 256, "A10G", 24, 1, 5.12),
    Machine("ml.g5.12xlarge", 48, 192, "A10G", 24, 4, 7.09),
    Machine("ml.g5.24xlarge", 96, 384, "A10G", 24, 4, 10.18),
    Machine("ml.g5.48xlarge", 192, 768, "A10G", 24, 8, 20.36),
    Machine("ml.g6.xlarge", 4, 16, "L4", 24, 1, 1.127),
    Machine("ml.g6.2xlarge", 8, 32, "L4", 24, 1, 1.222),
    Machine("ml.g6.4xlarge", 16, 64, "L4", 24, 1, 1.654),
    Machine("ml.g6.8xlarge", 32, 128, "L4", 24, 1, 2.518),
    Machine("ml.g6.12xlarge", 48, 192, "L4", 24, 4, 5.752),
    Machine("ml.g6.48xlarge", 192, 768, "L4", 24, 8, 16.688),
    Machine("ml.g6e.xlarge", 4, 32, "L40S", 48, 1, 2.61),
    Machine("ml.g6e.2xlarge", 8, 64, "L40S", 48, 1, 2.8),
    Machine("ml.g6e.12xlarge", 48, 384, "L40S", 48, 4, 13.12),
    Machine("ml.g6e.48xlarge", 192, 1536, "L40S", 48, 8, 37.66),
    Machine("ml.p3.2xlarge", 8, 61, "V100", 16, 1, 3.825),
    Machine("ml.p3.8xlarge", 32, 244, "V100", 16, 4, 14.688),
    Machine("ml.p3.16xlarge", 64, 488, "V100", 16, 8, 28.152),
    Machine("ml.p3dn.24xlarge", 96, 768, "V100", 32, 8, 35.894),
    Machine("ml.p4d.24xlarge", 96, 1152, "A100", 40, 8, 25.251),
    Machine("ml.p4de.24xlarge", 96, 1152, "A100", 80, 8, 31.564),
    Machine("ml.p5.4xlarge", 16, 256, "H100", 80, 1, 7.912),
    Machine("ml.p5.48xlarge", 192, 2048, "H100", 80, 8, 63.296),
    Machine("ml.p5e.48xlarge", 192, 2048, "H200", 141, 8),
    Machine("ml.p5en.48xlarge", 192, 2048, "H200", 141, 8, 72.79),
    Machine("ml.p6-b200.48xlarge", 192, 2048, "B200", 180, 8),
    Machine("ml.trn1.2xlarge", 8, 32, "TRAINIUM", 32, 1),
    Machine("ml.trn1.32xlarge", 128, 512, "TRAINIUM", 32, 16, 28.497),
    Machine("ml.inf2.xlarge", 4, 16, "INFERENTIA2", 32, 1, 0.99),
)
MACHINES: Final = {machine.name: machine for machine in TABLE}

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


def price(name: str) -> float | None:
    """US dollars an hour; None where it is not known."""
    found = MACHINES.get(name)
    return None if found is None else found.hour


def hourly(machines: list[tuple[str, int]]) -> float | None:
    """US dollars an hour of so many machines of each type; None where a price is not known."""
    return _machines.hourly(machines, price)
