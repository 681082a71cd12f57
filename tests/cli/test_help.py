"""``--help``: complete, right, and fast."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest
from command_line import Run

from cloudai import cli

NAMES = [name for rows in cli.GROUPS.values() for name in rows]


def test_the_overview_names_every_command(run: Run) -> None:
    shown = run("--help")
    assert (shown.code, shown.err) == (0, "")
    for name in NAMES:
        assert f"\n  {name} " in shown.out
    assert run().out == run("-h").out == run("help").out == shown.out


def test_the_rows_and_the_functions_are_the_same_commands() -> None:
    assert sorted(NAMES) == sorted(cli.HOMES)
    for rows in cli.GROUPS.values():
        for name, summary in rows.items():
            module = importlib.import_module(f"cloudai.cli.{cli.HOMES[name]}")
            function = getattr(module, name.replace(" ", "_"))
            assert (inspect.getdoc(function) or "").split("\n")[0] == summary


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_and_the_common_options(run: Run, name: str) -> None:
    shown = run(*name.split(), "--help")
    assert shown.code == 0, shown.err
    assert shown.out.startswith(f"Usage: cloudai {name} ")
    for option in ("--profile", "--provider", "--config", "--set", "--json"):
        assert option in shown.out


def test_help_imports_neither_typer_nor_the_types() -> None:
    code = (
        "import sys; from cloudai.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    code += "sys.stderr.write(','.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split(","))
    assert not loaded & {"typer", "click", "rich", "msgspec", "numpy", "torch", "cloudai.types"}


def test_no_command_imports_rich_or_an_sdk(run: Run, fake: None) -> None:
    done = run("chat", "hi", PYTHONPROFILEIMPORTTIME="1")
    assert done.out == "hi\n"
    loaded = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"rich", "torch", "numpy", "transformers", "boto3", "openai"}


def test_the_shells_completion_knows_the_commands(run: Run) -> None:
    done = run(_CLOUDAI_COMPLETE="complete_bash", COMP_WORDS="cloudai de", COMP_CWORD="1")
    assert sorted(done.out.split()) == ["deploy", "destroy"]
