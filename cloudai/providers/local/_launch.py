"""The command that runs a job's script. Standard library only; the supervisor imports it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

WORKER: Final = str(Path(__file__).with_name("_worker.py"))


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
