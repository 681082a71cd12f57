"""Mixed operations under random faults, a reduced run of ``python -m cloudai.testing.chaos``; and
what a create that came to nothing leaves behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import ServiceUnavailable
from cloudai.testing import chaos, clouds
from cloudai.testing.conformance.harness import ASSETS
from cloudai.types import TrainingJob

CLOUDS = ("aws", "azure", "vertex")


@pytest.fixture(autouse=True)
def sdks() -> None:
    for module in ("moto", "azure.mgmt.core", "google.cloud.aiplatform_v1", "werkzeug"):
        pytest.importorskip(module)


@pytest.mark.slow
def test_every_operation_ends_and_nothing_is_unaccounted_for() -> None:
    before = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    report = chaos.run(seed=2, operations=70)
    assert report.ok, report.problems
    # The emulators' variables are gone again.
    assert {name: os.environ.get(name) for name in before} == before
    assert "AWS_ENDPOINT_URL" not in os.environ
    assert len(report.events) == 70
    assert {event.place for event in report.events} == set(chaos.PLACES)
    outcomes = {event.outcome for event in report.events}
    assert "ok" in outcomes
    assert outcomes - {"ok"}, "no fault got through"
    assert sum(report.made.values()) > 5


def test_the_same_seed_gives_the_same_run() -> None:
    first, second, other = (
        chaos.run(seed=seed, operations=80, names=("vertex", "fake")) for seed in (3, 3, 4)
    )
    assert first.ok, first.problems
    assert first.digest == second.digest
    assert [str(one) for one in first.events] == [str(one) for one in second.events]
    assert other.digest != first.digest


def test_what_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudai.providers.fake.training import FakeTraining

    def broken(*args: Any) -> Any:
        raise KeyError("not a CloudAIError")

    monkeypatch.setattr(FakeTraining, "list", broken)
    monkeypatch.setattr(FakeTraining, "delete", lambda self, id, call: None)
    report = chaos.run(seed=1, operations=60, names=("fake",))
    assert not report.ok
    assert any("KeyError" in problem for problem in report.problems)
    assert any("is left" in problem for problem in report.problems)
    assert any("UNTYPED" in event.outcome for event in report.events)


@pytest.mark.parametrize("name", CLOUDS)
def test_what_failed_half_way_is_in_the_ledger_and_can_be_destroyed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text('{"scale": 2}')
    (tmp_path / "model" / "handler.py").write_bytes((ASSETS / "handler.py").read_bytes())
    with monkeypatch.context() as patch, clouds.emulated(name, speed=1000.0) as cloud:
        clouds.apply(
            clouds.environment([cloud]),
            patch.setenv,
            lambda variable: patch.delenv(variable, raising=False),
        )
        with cloud.client(retries=0) as client:
            cloud.faults.fail("training.submit", times=None)
            cloud.faults.fail("endpoints.deploy", times=None)
            job = TrainingJob(source=str(ASSETS), entry="train.py", idempotency_key="half-way")
            with pytest.raises(ServiceUnavailable):
                client.training.submit(job)
            with pytest.raises(ServiceUnavailable):
                client.endpoints.deploy(str(tmp_path / "model"), name="half-way")
            cloud.faults.clear()
            kept = client.resources()
            assert {entry.uri for entry in kept} <= {None}
            if name != "azure":  # whose parts are shared assets, named by their content
                assert len(kept) == 2
                assert _parts(name, cloud)
            for entry in kept:
                client.destroy(entry)
            assert client.resources() == []
            if name != "azure":
                assert _parts(name, cloud) == []


def _parts(name: str, cloud: Any) -> list[str]:
    from cloudai.testing import _chaos_worlds as worlds

    place = worlds.KINDS[name](Path(), 0, 1.0)
    place.cloud = cloud  # type: ignore[attr-defined]
    return place.left()


def test_a_key_that_failed_half_way_goes_on(tmp_path: Path, fake_cloudai: Any) -> None:
    client = cloudai.Client()
    fake_cloudai.fail("training.submit", "ServiceUnavailable", times=9)
    spec = TrainingJob(source=str(ASSETS), entry="train.py", idempotency_key="again")
    with pytest.raises(ServiceUnavailable):
        client.training.submit(spec, timeout=0.2)
    assert client.resources() == [], "nothing was begun at the fake"
