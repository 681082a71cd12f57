"""The in-job bootstrap: what it derives from each vendor's environment, that it stands alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloudai import bootstrap
from cloudai.providers.local.jobs import environment


def files(content: dict[str, object]) -> bootstrap.ReadText:
    """The container's files."""
    texts = {path: json.dumps(value) for path, value in content.items()}
    return texts.get


NONE = files({})


def test_sagemaker_with_its_toolkit() -> None:
    env = {
        "SM_MODEL_DIR": "/opt/ml/model",
        "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data",
        "SM_CHANNEL_TRAIN": "/opt/ml/input/data/train",
        "SM_HPS": '{"epochs": 3, "fast": true}',
        "SM_HOSTS": '["algo-2", "algo-1"]',
        "SM_CURRENT_HOST": "algo-2",
        "SM_NUM_GPUS": "8",
    }
    assert bootstrap.derive(env, NONE) == {
        "CLOUDAI_INPUT_TRAIN": "/opt/ml/input/data/train",
        "CLOUDAI_MODEL_DIR": "/opt/ml/model",
        "CLOUDAI_CHECKPOINT_DIR": "/opt/ml/checkpoints",
        "CLOUDAI_OUTPUT_DIR": "/opt/ml/output/data",
        "CLOUDAI_HPS": '{"epochs": 3, "fast": true}',
        "CLOUDAI_NODES": "2",
        "CLOUDAI_NODE_RANK": "1",
        "CLOUDAI_NPROC": "8",
        "MASTER_ADDR": "algo-1",
        "MASTER_PORT": "29500",
    }


def test_sagemaker_with_an_image_of_ones_own() -> None:
    config = "/opt/ml/input/config"
    read = files(
        {
            f"{config}/resourceconfig.json": {"current_host": "algo-1", "hosts": ["algo-1"]},
            f"{config}/inputdataconfig.json": {"train": {}, "my-data": {}},
            f"{config}/hyperparameters.json": {"epochs": "3", "lr": "0.1", "name": "a b"},
        }
    )
    found = bootstrap.derive({}, read)
    assert found["CLOUDAI_INPUT_MY_DATA"] == "/opt/ml/input/data/my-data"
    assert json.loads(found["CLOUDAI_HPS"]) == {"epochs": 3, "lr": 0.1, "name": "a b"}
    assert (found["CLOUDAI_NODES"], found["CLOUDAI_NODE_RANK"]) == ("1", "0")
    assert "CLOUDAI_NPROC" not in found


def test_vertex() -> None:
    cluster = {"workerpool0": ["cmle-0:2222"], "workerpool1": ["cmle-1:2222", "cmle-2:2222"]}
    env = {
        "AIP_MODEL_DIR": "gs://bucket/job/model/",
        "AIP_TRAINING_DATA_URI": "gs://bucket/data",
        "CLOUDAI_INPUT_EXTRA": "gs://bucket/extra",
        "CLOUDAI_HPS": '{"a": 1}',
        "CLUSTER_SPEC": json.dumps(
            {"cluster": cluster, "task": {"type": "workerpool1", "index": 1}}
        ),
    }
    found = bootstrap.derive(env, NONE)
    assert found["CLOUDAI_MODEL_DIR"] == "/gcs/bucket/job/model/"
    assert found["CLOUDAI_OUTPUT_DIR"] == "/gcs/bucket/job/output"
    assert found["CLOUDAI_CHECKPOINT_DIR"] == "/gcs/bucket/job/checkpoints"
    assert found["CLOUDAI_INPUT_TRAIN"] == "/gcs/bucket/data"
    assert found["CLOUDAI_INPUT_EXTRA"] == "/gcs/bucket/extra"
    assert (found["CLOUDAI_NODES"], found["CLOUDAI_NODE_RANK"]) == ("3", "2")
    assert found["MASTER_ADDR"] == "cmle-0"
    assert "CLOUDAI_HPS" not in found  # the adapter's own stays


def test_azureml() -> None:
    env = {
        "AZUREML_RUN_ID": "run",
        "AZURE_ML_INPUT_train": "/mnt/in",
        "AZURE_ML_OUTPUT_model": "/mnt/model",
        "AZUREML_NODE_COUNT": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "10.0.0.4",
    }
    found = bootstrap.derive(env, NONE)
    assert found["CLOUDAI_INPUT_TRAIN"] == "/mnt/in"
    assert found["CLOUDAI_MODEL_DIR"] == "/mnt/model"
    assert found["CLOUDAI_OUTPUT_DIR"] == "outputs/output"
    assert (found["CLOUDAI_NODES"], found["CLOUDAI_NODE_RANK"]) == ("2", "1")
    assert "MASTER_ADDR" not in found


def test_elsewhere_nothing_is_made_up() -> None:
    assert bootstrap.derive({"PATH": "/bin"}, NONE) == {}


def test_what_is_set_stays() -> None:
    env = {"SM_MODEL_DIR": "/opt/ml/model", "CLOUDAI_MODEL_DIR": "/mine"}
    assert "CLOUDAI_MODEL_DIR" not in bootstrap.derive(env, NONE)


