"""What runs in an emulated cloud ends as a container ends: by its exit code, whatever it wrote, and
nothing that it started outlives it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for name in ("moto", "google.cloud.aiplatform_v1"):
    pytest.importorskip(name)

# Bytes that are no UTF-8, a child that keeps the log open, and one in a session of its own.
SCRIPT = (
    r"printf 'caf\xe9 \xff\n'; (sleep 300 & echo $! >> {pids}); "
    "(setsid sleep 300 & echo $! >> {pids}); exit {code}"
)


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while (found := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def all_ended(pids: Path) -> None:
    numbers = [int(line) for line in pids.read_text().split()]
    assert len(numbers) == 2
    until(lambda: True if not any(_lives(number) for number in numbers) else None)


def _lives(number: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("code", [0, 3])
def test_l8_sagemaker(code: int, tmp_path: Path) -> None:
    from cloudai.testing.emulators.aws import AwsEmulator
    from cloudai.testing.emulators.aws._execute import LocalExecutor
    from cloudai.testing.emulators.aws._state import STATE

    script = SCRIPT.format(pids=tmp_path / "pids", code=code)
    job: dict[str, Any] = {
        "TrainingJobName": "job",
        "AlgorithmSpecification": {"ContainerEntrypoint": ["bash", "-c", script]},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        "StoppingCondition": {},
    }
    with AwsEmulator():
        run = LocalExecutor(tmp_path / "run").train(job, STATE)
        look = until(lambda: found if (found := run.look(STATE.now())).ended else None)
    assert look.status == ("Failed" if code else "Completed")
    assert [line for _, line, _ in look.logs] == ["caf\ufffd \ufffd"]
    all_ended(tmp_path / "pids")


@pytest.mark.parametrize("code", [0, 3])
def test_l8_vertex(code: int, tmp_path: Path) -> None:
    from cloudai.testing.emulators.vertex import VertexEmulator
    from cloudai.testing.emulators.vertex._execute import LocalExecutor

    script = SCRIPT.format(pids=tmp_path / "pids", code=code)
    pool = {"containerSpec": {"imageUri": "x", "command": ["bash", "-c", script]}}
    job = {"name": "projects/p/locations/l/customJobs/1", "jobSpec": {"workerPoolSpecs": [pool]}}
    with VertexEmulator() as cloud:
        executor = LocalExecutor(cloud)
        ended = until(executor.on_training_job(job).ended)
        executor.close()
    assert ended[0] == code
    all_ended(tmp_path / "pids")


def azure(body: dict[str, Any], blobs: dict[str, bytes], ml: dict[str, Any]) -> tuple[str, str]:
    """The status and the log of an Azure ML job that was run."""

    from cloudai.testing.emulators.azure._local import LocalExecutor
    from cloudai.testing.emulators.azure._ml import MachineLearning
    from cloudai.testing.emulators.azure._state import AzureState, Clock

    executor = LocalExecutor()
    state = AzureState(executor, Clock())
    state.blobs.update(blobs)
    state.ml.update(ml)
    held = {"systemData": {}, "properties": {"status": "", **body}}
    MachineLearning(state)._start("job", held)
    over = {"Completed", "Failed"}
    status = until(lambda: s if (s := held["properties"]["status"]) in over else None)
    log = state.blobs.get("artifacts/ExperimentRun/dcid.job/user_logs/std_log.txt", b"")
    executor.close()
    return status, log.decode()


@pytest.mark.parametrize("code", [0, 3])
def test_l8_azure_ml(code: int, tmp_path: Path) -> None:
    script = SCRIPT.format(pids=tmp_path / "pids", code=code)
    status, log = azure({"command": script}, {}, {})
    assert (status, log) == ("Failed" if code else "Completed", "caf\ufffd \ufffd\n")
    all_ended(tmp_path / "pids")


def test_l8_azure_ml_a_place_that_the_job_does_not_have() -> None:
    status, log = azure({"command": "echo ${{inputs.x}}"}, {}, {})
    assert status == "Failed"
    assert "${{inputs.x}} is no input or output of this job" in log


@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise KeyboardInterrupt", "1/0"])
def test_l8_azure_ml_a_batch_handler_that_ends_its_process(ending: str) -> None:
    from cloudai.testing.emulators.azure._state import GROUP, SUBSCRIPTION, WORKSPACE

    base = (
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers"
        f"/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
    )
    before = dict(os.environ)
    places = "azureml://datastores/d/paths"
    code = f"import sys\ndef init(): ...\ndef run(batch): {ending}\n".encode()
    deployment = {
        "model": {"assetId": f"{base}/models/m/versions/1"},
        "codeConfiguration": {"codeId": f"{base}/codes/c/versions/1", "scoringScript": "s.py"},
        "environmentVariables": {"CLOUDAI_BATCH": "{}"},
    }
    about = {"deployment": deployment, "input": f"{places}/in", "output": f"{places}/out"}
    status, log = azure(
        {"batch": about},
        {"data/code/s.py": code, "data/in/a.txt": b"1\n", "data/model/w": b"w"},
        {
            "codes/c/versions/1": {"properties": {"codeUri": f"{places}/code"}},
            "models/m/versions/1": {"properties": {"modelUri": f"{places}/model"}},
        },
    )
    assert status == "Failed"
    assert {"s": "", "r": "KeyboardInterrupt", "1": "ZeroDiv"}[ending[0]] in log
    assert dict(os.environ).keys() - before.keys() <= {"CLOUDAI_BATCH", "AZUREML_BI_OUTPUT_PATH"}
    for name in ("CLOUDAI_BATCH", "AZUREML_BI_OUTPUT_PATH"):
        os.environ.pop(name, None)
