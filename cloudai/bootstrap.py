"""The in-job contract, and the bootstrap that brings it about inside a vendor's container.

Standard library only, and no import of cloudai: an adapter copies this one file into the job's
source, and the container runs ``python bootstrap.py train.py --epochs 3``. It derives what a
script may rely on everywhere, and leaves alone whatever of it is set already:

======================  =====================================================================
CLOUDAI_INPUT_<NAME>    the directory (or file) of the named input
CLOUDAI_MODEL_DIR       where the model goes
CLOUDAI_CHECKPOINT_DIR  where checkpoints go; after a restart it holds the earlier ones
CLOUDAI_OUTPUT_DIR      where everything else goes
CLOUDAI_HPS             the hyperparameters, typed, as one JSON object
CLOUDAI_NODES           machines; CLOUDAI_NODE_RANK tells which this is, from 0
CLOUDAI_NPROC           processes on each machine; above one they are started by torchrun
CLOUDAI_FRAMEWORK       ``tensorflow``: one process a machine, with TF_CONFIG and no torchrun
======================  =====================================================================

The local provider builds its environment from the same functions.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MASTER_PORT = "29500"

ReadText = Callable[[str], "str | None"]


def variable(prefix: str, name: str) -> str:
    """The environment variable of a named thing: ``variable("CLOUDAI_INPUT_", "my-data")`` is
    ``CLOUDAI_INPUT_MY_DATA``."""
    return prefix + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def contract(
    *,
    inputs: Mapping[str, str],
    model: str,
    checkpoints: str,
    output: str,
    hyperparameters: Mapping[str, Any],
) -> dict[str, str]:
    """The variables of the contract, from their values."""
    return {
        **{variable("CLOUDAI_INPUT_", name): path for name, path in inputs.items()},
        "CLOUDAI_MODEL_DIR": model,
        "CLOUDAI_CHECKPOINT_DIR": checkpoints,
        "CLOUDAI_OUTPUT_DIR": output,
        "CLOUDAI_HPS": json.dumps(dict(hyperparameters)),
    }


def argument(value: Any) -> str:
    """A hyperparameter as the text of an argument: texts as they are, all else as JSON, so that
    True is ``true`` and a list is ``[1, 2]``."""
    return value if isinstance(value, str) else json.dumps(value)


def arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """The ``--name=value`` arguments, in one word each: argparse takes a value that begins with
    a minus, such as ``-1e-05``, for an option of its own. One that is None is left out: the
    script's own default holds."""
    return [
        f"--{name}={argument(value)}"
        for name, value in hyperparameters.items()
        if value is not None
    ]


