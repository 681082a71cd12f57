"""What a spec has wrong is told before a cloud is asked anything, even whose account it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudai import BatchTransform, Client, TrainingJob
from cloudai.errors import CloudAIError
from cloudai.testing.clouds import emulated

WRONG: dict[str, Callable[[Client, str], Any]] = {
    "training": lambda client, folder: client.training.submit(
        TrainingJob(source=folder, entry="gone.py")
    ),
    "endpoints": lambda client, folder: client.endpoints.deploy(folder, name="a--b_"),
    "batch": lambda client, folder: client.batch.submit(
        BatchTransform(model=folder, input=f"{folder}/gone.jsonl", output=f"{folder}/out.jsonl")
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("provider", ["aws", "azure", "vertex"])
def test_a_wrong_spec_costs_no_request(provider: str, what: str, tmp_path: Path) -> None:
    cloud = emulated(provider)
    with cloud, cloud.applied(), cloud.client() as client:
        del cloud.requests[:]
        with pytest.raises(CloudAIError):
            WRONG[what](client, str(tmp_path))
        assert not cloud.requests
        assert not list(client.resources())
