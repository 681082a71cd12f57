"""The environment of a job's script: the in-job contract, and what SageMaker and Vertex AI set,
so that a script written for either runs here unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloudai.bootstrap import argument, contract, variable


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def build(
    *,
    name: str,
    folder: Path,
    cwd: Path,
    entry: str,
    inputs: Mapping[str, Path],
    model: Path,
    checkpoints: Path,
    output: Path,
    hyperparameters: Mapping[str, Any],
    arguments: Sequence[str],
    nproc: int,
    cpus: int | None,
    gpus: Sequence[int] | None,
    gpus_here: int,
) -> dict[str, str]:
    """What the job adds to the environment it inherits.

    Parameters
    ----------
    gpus: indices of the GPUs it may see; None: all, of which there are ``gpus_here``.
    """
    paths = {key: str(path) for key, path in inputs.items()}
    count = gpus_here if gpus is None else len(gpus)
    env = {
        **contract(
            inputs=paths,
            model=str(model),
            checkpoints=str(checkpoints),
            output=str(output),
            hyperparameters=hyperparameters,
        ),
        "CLOUDAI_JOB_ID": name,
        "CLOUDAI_LOG_DIR": str(folder),
        "CLOUDAI_NODES": "1",
        "CLOUDAI_NODE_RANK": "0",
        "CLOUDAI_NPROC": str(nproc),
        "CLOUDAI_BACKEND": "nccl" if count else "gloo",
        "PYTHONUNBUFFERED": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    if cpus is not None or nproc > 1:
        # torchrun would set 1, and one process alone takes all cores.
        env["OMP_NUM_THREADS"] = str(max(1, (cpus or cores()) // nproc))
    if gpus is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    directories = {key: _directory(folder, key, path) for key, path in inputs.items()}
    env |= _sagemaker(
        name, cwd, entry, directories, model, output, hyperparameters, arguments, count, cpus
    )
    return env | _vertex(paths, model, checkpoints, output, count)


def _directory(folder: Path, name: str, path: Path) -> Path:
    """A SageMaker channel is a directory: that of a file holds a link to it."""
    if path.is_dir():
        return path
    return folder / "channels" / name


def link_channels(folder: Path, inputs: Mapping[str, Path]) -> None:
    """Makes the directories that stand in for inputs which are files."""
    for name, path in inputs.items():
        if not path.is_dir():
            channel = folder / "channels" / name
            channel.mkdir(parents=True)
            (channel / path.name).symlink_to(path)


def _sagemaker(
    name: str,
    cwd: Path,
    entry: str,
    channels: Mapping[str, Path],
    model: Path,
    output: Path,
    hyperparameters: Mapping[str, Any],
    arguments: Sequence[str],
    gpus: int,
    cpus: int | None,
) -> dict[str, str]:
    """The variables of SageMaker's training toolkit (its ENVIRONMENT_VARIABLES.md, read
    2026-11)."""
    host = "algo-1"
    inputs = {
        key: {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        for key in channels
    }
    hps = json.dumps(dict(hyperparameters))
    count = cpus or cores()
    training = {
        "channel_input_dirs": {key: str(path) for key, path in channels.items()},
        "current_host": host,
        "hosts": [host],
        "hyperparameters": dict(hyperparameters),
        "input_data_config": inputs,
        "is_master": True,
        "job_name": name,
        "master_hostname": host,
        "model_dir": str(model),
        "module_dir": str(cwd),
        "module_name": Path(entry).stem,
        "num_cpus": count,
        "num_gpus": gpus,
        "output_data_dir": str(output),
        "user_entry_point": entry,
    }
    return {
        "SM_MODEL_DIR": str(model),
        "SM_OUTPUT_DIR": str(output),
        "SM_OUTPUT_DATA_DIR": str(output),
        "SM_OUTPUT_INTERMEDIATE_DIR": str(output),
        "SM_MODULE_DIR": str(cwd),
        "SM_MODULE_NAME": Path(entry).stem,
        "SM_USER_ENTRY_POINT": entry,
        "SM_USER_ARGS": json.dumps(list(arguments)),
        "SM_CHANNELS": json.dumps(sorted(channels)),
        **{variable("SM_CHANNEL_", key): str(path) for key, path in channels.items()},
        "SM_INPUT_DATA_CONFIG": json.dumps(inputs),
        "SM_HPS": hps,
        **{variable("SM_HP_", key): argument(value) for key, value in hyperparameters.items()},
        "SM_HOSTS": json.dumps([host]),
        "SM_CURRENT_HOST": host,
        "SM_NUM_CPUS": str(count),
        "SM_NUM_GPUS": str(gpus),
        "SM_RESOURCE_CONFIG": json.dumps({"current_host": host, "hosts": [host]}),
        "SM_TRAINING_ENV": json.dumps(training),
        "TRAINING_JOB_NAME": name,
    }


def _vertex(
    inputs: Mapping[str, str], model: Path, checkpoints: Path, output: Path, gpus: int
) -> dict[str, str]:
    """The variables of Vertex AI's custom training; there they hold gs:// URIs, here paths."""
    found = {
        "AIP_MODEL_DIR": str(model),
        "AIP_CHECKPOINT_DIR": str(checkpoints),
        "AIP_TENSORBOARD_LOG_DIR": str(output / "tensorboard"),
        "CLOUD_ML_JOB_ID": "local",
        "CLUSTER_SPEC": json.dumps(
            {
                "cluster": {"workerpool0": ["localhost:2222"]},
                "environment": "cloud",
                "task": {"type": "workerpool0", "index": 0},
            }
        ),
    }
    for name, vendor in (
        ("train", "TRAINING"),
        ("training", "TRAINING"),
        ("validation", "VALIDATION"),
        ("test", "TEST"),
    ):
        if name in inputs:
            found[f"AIP_{vendor}_DATA_URI"] = inputs[name]
    if "train" in inputs:
        # Vertex's own words: "jsonl", "csv" or "bigquery".
        found["AIP_DATA_FORMAT"] = "csv" if inputs["train"].endswith(".csv") else "jsonl"
    return found
