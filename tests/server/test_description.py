"""The OpenAPI description against the server, by the real schemathesis."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running_server import ECHO, Start

pytest.importorskip("schemathesis", reason="schemathesis is a dev tool")


def test_schemathesis_finds_nothing(start: Start, tmp_path: Path) -> None:
    """All its checks; more examples with SCHEMATHESIS_EXAMPLES."""
    # Halved and not doubled: twice the largest float is infinity, which is an error.
    server = start(source=ECHO.replace("return 2", "return 0.5", 1))
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    done = subprocess.run(
        [program, "run", f"{server.http.base_url}/openapi.json", "--seed", "1", "--phases",
         "coverage,fuzzing", "--max-examples", os.environ.get("SCHEMATHESIS_EXAMPLES", "10")],
        capture_output=True, text=True, check=False, timeout=280, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "19 selected / 19 total" in done.stdout
    assert server.predict(1).json() == {"outputs": [0.5]}
