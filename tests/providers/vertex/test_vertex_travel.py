"""The server that travels with a deployment, and the images that it travels into."""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform_v1
from google.protobuf import json_format

from cloudai import Client, Deployment, EndpointError, InvalidRequest, Variant
from cloudai._core.handlers import travel
from cloudai.providers.vertex import images
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.common.served import ServedModel
from cloudai.testing.emulators.vertex import VertexEmulator, _image
from cloudai.types import Resources, TrainingJob

ROOT = Path(__file__).parents[3]
WITNESSES = "CLOUDAI_WITNESSES" in os.environ  # a test sees no variable of cloudai's
OLD = "us-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310:latest"


@pytest.fixture
def cloud() -> Iterator[VertexEmulator]:
    with VertexEmulator(execute=True) as emulator:
        yield emulator


def model(cloud: VertexEmulator) -> str:
    base = f"gs://{cloud.bucket}/models/2"
    cloud.storage.put(f"{base}/model.json", json.dumps({"scale": 2}))
    cloud.storage.put(f"{base}/handler.py", (ASSETS / "handler.py").read_text())
    return base


def pins() -> dict[str, str]:
    """The lines of each pinned package, by its name."""
    text = travel.files([])["server.txt"].decode()
    text = re.sub(r"(?m)^#.*$", "", text).replace("\\\n", " ")
    return {line.split("==")[0]: line for line in text.splitlines() if line.strip()}


def test_v1_the_wheel_is_this_package_and_the_same_each_time(tmp_path: Path) -> None:
    data = travel.wheel()
    travel.wheel.cache_clear()
    assert data == travel.wheel()
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        names = set(packed.namelist())
        assert packed.testzip() is None
    assert {"cloudai/server/__main__.py", "cloudai/py.typed"} <= names
    assert not any("__pycache__" in name for name in names)
    # pip itself takes it for a wheel.
    wheel = tmp_path / next(name for name in travel.files([]) if name.endswith(".whl"))
    wheel.write_bytes(data)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    pip += ["--disable-pip-version-check", "--target", str(tmp_path / "site"), str(wheel)]
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "site" / "cloudai" / "server" / "__main__.py").exists()


def test_k19_what_is_installed_beside_it_is_pinned_by_version_and_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    server = project["optional-dependencies"]["server"]
    wanted = {re.split(r"[^\w-]", one)[0] for one in server} | {"msgspec"}
    assert set(pins()) == wanted
    for line in pins().values():
        assert re.search(r"==\d", line)
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", line)) > 10  # all wheels


def test_k19_nothing_of_ours_is_asked_of_an_index(client: Client, cloud: VertexEmulator) -> None:
    plan = client.endpoints.plan(model(cloud), name="x")
    told = json.dumps(plan.requests[0].body)
    assert "cloudai[server]" not in told
    assert "google-cloud-storage" not in told


def test_v1_the_server_travels_and_starts(client: Client, cloud: VertexEmulator) -> None:
    needs = Path("needs.txt")
    needs.write_text("msgspec>=0.18\n")
    endpoint = client.endpoints.deploy(model(cloud), name="travels", requirements=str(needs))
    assert endpoint.predict([3]) == [6]
    (made,) = cloud.serving.models.values()
    held = {name.removeprefix(made["artifactUri"] + "/") for name in
            cloud.storage.names(made["artifactUri"])}  # fmt: skip
    beside = set(travel.files(["x"]))
    assert held == {"model.json", "handler.py", *(f".cloudai/{name}" for name in beside)}
    endpoint.delete()
    assert cloud.storage.names(f"gs://{cloud.bucket}/cloudai/") == []


@pytest.mark.parametrize("needs", ["no-such-package-anywhere", "cloudai[server]"])
def test_v1_what_no_index_has_does_not_start(
    client: Client, cloud: VertexEmulator, needs: str
) -> None:
    Path("needs.txt").write_text(needs + "\n")
    with pytest.raises(EndpointError, match="pip could not install") as caught:
        client.endpoints.deploy(model(cloud), name="needs", requirements="needs.txt")
    assert any("No matching distribution" in line for line in caught.value.log_tail)


def test_v1_an_image_with_an_old_python_is_seen_to_be_one(
    client: Client, cloud: VertexEmulator
) -> None:
    if _image.interpreter((3, 10)) is None:
        pytest.skip("there is no Python 3.10 on this machine")
    native = {"vertex": {"model": {"containerSpec": {"imageUri": OLD}}}}
    with pytest.raises(EndpointError, match=r"needs Python 3\.11, and this image has 3\.10"):
        client.endpoints.deploy(model(cloud), name="old", native=native)


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_v1_a_bare_python_serves_with_the_real_pip(
    minor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start itself, in an environment that has nothing: pip, its index and the hashes are
    real. Images of the table have 3.11; one of the user's own may have a newer one."""
    if not WITNESSES:
        pytest.skip("it installs from a package index: `make witnesses`")
    found = _image.interpreter((3, minor))
    if found is None:
        pytest.skip(f"there is no Python 3.{minor} on this machine")
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):  # the tests' own, which know no index
        monkeypatch.delenv(name)
    subprocess.run([found, "-m", "venv", str(tmp_path / "bare")], check=True, timeout=120)
    python = tmp_path / "bare" / "bin" / "python3"
    with VertexEmulator() as cloud:
        base = model(cloud)
        for name, data in travel.files([]).items():
            cloud.storage.put(f"{base}/{travel.FOLDER}/{name}", data)
        start = (ROOT / "cloudai/providers/vertex/endpoints/start.py").read_text()
        env = {**cloud.env, "AIP_STORAGE_URI": base, "CLOUDAI_WORKERS": "1", "PYTHONPATH": ""}
        served = ServedModel(
            None, tmp_path / "run", env=env, command=[str(python), "-c", start, "--max-queue=8"]
        )
        try:
            assert served.problem() is None
            status, _, answer = served.post(
                "/predict", b'{"instances": [3]}', {"Content-Type": "application/json"}
            )
        finally:
            served.close()
    assert (status, json.loads(answer)) == (200, {"predictions": [6]})


