"""Azure ML's images and environments by framework, and how a framework starts on several
machines."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.types import Resources, TrainingJob

HANDLER = "def load(place): ...\ndef predict(model, inputs, params): return inputs\n"


@pytest.fixture
def client(azure: AzureEmulator, connect: Callable[..., cloudai.Client]) -> cloudai.Client:
    return connect(workspace="lab", compute="cluster")


def source(folder: Path, script: str) -> str:
    (folder / "src").mkdir()
    (folder / "src" / "train.py").write_text(script)
    return str(folder / "src")


def sent(azure: AzureEmulator, part: str) -> list[Any]:
    return [json.loads(r.body) for r in azure.requests if r.method == "PUT" and part in r.path]


@pytest.mark.parametrize(
    ("framework", "gpu", "found"),
    [
        ("pytorch", True, "acpt-pytorch-2.8"),
        ("pytorch", False, "acpt-pytorch-2.8"),
        ("pytorch==2.8.1", True, "acpt-pytorch-2.8"),
        ("tensorflow", True, "tensorflow-2.16"),
        ("sklearn", False, "sklearn-1.5"),
        ("", False, "openmpi5.0-ubuntu24.04"),
        ("", True, "openmpi5.0-cuda12.4"),
    ],
)
def test_v2_a_job_s_image_is_its_framework_s(framework: str, gpu: bool, found: str) -> None:
    from cloudai.providers.azure.ml import images

    assert found in images.job(framework, gpu=gpu)


@pytest.mark.parametrize(
    ("framework", "gpu", "told"),
    [("pytorch==2.2", True, "pytorch==2.8"), ("sklearn", True, "on a gpu"), ("mxnet", False, "no")],
)  # fmt: skip
def test_v2_an_image_that_is_gone_or_does_not_fit_is_refused(
    client: cloudai.Client, tmp_path: Path, framework: str, gpu: bool, told: str
) -> None:
    job = TrainingJob(
        source=source(tmp_path, ""), entry="train.py", framework=framework,
        resources=Resources(accelerator="T4:1") if gpu else Resources(),
    )  # fmt: skip
    plan = client.training.plan(job)
    assert [one.field for one in plan.violations] == ["framework"]
    assert told in plan.violations[0].problem + plan.violations[0].mend


def test_v2_a_model_s_environment_has_its_framework(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    for name, framework, own, found in (
        ("one", "pytorch", "", "torch==2.8.*"),
        ("two", "pytorch==2.6", "", "torch==2.6.*"),
        ("three", "tensorflow==2.19.1", "numpy\n", "tensorflow==2.19.1"),
        ("four", "pytorch", "Torch<3\n", "Torch<3"),  # theirs to choose
        ("five", "sklearn", "", "scikit-learn==1.5.*"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "handler.py").write_text(HANDLER)
        (tmp_path / f"{name}.txt").write_text(own)
        client.endpoints.deploy(
            tmp_path / name, name=f"{name}-end", framework=framework,
            requirements=str(tmp_path / f"{name}.txt"),
        )  # fmt: skip
        lines = sent(azure, "/environments/")[-1]["properties"]["condaFile"].splitlines()
        packages = [json.loads(line.strip()[2:]) for line in lines if line.startswith("      - ")]
        assert found in packages
        assert len([x for x in packages if x.lower().startswith("torch")]) <= 1
    plan = client.endpoints.plan(tmp_path / "one", name="six", framework="mxnet")
    assert [one.field for one in plan.violations] == ["framework"]


def test_v2_the_script_reads_microsofts_repository(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "scripts" / "azure_images.py"
    if not path.exists():
        pytest.skip("the scripts are in the repository alone")
    about = importlib.util.spec_from_file_location("scripts_azure_images", path)
    assert about is not None
    assert about.loader is not None
    script = importlib.util.module_from_spec(about)
    about.loader.exec_module(script)
    clone = tmp_path / "clone"
    folder = clone / script.FOLDER / "acpt-pytorch-9.1-cuda13.0"
    (folder / "context").mkdir(parents=True)
    spec = 'tags:\n  PyTorch: "9.1"\n  GPU: Cuda13\n  Python: "3.14"\n'
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git[:3], "init", "-q"], check=True)
    for number in ("9", "10", "2"):
        (folder / "spec.yaml").write_text(spec)
        (folder / "notes.md").write_text(
            f"Image: `public/azureml/curated/acpt-pytorch-9.1-cuda13.0:{number}`\n"
            f"Base image: mcr.microsoft.com/{script.BASE}:2026070{number[0]}.v1\n"
        )
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", number], check=True)
    made = script.Clone(str(clone))
    assert script.environments(made) == [
        {
            "source": "azureml-assets", "framework": "pytorch", "version": "9.1",
            "python": "3.14", "chips": ["cpu", "gpu"], "use": ["training"],
            "name": "azureml/curated/acpt-pytorch-9.1-cuda13.0:10", "end": None,
        }
    ]  # fmt: skip
    assert script.base(made)[0]["name"] == f"{script.BASE}:20260709.v1"


def test_m5_tensorflow_on_several_machines_is_started_its_own_way(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    job = TrainingJob(
        source=source(tmp_path, ""), entry="train.py", framework="tensorflow",
        resources=Resources(nodes=2),
    )  # fmt: skip
    body = client.training.plan(job).requests[-1].body["properties"]
    assert body["distribution"] == {"distributionType": "TensorFlow", "workerCount": 2}
    assert body["environmentVariables"]["CLOUDAI_FRAMEWORK"] == "tensorflow"
    several = TrainingJob(
        source=job.source, entry="train.py", framework="tensorflow", resources=Resources(nproc=2)
    )
    assert [one.field for one in client.training.plan(several).violations] == ["resources.nproc"]
