"""The command that runs a job's script, and what it inherits. Standard library only; the supervisor
imports it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WORKER: Final = str(Path(__file__).with_name("rank.py"))


def command(python: str, script: Sequence[str], nproc: int) -> list[str]:
    """What the supervisor starts: the script itself, or torchrun for several processes.

    torchrun never restarts the workers itself: an agent that restarts is not reliable when a
    worker was killed (pytorch#135712), and it does not tell a signal from an exit code. The
    supervisor starts a new agent instead.
    """
    if nproc == 1:
        return [python, *script]
    agent = [python, "-m", "torch.distributed.run", "--standalone", "--max-restarts=0"]
    # -I -S: the shim needs nothing but the standard library and becomes the script at once.
    rank = ["--no-python", python, "-I", "-S", WORKER, python, *script]
    return [*agent, f"--nproc-per-node={nproc}", *rank]


# What a job must not inherit from a client that itself runs in a job.
_OWN: Final = re.compile(
    r"(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|ROLE_\w+|MASTER_ADDR|MASTER_PORT"
    r"|CLUSTER_SPEC|TF_CONFIG|TORCHELASTIC_\w+|SM_\w+|AIP_\w+|AZUREML_\w+|AZURE_ML_\w+"
    r"|CLOUDAI_(INPUT_\w+|\w+_DIR|HPS|NODES|NODE_RANK|NPROC|BACKEND|RESTART_COUNT|JOB_\w+))\Z"
)


def inherited() -> dict[str, str]:
    """This process's environment, without what belongs to a job it may run in itself."""
    return {name: value for name, value in os.environ.items() if not _OWN.match(name)}
