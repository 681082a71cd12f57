"""A process that is started apart: it gets its input, and is nobody's child."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cloudai._core.state import detach
from cloudai.errors import StateError

STARTER = """
import sys
from pathlib import Path
import psutil
from cloudai._core.state import detach
folder = Path(sys.argv[1])
code = (
    "import os, sys; given = sys.stdin.read(); print('said', flush=True);"
    " open('part', 'w').write(f'{given} {os.getpid()} {os.getsid(0)}'); os.rename('part', 'told');"
    " import time; time.sleep(600)"
)
detach.start([sys.executable, "-c", code], folder / "log", given=b"secret", cwd=str(folder))
print(len(psutil.Process().children()))
"""


def test_it_outlives_its_starter_and_leaves_no_child_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTER, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"  # neither the process nor a zombie
    deadline = time.monotonic() + 60
    while not (tmp_path / "told").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    given, pid, session = (tmp_path / "told").read_text().split()
    started = psutil.Process(int(pid))
    try:
        assert given == "secret"
        assert int(session) != os.getsid(0)
        assert "secret" not in " ".join(started.cmdline())
        assert (tmp_path / "log").read_text() == "said\n"
    finally:
        started.kill()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="nowhere"):
        detach.start(["true"], tmp_path / "nowhere" / "log")
