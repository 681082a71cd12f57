"""What travels into containers, under each Python that the image tables name: the files that start
a job, and those that serve a model. They are standard library only, so that a bare one runs them.

What is installed by a real pip (Vertex AI's endpoints) is in test_vertex_travel.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cloudai import TrainingJob
from cloudai._core.handlers import portable
from cloudai._core.handlers.handler import travelling
from cloudai.providers.aws import images as aws_images
from cloudai.providers.aws import package
from cloudai.providers.azure.ml import job_wire, model_assets
from cloudai.providers.vertex import images as vertex_images
from cloudai.testing import clouds
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.vertex import _image
from cloudai.types import Metric

WITNESSES = "CLOUDAI_WITNESSES" in os.environ  # a test sees no variable of cloudai's
CONDA = re.compile(r"- python=(\d\.\d+)")


def sagemaker() -> set[str]:
    """The Pythons of the newest six images of each framework, as the sagemaker SDK has them."""
    found: set[str] = set()
    for framework in aws_images.FRAMEWORKS:
        for scope in ("training", "inference"):
            versions = aws_images._table(framework)[scope]["versions"]
            for version in sorted(versions, key=aws_images._numbers)[-6:]:
                found |= set(re.findall(r'"py3(\d+)"', json.dumps(versions[version])))
    return {f"3.{minor}" for minor in found}


def tables() -> dict[str, set[str]]:
    """Where a Python is used."""
    return {
        "aws": sagemaker(),
        "azure": {
            version
            for module in (job_wire, model_assets)
            for version in CONDA.findall(Path(str(module.__file__)).read_text())
        },
        "vertex": {
            row.python
            for row in vertex_images.table().images
            if row.end is None
            or row.end >= date(2026, 1, 1)  # a year's images, those that ended too
        },
    }


TABLES = tables()
PLACES = [(place, version) for place, versions in TABLES.items() for version in sorted(versions)]


def python(version: str, folder: Path) -> Path:
    """A folder that has one Python alone, by the names that containers have it under."""
    found = _image.interpreter((int(version[0]), int(version[2:])))
    if found is None:
        pytest.skip(f"there is no Python {version} on this machine")
    place = folder / "bin"
    place.mkdir()
    for name in ("python", "python3"):
        # A link would do, but for the Pythons of virtual environments, which look beside it.
        (place / name).write_text(f'#!/bin/sh\nexec "{found}" "$@"\n')
        (place / name).chmod(0o755)
    return place / "python3"


def test_v1_the_tables_name_pythons() -> None:
    assert TABLES["aws"] >= {"3.12"}
    assert TABLES["azure"] == {"3.11"}
    assert TABLES["vertex"] == {"3.10", "3.11"}


TRAIN = """
import json, os, pathlib, sys
rows = pathlib.Path(os.environ["CLOUDAI_INPUT_TRAIN"]).read_text().split()
assert json.loads(os.environ["CLOUDAI_HPS"]) == {"scale": 3, "name": "-x"}
assert sys.argv[1:] == ["--scale=3", "--name=-x"], sys.argv
pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"], "model.json").write_text('{"scale": 3}')
print("python", "%d.%d" % sys.version_info[:2], "rows", len(rows), "loss=0.5", flush=True)
"""


@pytest.mark.parametrize(("place", "version"), PLACES)
def test_v1_a_job_starts_under_the_images_python(
    place: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulators start a container's command with the Python that this process calls its own."""
    if not WITNESSES:
        pytest.skip("many processes: `make witnesses`")
    bare = python(version, tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    (tmp_path / "train.csv").write_text("1 2")
    spec = TrainingJob(
        source=str(source), entry="train.py", inputs={"train": str(tmp_path / "train.csv")},
        hyperparameters={"scale": 3, "name": "-x"},
        metrics=(Metric(name="loss", regex=r"loss=([0-9.]+)"),),
    )  # fmt: skip
    with (
        clouds.emulated(place, execute=True, speed=20.0) as cloud,
        cloud.applied(),
        cloud.client() as client,
    ):
        monkeypatch.setattr(sys, "executable", str(bare))
        job = client.training.submit(spec)
        status = job.wait(120)
        lines = [line.text for line in job.logs()]
    assert f"python {version} rows 2 loss=0.5" in lines
    assert [point.value for point in status.metrics["loss"]] == [0.5]


FAMILY = """
from __future__ import annotations
import json
from beside import FACTOR

def model_fn(model_dir):
    return FACTOR

def input_fn(body, content_type):
    return json.loads(body)

def predict_fn(data, model):
    return [{"y": x * model} for x in data]

def output_fn(prediction, accept):
    return json.dumps(prediction)
"""

DRIVE = """
import importlib, json, os, sys
place, kind, script = sys.argv[1:]
sys.path.insert(0, os.path.join(place, "code"))
answers = []
if kind == "aws":
    import inference
    model = inference.model_fn(place)
    for body in (b"[1, 2]", b'{"instances": [3]}'):
        try:
            made = inference.transform_fn(model, body, "application/json", "application/json")
        except Exception as error:
            made = type(error).__name__
        made = made.decode() if isinstance(made, bytes) else made
        answers.append(json.loads(made) if isinstance(made, str) and made[0] in "[{" else made)
else:
    os.environ["AZUREML_MODEL_DIR"] = place
    score = importlib.import_module(script)
    score.init()
    for body in ('{"inputs": [1, 2]}', '{"inputs": ["bad"]}'):
        answers.append(json.loads(json.dumps(score.run(body), default=str)))
print(json.dumps(answers))
"""


def laid_out(kind: str, handler: Path, folder: Path) -> Path:
    """A model with what travels beside it, as the containers find it."""
    model = folder / "model"
    model.mkdir()
    (model / "model.json").write_text('{"scale": 3}')
    place = folder / "place"
    place.mkdir()
    if kind == "aws":
        packed = io.BytesIO()
        package.write_model(packed, model, package.Code(str(handler), None))
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(place, filter="data")
        return place
    (place / "model.json").write_text('{"scale": 3}')
    (place / "code").mkdir()
    files = {
        model_assets.SCRIPT: Path(model_assets.__file__).with_name("score.py"),
        portable.MODULE: Path(portable.__file__),
        **travelling(handler),
    }
    for name, path in files.items():
        (place / "code" / name).parent.mkdir(exist_ok=True)
        shutil.copy(path, place / "code" / name)
    return place


def answers(interpreter: Path | str, kind: str, place: Path) -> Any:
    program = [str(interpreter), "-I", "-c", DRIVE, str(place), kind]
    done = subprocess.run(
        [*program, model_assets.SCRIPT.removesuffix(".py")], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])  # after what a handler's error left in the log


@pytest.mark.parametrize(("kind", "version"), [row for row in PLACES if row[0] != "vertex"])
@pytest.mark.parametrize("family", [False, True])
def test_v1_a_model_is_served_under_the_images_python(
    kind: str, version: str, family: bool, tmp_path: Path
) -> None:
    bare = python(version, tmp_path)
    handler = ASSETS / "handler.py"
    if family:
        handler = tmp_path / "own" / "serve.py"
        handler.parent.mkdir()
        handler.write_text(FAMILY)
        (handler.parent / "beside.py").write_text("FACTOR = 3\n")
    place = laid_out(kind, handler, tmp_path)
    found = answers(bare, kind, place)
    assert found == answers(sys.executable, kind, place)
    if kind == "aws" and not family:
        assert found == [{"predictions": [3, 6]}, {"predictions": [9]}]
    if kind == "azure":
        assert found[0] == {"outputs": [{"y": 3}, {"y": 6}] if family else [3, 6]}
