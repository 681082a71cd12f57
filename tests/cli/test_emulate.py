"""``cloudai emulate``: prints an environment, serves, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, Run

pytest.importorskip("moto")
pytest.importorskip("openai")
pytest.importorskip("google.genai")


@contextmanager
def started(*arguments: str, temp: Path) -> Generator[subprocess.Popen[str]]:
    """The command, running."""
    with subprocess.Popen(
        [*COMMAND, "emulate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temp)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> int:
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    with started("vertex", "azure", "--json", "--env-file", str(tmp_path / "env"),
                 temp=temp) as process:  # fmt: skip
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(process.stdout.readline())
        assert set(told["clouds"]) == {"azure", "vertex"}
        assert "CLOUDAI_PROFILE" not in told["environment"]
        assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600
        lines = (tmp_path / "env").read_text().splitlines()
        assert [line.partition("=")[0] for line in lines] == list(told["environment"])
        said = subprocess.run(
            [sys.executable, "-c",
             "import openai\nwith openai.OpenAI() as c: print(c.models.list().data[0].id)"],
            env={**os.environ, **told["environment"]}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert said.stdout.startswith("gpt-5.1"), said.stderr
        assert list(temp.iterdir())
        assert ended(process, number) == 0
    assert list(temp.iterdir()) == []
    assert not (tmp_path / "env").exists()


def test_a_shell_follows_what_is_printed(tmp_path: Path) -> None:
    with started("aws", temp=tmp_path) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while "CLOUDAI_PROFILE" not in (lines[-1] if lines else ""):  # the last one
            lines.append(process.stdout.readline())
        script = "".join(lines) + 'echo "$AWS_PROFILE|$AWS_ENDPOINT_URL|$CLOUDAI_PROFILE"\n'
        said = subprocess.run(
            ["bash", "-c", script], env={**os.environ, "AWS_PROFILE": "mine"},
            capture_output=True, text=True,
        )  # fmt: skip
        profile, url, own = said.stdout.strip().split("|")
        assert (profile, own) == ("", "aws")
        assert url.startswith("http://127.0.0.1:")
        ended(process, signal.SIGTERM)


def test_a_program_runs_in_the_environment(run: Run) -> None:
    code = "import os; print(os.environ['GOOGLE_VERTEX_BASE_URL']); raise SystemExit(7)"
    done = run("emulate", "vertex", "--", sys.executable, "-c", code)
    assert (done.code, done.out[:17]) == (7, "http://127.0.0.1:"), done.err


def test_what_cannot_be_is_said(run: Run, tmp_path: Path) -> None:
    done = run("emulate", "awss")
    assert done.code == 3
    assert "Did you mean 'aws'" in done.err
    assert run("emulate", "vertex", "--speed", "0").code == 2
    temp = tmp_path / "temp"
    temp.mkdir()
    done = run("emulate", "vertex", "--env-file", str(tmp_path / "none" / "env"), TMPDIR=str(temp))
    assert done.code == 2
    assert "--env-file" in done.err
    assert list(temp.iterdir()) == []
