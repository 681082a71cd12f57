"""Requirements, here and on three emulated clouds: in a job's source as pip reads them, beside a
served handler as lines that travel alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.clients import client_of

from cloudai import BatchTransform, TrainingJob
from cloudai.testing.clouds import emulated
from cloudai.types import State

BACKEND = """
import zipfile

NAME = "mypkg-1.0-py3-none-any.whl"


def build_wheel(folder, settings=None, metadata=None):
    with zipfile.ZipFile(f"{folder}/{NAME}", "w") as made:
        made.write("mypkg.py")
        for name, lines in (
            ("METADATA", ["Metadata-Version: 2.1", "Name: mypkg", "Version: 1.0"]),
            ("WHEEL", ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any"]),
            ("RECORD", []),
        ):
            made.writestr(f"mypkg-1.0.dist-info/{name}", "\\n".join([*lines, ""]))
    return NAME
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.mark.slow
@pytest.mark.parametrize("place", ["local", "aws", "azure", "vertex"])
def test_z10_a_job_s_requirements_are_read_as_pip_reads_them(place: str, tmp_path: Path) -> None:
    """UTF-16, an included file with nothing in it, and a package of one's own."""
    source = tmp_path / "source"
    (source / "mypkg").mkdir(parents=True)
    (source / "mypkg" / "mypkg.py").write_text("VALUE = 42\n")
    (source / "mypkg" / "backend.py").write_text(BACKEND)
    (source / "mypkg" / "pyproject.toml").write_text(PROJECT)
    (source / "base.txt").write_text("# nothing\n")
    (source / "requirements.txt").write_bytes("-r base.txt\n./mypkg\n".encode("utf-16"))
    (source / "train.py").write_text("import mypkg\nprint('value', mypkg.VALUE)\n")
    site = str(tmp_path / "site")
    # The emulators run jobs with this Python, whose packages are not the test's to change.
    env = {} if place == "local" else {"PIP_TARGET": site, "PYTHONPATH": site}
    with client_of(place, tmp_path) as client:
        job = client.training.submit(
            TrainingJob(
                source=str(source), entry="train.py", requirements="requirements.txt", env=env
            )
        )
        assert job.wait(120).state is State.SUCCEEDED
        assert "value 42" in [line.text for line in job.logs()]


@pytest.mark.parametrize("place", ["aws", "azure", "vertex"])
def test_z10_what_a_handler_s_requirements_cannot_take_along_is_refused(
    place: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "handler.py").write_text("def load(p): ...\ndef predict(m, i, p): return i\n")
    (tmp_path / "in.jsonl").write_text("1\n")
    needs = tmp_path / "requirements.txt"
    cloud = emulated(place)
    with cloud, cloud.applied(), cloud.client() as client:
        batch = BatchTransform(
            model=str(model),
            input=str(tmp_path / "in.jsonl"),
            output=str(tmp_path / "out"),
            requirements=str(needs),
        )
        for text in ("./mypkg\n", "-c pins.txt\n"):
            needs.write_text(text)
            plans = (
                client.endpoints.plan(model, name="needs", requirements=str(needs)),
                client.batch.plan(batch),
            )
            for plan in plans:
                assert [one.field for one in plan.violations] == ["requirements"], plan.violations
                assert text.strip() in plan.violations[0].problem
        needs.write_bytes("-r base.txt\n".encode("utf-16"))
        (tmp_path / "base.txt").write_text("tokenizers\n")
        assert client.endpoints.plan(model, name="needs", requirements=str(needs)).ok
        assert client.batch.plan(batch).ok
