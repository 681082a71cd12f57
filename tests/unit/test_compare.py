"""What a move would lose: from the plans of both providers, without a credential."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudai import compare
from cloudai.errors import ConfigError
from cloudai.types import (
    BatchTransform,
    Deployment,
    Outputs,
    Resources,
    Retry,
    TrainingJob,
    Variant,
)

pytest.importorskip("boto3")
pytest.importorskip("google.cloud.storage")
pytest.importorskip("azure.storage.blob")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("print(1)\n")
    return TrainingJob(
        source=str(tmp_path / "src"),
        entry="train.py",
        inputs={"train": "s3://acme/data"},
        outputs=Outputs(checkpoints="s3://acme/checkpoints"),
        resources=Resources(accelerator="A100-80GB:8"),
        retry=Retry(max=5, on=("preempted", "failed")),
        tags={"Team": "Vision One"},
        native={"aws": {"EnableNetworkIsolation": True}},
        timeout=3600,
    )


def test_a_job_from_aws_to_vertex(job: TrainingJob) -> None:
    found = compare(job, "aws", "vertex")
    assert not found.ok
    assert {one.field for one in found.refused} == {"tags", "retry.on"}
    assert all(one.mend for one in found.refused)
    assert "native.aws: EnableNetworkIsolation: for aws alone" in found.lost
    assert any(one.startswith("retry.max") for one in found.lost)
    assert [(one.field, one.source, one.target) for one in found.copies] == [
        ("inputs.train", "s3://acme/data", "gs://acme/data"),
        ("outputs.checkpoints", "s3://acme/checkpoints", "gs://acme/checkpoints"),
    ]
    assert (found.source.machine, found.target.machine) == ("ml.p4de.24xlarge", "a2-ultragpu-8g")
    assert found.target.cost is not None
    assert found.source.stand_ins["region"] == "us-east-1"
    assert found.target.stand_ins == {
        "project": "stand-in",
        "location": "us-central1",
        "bucket": "stand-in",
    }


def test_a_job_that_fits_both(job: TrainingJob) -> None:
    import msgspec

    plain = msgspec.structs.replace(job, tags={}, native={}, retry=Retry(), outputs=Outputs())
    found = compare(plain, "aws", "vertex")
    assert found.ok
    assert not found.lost
    assert [one.field for one in found.copies] == ["inputs.train"]
    # From here to there and back nothing differs but the store.
    back = compare(
        msgspec.structs.replace(plain, inputs={"train": "gs://acme/data"}), "vertex", "aws"
    )
    assert back.ok
    assert back.copies[0].target == "s3://acme/data"
    assert (back.target.machine, back.source.machine) == (
        found.source.machine,
        found.target.machine,
    )


def test_a_job_to_azure_and_to_this_machine(job: TrainingJob) -> None:
    azure = compare(job, "aws", "azure")
    assert azure.target.stand_ins["workspace"] == "stand-in"
    assert azure.copies[0].target == "azureml://datastores/workspaceblobstore/paths/acme/data"
    assert "ND96amsr_A100_v4" in str(azure.target.machine)
    local = compare(job, "aws", "local")
    assert {"inputs.train", "outputs.checkpoints"} <= {one.field for one in local.refused}
    assert not local.copies
    assert sum("native.aws" in one for one in local.lost) == 1


def test_an_endpoint_and_a_batch() -> None:
    model = "s3://acme/model.tar.gz"
    spec = Deployment(name="digits", variants=(Variant(model=model),), mode="async")
    endpoint = compare(spec, "aws", "vertex")
    assert [one.field for one in endpoint.refused] == ["mode"]
    assert [one.field for one in endpoint.copies] == ["variants[0].model"]
    assert endpoint.target.machine
    batch = compare(
        BatchTransform(model=model, input="s3://acme/in.jsonl", output="s3://acme/out.jsonl"),
        "aws",
        "vertex",
    )
    assert batch.ok
    assert {one.field for one in batch.copies} == {"model", "input", "output"}


def test_fine_tuning_takes_the_stand_ins_that_suit_it(tmp_path: Path) -> None:
    line = (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    (tmp_path / "train.jsonl").write_text(line * 10)
    spec = TrainingJob(
        kind="finetune",
        base_model="gpt-4o-mini-2024-07-18",
        inputs={"train": str(tmp_path / "train.jsonl")},
    )
    found = compare(spec, "azure", "vertex")
    assert found.source.plan.ok, found.source.plan.violations
    assert "workspace" not in found.source.stand_ins
    assert [one.field for one in found.refused] == ["base_model"]


def test_profiles_of_a_file(job: TrainingJob, tmp_path: Path) -> None:
    config = tmp_path / "cloudai.toml"
    config.write_text(
        '[profiles.here]\nprovider = "aws"\nregion = "eu-west-1"\nbucket = "acme-jobs"\n'
        'role = "arn:aws:iam::123456789012:role/jobs"\n[profiles.there]\nprovider = "vertex"\n'
    )
    found = compare(job, "here", "there", config=config)
    assert (found.source.name, found.source.stand_ins) == ("here", {})
    assert found.target.stand_ins["location"] == "us-central1"
    with pytest.raises(ConfigError, match="there"):
        compare(job, "here", "thre", config=config)
