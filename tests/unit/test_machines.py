"""One way to choose a machine, over each provider's table."""

from __future__ import annotations

from typing import Any

import pytest

from cloudai._core.machines import Machine, choose, hourly
from cloudai.errors import InvalidRequest
from cloudai.providers.aws.catalog import TABLE as AWS
from cloudai.providers.azure.ml.machines import TABLE as AZURE
from cloudai.providers.vertex import catalog as vertex
from cloudai.types import Resources


def aws(**asked: Any) -> list[str]:
    return [one.name for one in choose(Resources(**asked), AWS, who="SageMaker")]


def azure(**asked: Any) -> list[str]:
    return [one.name for one in choose(Resources(**asked), AZURE, who="Azure ML")]


def of_vertex(**asked: Any) -> list[str]:
    return [vertex.machine(Resources(**asked), "us-central1").type]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"cpus": 4}, ("ml.c5.xlarge", "Standard_DS3_v2", "n2-standard-4")),
        ({"cpus": 8, "memory": 60}, ("ml.r5.2xlarge", "Standard_D32s_v3", "n2-highmem-8")),
        ({"cpus": 4, "memory": 20}, ("ml.r5.xlarge", "Standard_DS4_v2", "n2-highmem-4")),
        ({"accelerator": "T4:1"}, ("ml.g4dn.xlarge", "Standard_NC4as_T4_v3", "n1-standard-8")),
        ({"accelerator": "A100-40GB:8"},
         ("ml.p4d.24xlarge", "Standard_ND96asr_v4", "a2-highgpu-8g")),
        ({"accelerator": "A100-80GB:8"},
         ("ml.p4de.24xlarge", "Standard_ND96amsr_A100_v4", "a2-ultragpu-8g")),
    ],
)  # fmt: skip
def test_i11_the_cheapest_that_fits(asked: dict[str, Any], names: tuple[str, str, str]) -> None:
    assert (aws(**asked), azure(**asked), of_vertex(**asked)) == tuple([name] for name in names)


def test_i11_one_for_each_that_there_is_and_nothing_larger() -> None:
    assert aws(accelerator="A10:1", any_of=("L4:1", "T4:4")) == ["ml.g6.xlarge", "ml.g4dn.12xlarge"]
    assert aws(accelerator="T4:1", cpus=12) == ["ml.g4dn.4xlarge"]
    for one in (aws, azure, of_vertex):
        for asked in ({"accelerator": "T4:3"}, {"accelerator": "MI300:1"}, {"cpus": 500}):
            with pytest.raises((InvalidRequest, vertex.Unavailable)) as caught:
                one(**asked)
            told = getattr(caught.value, "hint", None) or caught.value.mend  # type: ignore[attr-defined]
            assert "instance_type" in told


def test_i11_what_machines_cost_an_hour() -> None:
    prices = {one.name: one.hour for one in (Machine("a", hour=0.1), Machine("b"))}
    assert hourly([("a", 3)], prices.get) == 0.3
    assert hourly([("a", 1), ("b", 1)], prices.get) is None
