"""``--help``: complete, right, and fast."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys

import options
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


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_every_command_stands_in_the_docs(run: Run, name: str) -> None:
    shown = run(*name.split(), "--help").out.partition("Options:")[2]
    flags = re.findall(r"^  (-\S.*?)(?:  |$)", shown, re.M)
    real = {flag for text in flags for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", text)}
    assert real >= options.COMMON
    page = options.PAGE.read_text().partition("## Options of each command")[2]
    told = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
    lines = re.findall(r"^- `([^`]*)`: \S", told, re.M)
    documented = {flag for text in lines for flag in re.findall(r"--[a-z][a-z-]*", text)}
    assert documented == real - options.COMMON, "run: make options"
    for option in options.COMMON - {"--help"}:
        assert f"- `{option}" in options.PAGE.read_text()


def test_the_docs_have_each_options_help() -> None:
    text = options.PAGE.read_text()
    shown = text.partition(options.BEGIN)[2].partition(options.END)[0]
    assert shown.strip() == options.made(), "run: make options"
    table = re.findall(r"^\| (`.*?) \|", text.partition("## Common options")[0], re.M)
    for name in NAMES:
        assert any(re.search(rf"`{name}[ `]|`{name}$", row) for row in table), name


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
