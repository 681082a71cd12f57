"""This machine: PyTorch jobs, endpoints, batches, chat and embeddings, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudai.providers.local.spec import SPEC as SPEC


def __getattr__(name: str) -> Any:
    # On demand, since each job's supervisor lives in this package too: with the neutral types
    # it would start in three times the time and hold three times the memory.
    if name == "SPEC":
        from cloudai.providers.local.spec import SPEC

        return SPEC
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
