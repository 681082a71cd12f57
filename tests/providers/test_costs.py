"""What work is likely to cost, and what costs now: jobs, endpoints and batches on three clouds."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from cloudai import BatchTransform, Client, TrainingJob
from cloudai._core.batches.cost import HALF, estimate
from cloudai._core.models import Model, Price, Table
from cloudai.testing.clouds import emulated
from cloudai.types import Resources

MODELS = {
    "aws": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "azure": "gpt-4.1-mini",
    "vertex": "gemini-2.5-flash",
}
ACCELERATORS = {
    "aws": (
        "T4:1",
        "A10G:1",
        "L4:1",
        "L40S:1",
        "A100-40GB:8",
        "A100-80GB:8",
        "H100-80GB:8",
        "H200:8",
    ),
    "azure": (
        "T4:1",
        "A10:1",
        "A100-80GB:1",
        "A100-40GB:8",
        "H100-94GB:1",
        "H100-80GB:8",
        "H200:8",
    ),
    "vertex": (
        "T4:1",
        "L4:1",
        "V100-16GB:1",
        "A100-40GB:1",
        "A100-80GB:1",
        "H100-80GB:8",
        "H200:8",
    ),
}


@pytest.fixture(params=MODELS)
def client(request: pytest.FixtureRequest) -> Generator[Client]:
    cloud = emulated(request.param)
    with cloud, cloud.applied(), cloud.client() as made:
        yield made


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "handler.py").write_text(
        "def load(p): ...\ndef predict(m, i, p): return i\n"
    )
    return str(tmp_path / "model")


def test_l10_jobs_and_batches_have_a_cost(client: Client, model: str, tmp_path: Path) -> None:
    """On every accelerator that the providers share, and of a batch of chats."""
    place = client.profile.provider
    (tmp_path / "train.py").write_text("")
    for accelerator in ACCELERATORS[place]:
        job = TrainingJob(
            source=str(tmp_path), entry="train.py", framework="pytorch", timeout=7200,
            resources=Resources(accelerator=accelerator, nodes=2, nproc=1),
        )  # fmt: skip
        plan = client.training.plan(job)
        wrong = [one.field for one in plan.violations]
        assert not wrong or wrong == ["resources.accelerator"], plan.violations  # not in its region
        if not wrong:
            assert plan.cost is not None, accelerator
            assert 0 < plan.cost.low < plan.cost.high
            one = client.training.plan(
                TrainingJob(
                    source=job.source, entry=job.entry, timeout=7200,
                    resources=Resources(accelerator=accelerator),
                )
            )  # fmt: skip
            assert one.cost is not None
            assert plan.cost.high == pytest.approx(2 * one.cost.high, rel=0.01)
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps({"prompt": "word " * 200}) + "\n" for _ in range(100)))
    chats = client.batch.plan(
        BatchTransform(
            chat=MODELS[place], input=str(lines), output=str(tmp_path / "o"),
            params={"max_tokens": 50},
        )
    )  # fmt: skip
    assert chats.cost is not None
    # 100 prompts of about 200 tokens, and answers of at most 50.
    assert 1e-4 < chats.cost.low < chats.cost.high < 0.5
    assert "100 lines" in chats.cost.basis
    whole = client.batch.plan(
        BatchTransform(model=model, input=str(lines), output=str(tmp_path / "o"))
    )
    assert whole.ok, whole.violations
    if place != "azure":  # a cluster's machines are the workspace's
        assert whole.cost is not None


def test_o4_what_runs_has_a_price_an_hour(client: Client, model: str, tmp_path: Path) -> None:
    endpoint = client.endpoints.deploy(model, name="priced")
    endpoint.wait(60)
    price = client.hourly(endpoint.id)
    assert price is not None
    assert 0.1 < price < 1
    endpoint.delete()
    (tmp_path / "in.jsonl").write_text("1\n")
    batch = client.batch.submit(
        BatchTransform(
            model=model, input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "o"), shards=1
        )
    )
    assert client.hourly(batch.id) in (0.0, pytest.approx(price, rel=1))
    batch.cancel()
    batch.delete()


def test_l10_a_batch_s_cost_by_hand(tmp_path: Path) -> None:
    table = Table("x", [Model("m", Price(2.0, 10.0), read="2026-11")])
    path = tmp_path / "in.txt"
    path.write_text("abcd" * 100 + "\n" + "abcd" * 100 + "\n")
    spec = BatchTransform(chat="m-1", input=str(path), output="o", params={"max_tokens": 10})
    found = estimate(spec, table, HALF)
    assert found is not None
    assert found.low == pytest.approx(0.5 * (200 * 2 + 20 * 10) / 1e6)
    assert found.high == pytest.approx(0.5 * (400 * 2 + 20 * 10) / 1e6)
    assert estimate(spec, Table("x", []), HALF) is None
    own = estimate(spec, Table("x", []), 1.0, price=Price(1.0))
    assert own is not None
    assert own.low == pytest.approx(200 / 1e6)
    assert own.as_of == "the profile's prices"


def test_m2_a_plan_tells_how_fast_a_transform_job_s_model_has_to_be(
    model: str, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("1\n")
    cloud = emulated("aws")
    with cloud, cloud.applied(), cloud.client() as client:
        for lines, rate in ((7200, "2 lines a second"), (36, "0.01 lines a second")):
            plan = client.batch.plan(
                BatchTransform(
                    model=model, input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "o"),
                    native={"aws": {"lines_per_request": lines}},
                )
            )  # fmt: skip
            assert [rate in note and f"at most {lines} lines" in note for note in plan.notes] == [
                True
            ]
