"""``forget``, ``adopt``, ``ls --all``, ``trust``: what the ledger has, and what it lost."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from command_line import Run

TRAIN = ("train", "--source", "src", "--entry", "train.py", "--detach")

pytestmark = pytest.mark.usefixtures("fake", "source")


def test_o3_o4_forgotten_found_and_taken_back(run: Run) -> None:
    uri = run(*TRAIN, "--name", "one").out.strip()
    assert run("forget", "one").code == 2  # there is no terminal to ask on
    assert run("forget", "two", "--yes").code == 5
    assert run("forget", "one", "--yes").out == f"forgot {uri}\n"
    assert run("ls", "--json").json == []
    (row,) = run("ls", "--all", "--json").json
    assert (row["uri"], row["name"], row["created"]) == (uri, "one", None)
    assert "(not in the ledger)" in run("ls", "--all").out
    assert run("adopt", uri).out == f"adopted {uri}\n"
    assert [row["uri"] for row in run("ls", "--json").json] == [uri]
    assert run("destroy", "one", "--yes").code == 0
    assert run("ls", "--all", "--json").json == []
    assert run("adopt", uri).code == 5


def test_k23_ls_shows_a_state_that_it_does_not_know(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "own"))
    run(*TRAIN)
    with closing(sqlite3.connect(tmp_path / "own" / "ledger.db", isolation_level=None)) as db:
        db.execute("UPDATE resources SET state='HIBERNATING'")
    done = run("ls")
    assert done.code == 0, done.err
    assert "HIBERNATING" in done.out


def test_o1_an_emulated_clouds_program_writes_into_no_ledger_of_the_users(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "own"))
    code = (
        "import cloudai\n"
        "client = cloudai.Client()\n"
        "job = cloudai.TrainingJob(source='src', entry='train.py')\n"
        "print(client.training.submit(job).id, len(client.resources()))\n"
    )
    done = run("emulate", "vertex", "--", sys.executable, "-c", code)
    assert done.out.endswith(" 1\n"), done.err
    assert run("ls", "--json").json == []
    assert not (tmp_path / "own" / "ledger.db").exists()


def test_k6_trust_counts_for_the_file_as_it_is(
    run: Run, work: Path, fake: Callable[[str], None]
) -> None:
    file = work / "cloudai.toml"
    file.write_text('default = "p"\n[profiles.p]\nprovider = "aws"\nendpoint_url = "http://x.y"\n')
    refused = run("ls")
    assert refused.code == 3
    assert f"{file}, line 4: endpoint_url" in refused.err
    assert f"cloudai trust {file}" in refused.err
    assert run("ls", "--config", str(file)).code == 0
    assert run("ls", CLOUDAI_TRUST="1").code == 0
    told = run("trust")
    assert "line 4: endpoint_url" in told.out
    assert run("ls").code == 0
    file.write_text(file.read_text() + "# changed\n")
    assert run("ls").code == 3
