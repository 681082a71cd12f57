"""Variables of the network between machines, from the sagemaker SDK's own tables.

The torchrun driver of its ModelTrainer sets them for machines with an Elastic Fabric Adapter. The
SDK's file is read, not imported: that would cost more than a second.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Final

_FILE: Final = ("train", "container_drivers", "common", "utils.py")
_NCCL: Final = "SM_EFA_NCCL_INSTANCES"
_RDMA: Final = "SM_EFA_RDMA_INSTANCES"


@lru_cache(maxsize=1)
def _tables() -> dict[str, frozenset[str]]:
    """The SDK's lists of instance types; empty without the SDK, which own images do not need."""
    try:
        spec = importlib.util.find_spec("sagemaker")
    except ModuleNotFoundError:
        spec = None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(place, *_FILE)
        if file.is_file():
            return {
                target.id: frozenset(ast.literal_eval(node.value))
                for node in ast.parse(file.read_text("utf-8")).body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name) and target.id in {_NCCL, _RDMA}
            }
    return {}


def variables(machine: str) -> dict[str, str]:
    """What the processes of several such machines need; empty for one without the adapter."""
    known = _tables()
    made: dict[str, str] = {}
    if machine in known.get(_NCCL, ()):
        made |= {"FI_PROVIDER": "efa", "NCCL_PROTO": "simple"}
    if machine in known.get(_RDMA, ()):
        made |= {"FI_EFA_USE_DEVICE_RDMA": "1", "RDMAV_FORK_SAFE": "1"}
    return made