def derive(env: Mapping[str, str], read: ReadText | None = None) -> dict[str, str]:
    """The variables of the contract that ``env`` lacks, derived from the vendor's own.

    Parameters
    ----------
    env: the container's environment.
    read: gives a file's text, or None where there is no such file.
    """
    read = read or _read
    found: dict[str, str] = {}
    if _is_sagemaker(env, read):
        found = _sagemaker(env, read)
    elif any(name.startswith("AIP_") for name in env) or "CLUSTER_SPEC" in env:
        found = _vertex(env)
    elif any(name.startswith(("AZUREML_", "AZURE_ML_")) for name in env):
        found = _azureml(env)
    if env.get("CLOUDAI_FRAMEWORK") == "tensorflow":
        found.pop("CLOUDAI_NPROC", None)
    if env.get("CLOUDAI_FRAMEWORK") != "tensorflow" or found.get("CLOUDAI_NODES") == "1":
        found.pop("TF_CONFIG", None)
    fresh = {name: value for name, value in found.items() if name not in env}
    # What an adapter set itself may be a bucket's URI; Vertex mounts buckets under /gcs.
    for name, value in env.items():
        if name.startswith("CLOUDAI_") and value.startswith("gs://"):
            fresh[name] = _mounted(value)
    return fresh


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def _json(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _typed(text: Any) -> Any:
    """SageMaker carries hyperparameters as texts; the adapter sent them as JSON."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


_ML = os.environ.get("CLOUDAI_ML_ROOT", "/opt/ml")  # elsewhere in tests alone


def _is_sagemaker(env: Mapping[str, str], read: ReadText) -> bool:
    return "SM_MODEL_DIR" in env or read(f"{_ML}/input/config/resourceconfig.json") is not None


def _sagemaker(env: Mapping[str, str], read: ReadText) -> dict[str, str]:
    config = f"{_ML}/input/config"
    inputs = {
        name.removeprefix("SM_CHANNEL_").lower(): value
        for name, value in env.items()
        if name.startswith("SM_CHANNEL_")
    }
    for name in _json(read(f"{config}/inputdataconfig.json")):
        inputs.setdefault(name, f"{_ML}/input/data/{name}")
    if "SM_HPS" in env:
        hyperparameters = _json(env["SM_HPS"])
    else:
        texts = _json(read(f"{config}/hyperparameters.json"))
        hyperparameters = {name: _typed(value) for name, value in texts.items()}
    found = contract(
        inputs=inputs,
        model=env.get("SM_MODEL_DIR", f"{_ML}/model"),
        checkpoints=f"{_ML}/checkpoints",
        output=env.get("SM_OUTPUT_DATA_DIR", f"{_ML}/output/data"),
        hyperparameters=hyperparameters,
    )
    machines = _json(read(f"{config}/resourceconfig.json"))
    hosts = sorted(machines.get("hosts") or _list(env.get("SM_HOSTS")) or ["localhost"])
    current = machines.get("current_host") or env.get("SM_CURRENT_HOST") or hosts[0]
    found |= _cluster(hosts, hosts.index(current) if current in hosts else 0)
    if env.get("SM_NUM_GPUS", "0") not in {"", "0"}:
        found["CLOUDAI_NPROC"] = env["SM_NUM_GPUS"]
    return found


def _list(text: str | None) -> list[str]:
    try:
        value = json.loads(text or "[]")
    except ValueError:
        return []
    return [str(item) for item in value] if isinstance(value, list) else []


_GCS = os.environ.get("CLOUDAI_GCS_ROOT", "/gcs")  # elsewhere in tests alone


def _mounted(uri: str) -> str:
    return f"{_GCS}/{uri.removeprefix('gs://')}" if uri.startswith("gs://") else uri


def _vertex(env: Mapping[str, str]) -> dict[str, str]:
    model = _mounted(env.get("AIP_MODEL_DIR", "model"))
    parent = os.path.dirname(model.rstrip("/")) or "."
    names = {"train": "TRAINING", "validation": "VALIDATION", "test": "TEST"}
    found = contract(
        inputs={
            name: _mounted(env[f"AIP_{vendor}_DATA_URI"])
            for name, vendor in names.items()
            if f"AIP_{vendor}_DATA_URI" in env
        },
        model=model,
        checkpoints=_mounted(env.get("AIP_CHECKPOINT_DIR", f"{parent}/checkpoints")),
        output=f"{parent}/output",
        hyperparameters={},
    )
    spec = _json(env.get("CLUSTER_SPEC"))
    pools = spec.get("cluster", {})
    # Vertex's machines are those of pool 0 (the chief), then those of the further pools.
    machines = [(pool, host) for pool in sorted(pools) for host in pools[pool]]
    task = spec.get("task", {})
    if machines and task:
        first = sum(len(pools[pool]) for pool in sorted(pools) if pool < task["type"])
        hosts = [str(host).partition(":")[0] for _, host in machines]
        found |= _cluster(hosts, first + int(task.get("index", 0)))
    return found


def _azureml(env: Mapping[str, str]) -> dict[str, str]:
    def named(kind: str) -> dict[str, str]:
        prefix = f"AZURE_ML_{kind}_"
        return {
            name.removeprefix(prefix).lower(): value
            for name, value in env.items()
            if name.startswith(prefix)
        }

    outputs = named("OUTPUT")
    # What lies in ./outputs is kept with the run even where no output was declared.
    found = contract(
        inputs=named("INPUT"),
        model=outputs.get("model", "outputs/model"),
        checkpoints=outputs.get("checkpoints", "outputs/checkpoints"),
        output=outputs.get("output", "outputs/output"),
        hyperparameters={},
    )
    nodes = env.get("AZUREML_NODE_COUNT") or "1"
    if nodes.isdigit() and int(nodes) > 1:
        rank = int(env.get("NODE_RANK", "0"))
        # Azure ML tells the first machine alone, and TensorFlow its own TF_CONFIG.
        found |= _cluster([env.get("MASTER_ADDR", "localhost"), *[""] * (int(nodes) - 1)], rank)
        found.pop("TF_CONFIG")
    return found


def _cluster(hosts: Sequence[str], rank: int) -> dict[str, str]:
    workers = [f"{host}:{MASTER_PORT}" for host in hosts]
    task = {"type": "worker", "index": rank}
    return {
        "CLOUDAI_NODES": str(len(hosts)),
        "CLOUDAI_NODE_RANK": str(rank),
        "MASTER_ADDR": hosts[0],
        "MASTER_PORT": MASTER_PORT,
        # MultiWorkerMirroredStrategy's own (tf.distribute.cluster_resolver, read 2026-11).
        "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
    }


def command(env: Mapping[str, str], script: Sequence[str]) -> list[str]:
    """What starts the script: Python, or torchrun where there are several processes. A shell
    script starts its own; TensorFlow's one process a machine sees all of its GPUs, and the others
    by TF_CONFIG."""
    if script[0].endswith(".sh"):
        return ["/bin/sh", *script]
    nodes, nproc = int(env.get("CLOUDAI_NODES", "1")), int(env.get("CLOUDAI_NPROC", "1"))
    if (nodes == 1 and nproc == 1) or env.get("CLOUDAI_FRAMEWORK") == "tensorflow":
        return [sys.executable, *script]
    where = (
        ["--standalone"]
        if nodes == 1
        else [
            f"--nnodes={nodes}",
            f"--node-rank={env.get('CLOUDAI_NODE_RANK', '0')}",
            f"--master-addr={env['MASTER_ADDR']}",
            f"--master-port={env.get('MASTER_PORT', MASTER_PORT)}",
        ]
    )
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    return [*launcher, *where, f"--nproc-per-node={nproc}", *script]


def main(argv: Sequence[str]) -> None:
    """Sets the environment and becomes the script: signals and the exit code are its own."""
    if not argv:
        sys.exit("usage: python bootstrap.py SCRIPT [ARGUMENT ...]")
    env = {**os.environ}
    env |= derive(env)
    env.setdefault("PYTHONUNBUFFERED", "1")
    # An elastic restart hangs at times where the agents share one store (pytorch#135712).
    env.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    for name in ("CLOUDAI_MODEL_DIR", "CLOUDAI_CHECKPOINT_DIR", "CLOUDAI_OUTPUT_DIR"):
        if name in env:
            os.makedirs(env[name], exist_ok=True)
    start = command(env, argv)
    os.execve(start[0], start, env)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