def test_v3_the_probe_waits_for_the_installation(client: Client, cloud: VertexEmulator) -> None:
    plan = client.endpoints.plan(model(cloud), name="x")
    upload = aiplatform_v1.UploadModelRequest.pb()()
    json_format.ParseDict(plan.requests[0].body, upload)
    probe = upload.model.container_spec.startup_probe
    assert probe.http_get.path == upload.model.container_spec.health_route
    assert probe.period_seconds * probe.failure_threshold >= 600
    assert probe.period_seconds < probe.timeout_seconds  # as the page of Probe has it


SLOW = """
import pathlib, time
def load(folder):
    while not pathlib.Path({gate!r}).exists():
        time.sleep(0.01)
def predict(model, inputs, params):
    return inputs
"""


@pytest.mark.parametrize(("native", "good"), [({}, True), ({"startupProbe": None}, False)])
def test_v3_a_container_without_one_is_restarted(
    client: Client, cloud: VertexEmulator, tmp_path: Path, native: dict[str, Any], good: bool
) -> None:
    gate, handler = tmp_path / "gate", tmp_path / "slow.py"
    handler.write_text(SLOW.format(gate=str(gate)))
    endpoint = client.endpoints.deploy(
        model(cloud),
        name="slow",
        handler=str(handler),
        native={"vertex": {"model": {"containerSpec": native}}} if native else {},
        wait=False,
    )
    cloud.clock.advance(60)
    _ = endpoint.status
    if good:
        gate.touch()
        endpoint.wait(60)
        assert endpoint.predict([1]) == [1]
    else:
        with pytest.raises(EndpointError, match="restarted"):
            endpoint.wait(60)


# -- images --------------------------------------------------------------------------------------

TODAY = datetime.date(2026, 11, 30)


@pytest.mark.parametrize("use", ["training", "serving"])
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("framework", ["pytorch", "huggingface"])
def test_v2_the_default_images_are_there_and_run_the_server(
    framework: str, gpu: bool, use: images.Use
) -> None:
    found = images.choose(framework, use, gpu=gpu, today=TODAY)
    assert found.end is None or found.end >= TODAY
    assert _image.version_of(found.name) == tuple(map(int, found.python.split("."))) >= (3, 11)
    assert "cpu" in found.name if not gpu and use == "serving" else True


@pytest.mark.parametrize(
    ("framework", "told"),
    [("tensorflow==2.17", "2026-07-11"), ("pytorch==2.4", "2026-07-24"), ("mxnet", "has no image")],
)
def test_v2_an_image_that_is_gone_is_refused(framework: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        images.choose(framework, "training", gpu=True, today=TODAY)
    assert "pytorch==2.3" in str(caught.value)


def test_v2_plans_refuse_and_warn(
    client: Client, cloud: VertexEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("")
    job = TrainingJob(source=str(tmp_path), entry="train.py", framework="tensorflow")
    assert [one.field for one in client.training.plan(job).violations] == ["framework"]
    spec = Deployment(
        name="x", variants=(Variant(model=model(cloud)),), framework="tensorflow==2.17"
    )
    plan = client.endpoints.plan(spec)
    assert [one.field for one in plan.violations] == ["framework"]
    assert "cloudai package" in plan.violations[0].mend

    soon = datetime.date.today() + datetime.timedelta(days=10)
    rows = [
        images.Image("vertex-ai", "pytorch", "9.9", "3.12", ("cpu", "gpu"), (use,), "x.py312", soon)
        for use in ("training", "serving")
    ]
    made = images.Table(TODAY, {}, tuple(rows))
    monkeypatch.setattr(images, "table", lambda: made)
    job = TrainingJob(source=str(tmp_path), entry="train.py", resources=Resources(cpus=4))
    for plan in (client.training.plan(job), client.endpoints.plan(model(cloud), name="x")):
        assert plan.ok
        assert len(plan.notes) == 1
        assert str(soon) in plan.notes[0]


PAGE = """
<table><thead><tr><th>ML framework version</th></tr></thead><tbody>
<tr class="odd"><td>2.17 (Python 3.10)</td><td>CPU only</td><td>Jul 11, 2025</td>
<td>Jul 11, 2026</td><td><ul>
<li><code>us-docker.pkg.dev/vertex-ai/training/tf-cpu.2-17.py310:latest</code></li>
<li><code>europe-docker.pkg.dev/vertex-ai/training/tf-cpu.2-17.py310:latest</code></li></ul>
Included<table><tr><td>tensorflow 2.17.x</td><td>curl</td></tr></table></td></tr>
<tr class="even"><td>2.2 (Python 3.10)</td><td>TPU only</td><td>Nov 6, 2024</td>
<td>Nov 6, 2025</td><td><code>us-docker.pkg.dev/vertex-ai/training/pytorch-tpu.2-2.cp310:latest
</code></td></tr></tbody></table>
"""


def test_v2_the_script_reads_googles_table() -> None:
    path = ROOT / "scripts" / "images.py"
    if not path.exists():
        pytest.skip("the scripts are in the repository alone")
    about = importlib.util.spec_from_file_location("scripts_images", path)
    assert about is not None
    assert about.loader is not None
    script = importlib.util.module_from_spec(about)
    about.loader.exec_module(script)
    (row,) = script.read(PAGE)
    held = json.loads(script.TARGET.read_text())["images"]
    assert row in held
