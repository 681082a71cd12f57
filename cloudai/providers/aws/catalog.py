"""Machines and prices: static tables with their dates. Nothing is fetched.

Prices are on-demand, US dollars, us-east-1, from AWS's price pages as of ``AS_OF``. Other regions
differ, mostly upwards; what is not in a table has no known price and its cost is None.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from msgspec.structs import replace

from cloudai.providers.aws import families
from cloudai.types import Accelerator, ChatReply, Usage

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
    "ml.g6e.xlarge": Machine(4, 32, "L40S", 48, 1),
    "ml.g6e.2xlarge": Machine(8, 64, "L40S", 48, 1),
    "ml.g6e.12xlarge": Machine(48, 384, "L40S", 48, 4),
    "ml.g6e.48xlarge": Machine(192, 1536, "L40S", 48, 8),
    "ml.p3.2xlarge": Machine(8, 61, "V100", 16, 1, 3.825),
    "ml.p3.8xlarge": Machine(32, 244, "V100", 16, 4, 14.688),
    "ml.p3.16xlarge": Machine(64, 488, "V100", 16, 8, 28.152),
    "ml.p3dn.24xlarge": Machine(96, 768, "V100", 32, 8, 35.894),
    "ml.p4d.24xlarge": Machine(96, 1152, "A100", 40, 8),
    "ml.p4de.24xlarge": Machine(96, 1152, "A100", 80, 8),
    "ml.p5.4xlarge": Machine(16, 256, "H100", 80, 1),
    "ml.p5.48xlarge": Machine(192, 2048, "H100", 80, 8),
    "ml.p5e.48xlarge": Machine(192, 2048, "H200", 141, 8),
    "ml.p5en.48xlarge": Machine(192, 2048, "H200", 141, 8),
    "ml.p6-b200.48xlarge": Machine(192, 2048, "B200", 180, 8),
    "ml.trn1.2xlarge": Machine(8, 32, "TRAINIUM", 32, 1),
    "ml.trn1.32xlarge": Machine(128, 512, "TRAINIUM", 32, 16),
    "ml.inf2.xlarge": Machine(4, 16, "INFERENTIA2", 32, 1),
}

# Their own disks are encrypted by their hardware, and SageMaker refuses another key for these
# ("VolumeKmsKeyId", API reference, read 2026-11).
_OWN_DISK: Final = re.compile(
    r"ml\.(?:[a-z]\d[a-z]*d[a-z]*|g[456]e?|g4dn|p3dn|p4de?|p5e?n?|p6[a-z0-9-]*|trn\dn?)\."
)


def own_disk(machine: str) -> bool:
    """Whether an instance type comes with disks of its own."""
    return _OWN_DISK.match(machine) is not None


_CPU_ORDER: Final = ("ml.m5.", "ml.c5.", "ml.r5.")


def with_accelerator(wanted: Accelerator) -> list[str]:
    """The machines that have exactly this, the smallest first."""
    found = [
        name
        for name, machine in MACHINES.items()
        if machine.gpu == wanted.name
        and machine.gpus == wanted.count
        and wanted.memory in {None, machine.gpu_memory}
    ]
    return sorted(found, key=lambda name: MACHINES[name].cpus)


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


class Price(NamedTuple):
    """US dollars for a million tokens; ``cached`` and ``written`` of the prompt cache."""

    input: float
    output: float = 0.0
    cached: float | None = None
    written: float | None = None


PRICES: Final[dict[str, Price]] = {
    "anthropic.claude-opus-4-5": Price(5, 25, 0.5, 6.25),
    "anthropic.claude-opus-4-1": Price(15, 75, 1.5, 18.75),
    "anthropic.claude-opus-4-20250514": Price(15, 75, 1.5, 18.75),
    "anthropic.claude-sonnet-4-5": Price(3, 15, 0.3, 3.75),
    "anthropic.claude-sonnet-4-20250514": Price(3, 15, 0.3, 3.75),
    "anthropic.claude-haiku-4-5": Price(1, 5, 0.1, 1.25),
    "anthropic.claude-3-7-sonnet": Price(3, 15, 0.3, 3.75),
    "anthropic.claude-3-5-sonnet": Price(3, 15, 0.3, 3.75),
    "anthropic.claude-3-5-haiku": Price(0.8, 4, 0.08, 1.0),
    "anthropic.claude-3-haiku": Price(0.25, 1.25, 0.03, 0.3),
    "amazon.nova-micro": Price(0.035, 0.14, 0.00875, 0.035),
    "amazon.nova-lite": Price(0.06, 0.24, 0.015, 0.06),
    "amazon.nova-pro": Price(0.8, 3.2, 0.2, 0.8),
    "amazon.nova-premier": Price(2.5, 12.5),
    "meta.llama3-3-70b": Price(0.72, 0.72),
    "openai.gpt-oss-120b": Price(0.15, 0.6),
    "openai.gpt-oss-20b": Price(0.07, 0.3),
    "amazon.titan-embed-text-v2": Price(0.02),
    "amazon.titan-embed-text-v1": Price(0.1),
    "cohere.embed-v4": Price(0.12),
    "cohere.embed-english-v3": Price(0.1),
    "cohere.embed-multilingual-v3": Price(0.1),
}
"""By the beginning of the model's name; Bedrock's price page, on-demand, as of ``AS_OF``."""

_known: dict[str, Price | None] = {}


def price(model: str) -> Price | None:
    """The price of a model's tokens, where it is known."""
    if model in _known:
        return _known[model]
    name = families.family(model)
    found = max((key for key in PRICES if name.startswith(key)), key=len, default=None)
    made = PRICES[found] if found is not None else None
    if len(_known) < 1024:  # a program that makes up names must not fill the memory
        _known[model] = made
    return made


def cost(model: str, usage: Usage) -> float | None:
    """US dollars for a call; the cached tokens at their own price."""
    found = price(model)
    if found is None:
        return None
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    if (cached and found.cached is None) or (written and found.written is None):
        return None
    plain = usage.input_tokens - cached - written
    dollars = plain * found.input + usage.output_tokens * found.output
    dollars += cached * (found.cached or 0.0) + written * (found.written or 0.0)
    return dollars / 1e6


def priced(reply: ChatReply) -> ChatReply:
    """The reply with its cost."""
    dollars = cost(reply.model, reply.usage)
    return reply if dollars is None else replace(reply, cost=dollars)


def embedding_cost(model: str, tokens: int) -> float | None:
    """US dollars for embedding so many tokens."""
    found = price(model)
    return None if found is None else tokens * found.input / 1e6
