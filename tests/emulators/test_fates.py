"""Fates: what the next job, endpoint or batch of an emulated cloud comes to, by one name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import CloudAIError, ConfigError, UnsupportedByProvider
from cloudai.testing import EmulatedCloud
from cloudai.testing.clouds import CLOUDS
from cloudai.testing.emulators.common.fates import ENDS, KINDS, known

for name in ("moto", "openai", "google.genai", "azure.ai.ml"):
    pytest.importorskip(name)

STATES = {"PREEMPTED": "PREEMPTED", "CAPACITY": "FAILED"}
"""What cloudai calls an end, where it is not the same word."""


@pytest.fixture(params=list(CLOUDS))
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


def state_of(cloud: EmulatedCloud, outcome: str) -> str:
    if outcome == "PREEMPTED" and cloud.name == "aws":
        return "SUCCEEDED"  # SageMaker itself begins again
    return STATES.get(outcome, outcome)


def ended(job: cloudai.JobHandle) -> cloudai.JobStatus:
    try:
        return job.wait(timeout=120)
    except CloudAIError:
        return job.status


def test_training_jobs(cloud: EmulatedCloud, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    with cloud.client() as client:
        for outcome in known(cloud.name, "training"):
            cloud.fate(outcome)
            name = outcome.lower().replace("_", "-")
            spec = cloudai.TrainingJob(source=str(tmp_path), entry="train.py", name=name)
            status = ended(client.training.submit(spec))
            assert status.state == state_of(cloud, outcome), status
            assert status.capacity == (outcome == "CAPACITY")
            assert status.restarts == int(outcome == "PREEMPTED" and cloud.name == "aws")


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "handler.py").write_text(
        "def load(model_dir):\n    return 2\n\n\n"
        "def predict(model, inputs, params):\n    return [model * one for one in inputs]\n"
    )
    return str(folder)


@pytest.mark.parametrize("execute", [False, True], ids=["scripted", "executed"])
def test_endpoints(request: pytest.FixtureRequest, model: str, execute: bool) -> None:
    request.node.add_marker(pytest.mark.cloudai_emulated(execute=execute))
    for name in CLOUDS:
        cloud: EmulatedCloud = request.getfixturevalue(f"emulated_{name}")
        with cloudai.Client(name) as client:
            for outcome in known(name, "endpoints"):
                cloud.fate(outcome, of="endpoints")
                endpoint = client.endpoints.deploy(model, name=f"{outcome.lower()}-one", wait=False)
                if outcome == "SUCCEEDED":
                    endpoint.wait(120)
                    assert endpoint.predict([3]) == [6 if execute else 3]
                else:
                    with pytest.raises(CloudAIError):
                        endpoint.wait(120)
                    status = endpoint.status
                    assert status.state == "FAILED", status
                    assert ("apacity" in (status.reason or "")) == (outcome == "CAPACITY")
                endpoint.delete()


def lines(path: Path, count: int) -> str:
    path.write_text("".join(json.dumps(f"line {number}") + "\n" for number in range(count)))
    return str(path)


def test_batches_of_a_model(cloud: EmulatedCloud, tmp_path: Path, model: str) -> None:
    (service, *_) = ENDS[cloud.name]["batch"]  # SageMaker, Azure ML, Vertex AI
    source = lines(tmp_path / "in.jsonl", 10)
    with cloud.client() as client:
        for outcome in ENDS[cloud.name]["batch"][service]:
            cloud.fate(outcome, of="batch")
            out = tmp_path / f"{outcome}.jsonl"
            spec = cloudai.BatchTransform(
                model=model, input=source, output=str(out), on_error="skip",
                name=outcome.lower(), batch_size=2,
            )  # fmt: skip
            status = ended(client.batch.submit(spec))
            assert status.state == state_of(cloud, outcome), (outcome, status)
            assert status.capacity == (outcome == "CAPACITY")
            if outcome in {"SUCCEEDED", "PARTIAL"}:
                failed = out.read_text().splitlines().count("null")
                assert status.errors == failed
                assert (0 < failed < 10) == (outcome == "PARTIAL")


CHAT = {"aws": "anthropic.claude-sonnet-4-5-20250929-v1:0", "azure": "batches"}


@pytest.mark.parametrize("name", list(CHAT))
def test_batches_of_chat(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cloud: EmulatedCloud = request.getfixturevalue(f"emulated_{name}")
    about: dict[str, Any] = {}
    if name == "azure":
        cloud.emulator.deploy("batches", model="gpt-5.1", sku="GlobalBatch", any_use=False)
        about = {"workspace": ""}
    source = lines(tmp_path / "in.jsonl", 120)
    (_, service) = ENDS[name]["batch"]
    with cloud.client(**about) as client:
        for outcome in ENDS[name]["batch"][service]:
            cloud.fate(outcome, of="batch")
            out = tmp_path / f"{outcome}.jsonl"
            spec = cloudai.BatchTransform(
                chat=CHAT[name], input=source, output=str(out), on_error="skip",
                params={"max_tokens": 8}, name=outcome.lower(),
            )  # fmt: skip
            status = ended(client.batch.submit(spec))
            assert status.state == outcome, status
            if outcome == "PARTIAL":
                assert status.errors == 60
                assert out.read_text().splitlines().count("null") == 60


def test_a_fate_waits_for_a_service_that_has_it(
    emulated_aws: EmulatedCloud, tmp_path: Path, model: str
) -> None:
    emulated_aws.fate("PARTIAL", of="batch")
    emulated_aws.fate("FAILED", of="batch")
    with emulated_aws.client() as client:
        about: dict[str, Any] = {"input": lines(tmp_path / "in.jsonl", 100), "on_error": "skip"}
        transform = cloudai.BatchTransform(model=model, output=str(tmp_path / "a"), **about)
        assert ended(client.batch.submit(transform)).state == "FAILED"
        chat = cloudai.BatchTransform(chat=CHAT["aws"], output=str(tmp_path / "b"), **about)
        assert ended(client.batch.submit(chat)).state == "PARTIAL"


def test_what_there_is_not(cloud: EmulatedCloud) -> None:
    for of in KINDS:
        with pytest.raises(UnsupportedByProvider, match="There are: SUCCEEDED"):
            cloud.fate("LOST", of=of)
    with pytest.raises(ConfigError, match=r"Did you mean 'endpoints'"):
        cloud.fate("FAILED", of="endpoint")


def test_the_table_of_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "emulators.md").read_text("utf-8")
    table = text.partition("| | training | endpoints | batch |")[2].partition("\n\n")[0]
    told: set[tuple[str, str, str]] = set()
    has: set[tuple[str, str, str]] = set()
    for row in table.splitlines()[2:]:
        first, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        for outcome in re.findall(r"`(\w+)`", first):
            for of, cell in zip(KINDS, cells, strict=True):
                every = {name for ends in ENDS.values() for name in ends[of]}
                plain = re.sub(r" \(.*?\)", "", cell)
                names = every if plain == "all" else set(plain.split(", ")) - {"–"}
                told |= {(outcome, of, name) for name in names}
    for ends in ENDS.values():
        for of, services in ends.items():
            has |= {(end, of, name) for name, found in services.items() for end in found}
    assert told == has
