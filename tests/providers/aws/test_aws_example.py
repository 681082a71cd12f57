"""The example runs as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_program_runs_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "aws_program.py")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "endpoint: [3, 6, 9]" in done.stdout
    assert 'streamed: {"predictions":[12,15]}' in done.stdout
    assert "batch: ['0', '3', '6', '9', '12']" in done.stdout
    assert "left: []" in done.stdout
