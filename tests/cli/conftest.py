"""The command as a user starts it: a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import COMMAND, Result, Run


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(work: Path) -> Run:
    """Runs ``cloudai`` with these arguments in the working folder."""

    def started(*arguments: str, stdin: str = "", **env: str) -> Result:
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=work,
            env={**os.environ, **env},
            timeout=120,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return started


@pytest.fixture
def fake(work: Path) -> Callable[[str], None]:
    """Makes ``fake`` the default profile, with a script."""

    def scripted(script: str = "") -> None:
        (work / "script.toml").write_text(script)
        (work / "cloudai.toml").write_text(
            'default = "test"\n[profiles.test]\nprovider = "fake"\nscript = "script.toml"\n'
            "retries = 0\n"
        )

    scripted()
    return scripted


@pytest.fixture
def source(work: Path) -> str:
    """A source folder with a script, which the fake provider does not run."""
    (work / "src").mkdir()
    (work / "src" / "train.py").write_text("raise SystemExit('never run')\n")
    return "src"
