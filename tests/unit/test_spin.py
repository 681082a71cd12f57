"""How OpenMP's threads wait."""

from __future__ import annotations

import pytest

from cloudai.engine import openmp


def test_a_short_spin_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    env: dict[str, str] = {}
    openmp.short(env)
    assert int(env["GOMP_SPINCOUNT"]) > 0

    env = {"OMP_WAIT_POLICY": "ACTIVE"}
    openmp.short(env)
    assert env == {"OMP_WAIT_POLICY": "ACTIVE"}

    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    env = {}
    openmp.short(env)
    assert env == {}
