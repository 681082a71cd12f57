"""Endpoints and transforms on SageMaker by an image of one's own."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudai import BatchTransform, Client, Deployment, TrainingJob
from cloudai._core.handlers.container import platforms
from cloudai.providers.aws import images
from cloudai.testing.emulators.aws import AwsEmulator
from cloudai.types import Resources, Variant

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/own:1"
HANDLER = "def load(d):\n    return 0\n\n\ndef predict(m, inputs, params):\n    return inputs\n"


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    return str(folder)


def spec(model: str, **about: Any) -> Deployment:
    return Deployment(name="house", variants=(Variant(model=model),), **about)


def test_an_image_of_one_s_own(
    aws: AwsEmulator, client: Client, model: str, tmp_path: Path
) -> None:
    """It is told what `platforms.json` says, and what the deployment asks of its server; another
    setting is another Model."""
    told = json.loads(msgspec.json.encode(platforms(IMAGE)))
    (tmp_path / "packed").mkdir()
    file = tmp_path / "packed" / "platforms.json"
    names: set[str] = set()
    for more in ({}, {"EXTRA": "1"}):
        told["sagemaker"]["Environment"] |= more
        file.write_text(json.dumps(told))
        plan = client.endpoints.plan(
            spec(model, image=str(file.parent), handler=str(Path(model, "handler.py")), workers=2)
        )
        assert plan.ok, plan.violations
        body = next(r.body for r in plan.requests if r.operation == "sagemaker:CreateModel")
        names.add(body["ModelName"])
        container = body["PrimaryContainer"]
        assert container["Image"] == IMAGE
        environment = container["Environment"]
        assert (
            environment.items()
            >= {
                "CLOUDAI_HOST": "0.0.0.0",
                "CLOUDAI_PORT": "8080",
                "CLOUDAI_HANDLER": "code/cloudai_handler/cloudai_entry.py",
                "CLOUDAI_WORKERS": "2",
                **more,
            }.items()
        )
    plan = client.endpoints.plan(
        spec(model, image=str(file.parent), workers=3, requirements=__file__)
    )
    assert any(loss.startswith("requirements:") for loss in plan.dropped)
    body = next(r.body for r in plan.requests if r.operation == "sagemaker:CreateModel")
    names.add(body["ModelName"])
    assert "CLOUDAI_HANDLER" not in body["PrimaryContainer"]["Environment"]
    assert len(names) == 3


def test_a_transform_by_a_package(
    aws: AwsEmulator, client: Client, model: str, tmp_path: Path
) -> None:
    (tmp_path / "platforms.json").write_bytes(msgspec.json.encode(platforms(IMAGE)))
    lines = tmp_path / "in.jsonl"
    lines.write_text("1\n")
    batch = BatchTransform(
        model=model, input=str(lines), output=str(tmp_path / "out.jsonl"), image=str(tmp_path)
    )
    plan = client.batch.plan(batch)
    assert plan.ok, plan.violations
    body = next(r.body for r in plan.requests if r.operation == "sagemaker:CreateModel")
    assert body["PrimaryContainer"]["Image"] == IMAGE
    assert body["PrimaryContainer"]["Environment"]["CLOUDAI_PORT"] == "8080"


GRAVITON = ("ml.c7g.xlarge", "ml.m6g.large", "ml.r6gd.xlarge", "ml.c6gn.xlarge")


@pytest.mark.parametrize("machine", GRAVITON)
def test_m6_graviton_endpoints_get_the_images_made_for_them(
    client: Client, model: str, machine: str
) -> None:
    about = Variant(model=model, resources=Resources(instance_type=machine))
    plan = client.endpoints.plan(Deployment(name="house", variants=(about,)))
    body = next(r.body for r in plan.requests if r.operation == "sagemaker:CreateModel")
    assert "/pytorch-inference-arm64:" in body["PrimaryContainer"]["Image"]


def test_m6_neuron_machines_want_an_image(client: Client, model: str) -> None:
    resources = Resources(instance_type="ml.inf2.xlarge")
    plan = client.endpoints.plan(
        Deployment(name="house", variants=(Variant(model=model, resources=resources),))
    )
    assert "resources" in [one.field for one in plan.violations]
    (Path(model) / "train.py").write_text("")
    resources = Resources(instance_type="ml.trn1.2xlarge")
    job = TrainingJob(source=model, entry="train.py", resources=resources)
    plan = client.training.plan(job)
    assert [one.field for one in plan.violations] == ["resources"]


@pytest.mark.parametrize("image", ["python:3.12", "docker.io/me/mine:1", "public.ecr.aws/x/y:1"])
def test_m8_an_image_outside_of_ecr(client: Client, model: str, image: str) -> None:
    job = TrainingJob(kind="container", image=image)
    plan = client.training.plan(job)
    assert [one.field for one in plan.violations] == ["image"]
    native = {"AlgorithmSpecification": {"TrainingImageConfig": {
        "TrainingRepositoryAccessMode": "Vpc"}}}  # fmt: skip
    assert client.training.plan(
        TrainingJob(kind="container", image=image, native={"aws": native})
    ).ok
    plan = client.endpoints.plan(spec(model, image=image))
    assert [one.field for one in plan.violations] == ["image"]


def test_z12_native_outside_of_its_nest(client: Client, model: str) -> None:
    capture = {"EnableCapture": True}
    plan = client.endpoints.plan(spec(model, native={"aws": {"DataCaptureConfig": capture}}))
    (found,) = plan.violations
    assert found.field == "native.aws.DataCaptureConfig"
    assert 'native={"aws": {"CreateEndpointConfig": {"DataCaptureConfig": …}}}' in found.mend
    plan = client.endpoints.plan(spec(model, native={"aws": {"NoSuchThing": 1}}))
    assert "CreateModel" in plan.violations[0].mend


@pytest.mark.parametrize(
    ("framework", "scope", "today", "told"),
    [
        ("pytorch==2.9", "training", datetime.date(2026, 11, 30), "2026-10-15"),
        ("pytorch==2.10", "training", datetime.date(2026, 11, 30), "2027-01-21"),
        ("pytorch==2.10", "training", datetime.date(2026, 6, 1), None),
        ("pytorch", "inference", datetime.date(2026, 11, 30), "2026-06-30"),
        ("tensorflow", "training", datetime.date(2026, 11, 30), None),
    ],
)
def test_v2_plans_tell_until_when_aws_mends_an_image(
    framework: str, scope: Any, today: datetime.date, told: str | None
) -> None:
    found = images.notes(framework, scope, today)
    assert [told in note for note in found] == ([True] if told else [])


def test_v2_the_note_is_in_the_plan(client: Client, model: str) -> None:
    plan = client.endpoints.plan(spec(model))
    assert any("2026-06-30" in note for note in plan.notes)