def test_the_command() -> None:
    assert bootstrap.command({}, ["t.py", "--a", "1"]) == [sys.executable, "t.py", "--a", "1"]
    one = bootstrap.command({"CLOUDAI_NPROC": "2"}, ["t.py"])
    assert one[1:] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "t.py")
    ]
    env = {"CLOUDAI_NODES": "2", "CLOUDAI_NODE_RANK": "1", "MASTER_ADDR": "h"}
    many = bootstrap.command(env, ["t.py"])
    assert {"--nnodes=2", "--node-rank=1", "--master-addr=h", "--nproc-per-node=1"} < set(many)


def test_arguments() -> None:
    given = {"a": 1, "b": True, "c": "x y", "d": [1], "e": None, "f": 0.5, "g": {"h": 1}}
    assert bootstrap.arguments(given) == [
        *("--a=1", "--b=true", "--c=x y", "--d=[1]", "--f=0.5", '--g={"h": 1}')
    ]


def test_it_runs_alone_and_the_exit_code_is_the_scripts_own(tmp_path: Path) -> None:
    """Copied into a folder, with no cloudai to import."""
    shutil.copy(str(bootstrap.__file__), tmp_path)
    (tmp_path / "train.py").write_text(
        "import json, os, sys\n"
        "assert os.path.isdir(os.environ['CLOUDAI_MODEL_DIR'])\n"
        "print(json.loads(os.environ['CLOUDAI_HPS']), sys.argv[1:])\n"
        "sys.exit(3)\n"
    )
    env = {
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "output"),
        "CLOUDAI_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
        "SM_HPS": '{"epochs": 2}',
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", "bootstrap.py", "train.py", "--x", "1"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "{'epochs': 2} ['--x', '1']\n"


@pytest.mark.parametrize("vendor", ["SM_", "AIP_"])
def test_the_local_environment_agrees_with_it(tmp_path: Path, vendor: str) -> None:
    """What the local provider sets for a vendor's script leads back to what it sets itself."""
    env = environment.build(
        name="job",
        folder=tmp_path,
        cwd=tmp_path,
        entry="t.py",
        inputs={"train": tmp_path},
        model=tmp_path / "model",
        checkpoints=tmp_path / "checkpoints",
        output=tmp_path / "output",
        hyperparameters={"a": 1, "b": [True]},
        arguments=[],
        nproc=1,
        cpus=None,
        gpus=None,
        gpus_here=0,
    )
    others = {
        name: value
        for name, value in env.items()
        if name.startswith(vendor) or (vendor == "AIP_" and name == "CLUSTER_SPEC")
    }
    derived = bootstrap.derive(others, NONE)
    same = ["CLOUDAI_INPUT_TRAIN", "CLOUDAI_MODEL_DIR", "CLOUDAI_OUTPUT_DIR", "CLOUDAI_NODES"]
    # SageMaker tells no checkpoint folder, Vertex no hyperparameters.
    same.append("CLOUDAI_HPS" if vendor == "SM_" else "CLOUDAI_CHECKPOINT_DIR")
    assert {name: derived[name] for name in same} == {name: env[name] for name in same}


@pytest.mark.parametrize("value", [-1e-05, "-x", "--x", "", "a b", "é", [-1], None, True])
def test_l4_argparse_takes_every_value(value: object, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import argparse, json, os\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--bias', default='none')\n"
        "print(json.dumps(parser.parse_args().bias))\n"
    )
    words = bootstrap.command({}, [str(script), *bootstrap.arguments({"bias": value})])
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == ("none" if value is None else bootstrap.argument(value))


def test_l5_a_shell_script_is_started_as_one(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text('echo "$@"\n')
    words = bootstrap.command({"CLOUDAI_NPROC": "4"}, [str(script), "--a=1"])
    assert words == ["/bin/sh", str(script), "--a=1"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "--a=1\n"


def test_m5_tensorflow_has_one_process_a_machine_and_its_own_cluster() -> None:
    cluster = {"cluster": {"workerpool0": ["a:2222"], "workerpool1": ["b:2222", "c:2222"]}}
    spec = json.dumps({**cluster, "task": {"type": "workerpool1", "index": 1}})
    vertex = {"AIP_MODEL_DIR": "m", "CLUSTER_SPEC": spec}
    aws = {
        "SM_MODEL_DIR": "m",
        "SM_HOSTS": '["algo-1", "algo-2"]',
        "SM_CURRENT_HOST": "algo-2",
        "SM_NUM_GPUS": "4",
    }
    for env, hosts, rank in ((vertex, ["a", "b", "c"], 2), (aws, ["algo-1", "algo-2"], 1)):
        told = {**env, "CLOUDAI_FRAMEWORK": "tensorflow"}
        told |= bootstrap.derive(told, NONE)
        found = json.loads(told["TF_CONFIG"])
        assert found["task"] == {"type": "worker", "index": rank}
        assert [worker.partition(":")[0] for worker in found["cluster"]["worker"]] == hosts
        assert bootstrap.command(told, ["t.py"]) == [sys.executable, "t.py"]
        plain = {**env, **bootstrap.derive(env, NONE)}
        assert "TF_CONFIG" not in plain
        assert "torch.distributed.run" in bootstrap.command(plain, ["t.py"])
