"""How long OpenMP's threads, with which PyTorch computes on CPUs, spin while they wait.

libgomp's threads spin for milliseconds by default. Where something else runs on the same cores,
that time is stolen from the very thread they wait for. Measured 2026-11 on two cores, chat with
the embedded model: beside two busy processes 1 to 5 tokens/s by default, 8.5 with a short spin;
on an idle machine both 20 (without any spinning 14).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

_TURNS: Final = "20000"
_NAMES: Final = frozenset({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"})


def short(env: MutableMapping[str, str]) -> None:
    """Sets a short spin in an environment, unless it or the user's own says how to wait. It
    counts for processes that load torch afterwards."""
    if _NAMES.isdisjoint(env) and _NAMES.isdisjoint(os.environ):
        env["GOMP_SPINCOUNT"] = _TURNS
