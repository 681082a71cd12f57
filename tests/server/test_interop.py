"""The vendors' own programs against the server, where their environments exist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLACE = os.environ.get("INTEROP_ENVIRONMENTS")


@pytest.mark.skipif(
    PLACE is None, reason="INTEROP_ENVIRONMENTS is not set; see tests/server/interop/README.md"
)
def test_the_real_kserve_client_and_the_real_azureml_server() -> None:
    program = Path(__file__).parent / "interop" / "run.py"
    done = subprocess.run(
        [sys.executable, str(program), "--environments", str(PLACE)],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert done.stdout.count("ok   ") >= 34
