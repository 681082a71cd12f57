"""Every hostile archive at every place that unpacks one, and names that lead out at the places
that lay out objects."""

from __future__ import annotations

import io
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import archives
import pytest

from cloudai import Client
from cloudai.errors import InvalidRequest
from cloudai.types import TrainingJob

pytest.importorskip("moto")


@pytest.fixture
def aws() -> Generator[Any]:
    from cloudai.testing.emulators.aws import AwsEmulator

    with pytest.MonkeyPatch.context() as patch, AwsEmulator() as emulator:
        for name, value in emulator.env.items():
            patch.setenv(name, value)
        yield emulator


def nothing_outside(folder: Path, *kept: str) -> None:
    assert sorted(one.name for one in folder.iterdir()) == sorted(kept)
    assert not Path("/tmp/cloudai-evil").exists()


def test_k5_download_of_a_job_on_aws(aws: Any, tmp_path: Path) -> None:
    from cloudai.testing.emulators.aws import BUCKET, ROLE, _stores

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").touch()
    keys = {"provider": "aws", "region": aws.region, "endpoint_url": aws.url, "role": ROLE}
    with Client(**keys, bucket=BUCKET) as client:
        job = client.training.submit(
            TrainingJob(source=str(tmp_path / "src"), entry="train.py", name="hostile")
        )
        job.wait(timeout=60)
        uri = job.model.uri
        there = tmp_path / "there"
        there.mkdir()
        for name in archives.HOSTILE:
            _stores.write(uri, archives.hostile(name))
            with pytest.raises(InvalidRequest, match=r"^aws: output\.tar\.gz "):
                job.download(there / "out")
            nothing_outside(there)


def test_k5_a_model_that_gets_its_code(tmp_path: Path) -> None:
    from cloudai.providers.aws.package import Code, repack

    handler = tmp_path / "handler.py"
    handler.write_text("def load(d): ...\ndef predict(m, i): ...\n")
    for name in archives.HOSTILE:
        (tmp_path / "model.tar.gz").write_bytes(archives.hostile(name))
        out = io.BytesIO()
        with pytest.raises(InvalidRequest, match=r"^model\.tar\.gz "):
            repack(tmp_path / "model.tar.gz", out, Code(str(handler), None), "s3://b/m.tar.gz")
        assert out.getvalue() == b""
        nothing_outside(tmp_path, "handler.py", "model.tar.gz")


def test_k5_source_and_model_at_the_emulated_sagemaker(aws: Any, tmp_path: Path) -> None:
    from cloudai.testing.emulators.aws import BUCKET, _stores
    from cloudai.testing.emulators.aws._execute import LocalExecutor
    from cloudai.testing.emulators.aws._state import STATE

    executor = LocalExecutor(tmp_path / "run")
    uri = f"s3://{BUCKET}/hostile.tar.gz"
    told = {"sagemaker_program": "x.py", "sagemaker_submit_directory": json.dumps(uri)}
    for number, name in enumerate(archives.HOSTILE):
        _stores.write(uri, archives.hostile(name))
        job: dict[str, Any] = {
            "TrainingJobName": f"job-{number}",
            "AlgorithmSpecification": {"TrainingImage": "x"},
            "HyperParameters": told,
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
            "StoppingCondition": {},
        }
        look = executor.train(job, STATE).look(STATE.now())
        assert look.status == "Failed", name
        assert look.reason is not None
        assert look.reason.startswith("ClientError: Data download failed: the archive "), name
        problem = executor.serve({"ModelDataUrl": uri}, STATE).problem()
        assert problem is not None, name
        assert problem.startswith("the archive "), name
    for one in (tmp_path / "run").iterdir():
        assert [path for path in one.rglob("*") if "code" in path.parts] == []
    nothing_outside(tmp_path, "run")


def test_k5_a_package_at_the_emulated_vertex(tmp_path: Path) -> None:
    pytest.importorskip("google.cloud.aiplatform_v1")
    from cloudai.testing.emulators.vertex import VertexEmulator
    from cloudai.testing.emulators.vertex._execute import LocalExecutor

    with VertexEmulator() as cloud:
        executor = LocalExecutor(cloud)
        root = Path(executor._folder.name)
        cloud.storage.bucket("b")
        for number, name in enumerate(archives.HOSTILE):
            cloud.storage.put("gs://b/p.tar.gz", archives.hostile(name))
            work = {"packageUris": ["gs://b/p.tar.gz"], "pythonModule": "task"}
            spec = {"workerPoolSpecs": [{"pythonPackageSpec": work}]}
            job = {"name": f"projects/p/locations/l/customJobs/{number}", "jobSpec": spec}
            ended = executor.on_training_job(job).ended()
            assert ended is not None
            assert ended[0] == 1
            assert ended[1].startswith("the archive "), name
            assert [path for path in root.rglob("*") if path.is_file() or path.is_symlink()] == []
        executor.close()


def test_k25_an_emulated_key_that_leads_out(aws: Any, tmp_path: Path) -> None:
    from cloudai.testing.emulators.aws import BUCKET, _stores

    for key in ("data/../../evil", "data//etc/x", "data/a"):
        _stores.write(f"s3://{BUCKET}/{key}", b"x")
    with pytest.raises(InvalidRequest, match=r"holds '\.\./\.\./evil', whose place is outside"):
        _stores.lay_out(f"s3://{BUCKET}/data/", tmp_path / "deep" / "down")
    assert not (tmp_path / "evil").exists()


def test_k25_the_adapters_name_a_key_that_leads_out(aws: Any, tmp_path: Path) -> None:
    from cloudai.protocols import Call
    from cloudai.providers.aws import s3
    from cloudai.providers.aws.session import session
    from cloudai.testing.emulators.aws import BUCKET, ROLE, _stores

    for key in ("hostile/output/model/../../../evil", "hostile/output/model/a"):
        _stores.write(f"s3://{BUCKET}/{key}", b"x")

    keys = {"provider": "aws", "region": aws.region, "endpoint_url": aws.url, "role": ROLE}
    with Client(**keys, bucket=BUCKET) as client:
        store = s3.Store(session(client.profile))
        with pytest.raises(InvalidRequest, match="whose place is outside of the folder"):
            store.download_tree(
                f"s3://{BUCKET}/hostile/output/model/", tmp_path / "a" / "b", Call()
            )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
