"""Exit codes and the messages beside them."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import COMMAND, Run

from cloudai import errors
from cloudai.cli import exits

ROOT = Path(__file__).parent.parent.parent


def test_the_docs_have_the_table_of_the_code() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == exits.MEANINGS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.JobFailed("x"), 1),
        (errors.JobTimedOut("x"), 1),
        (errors.HandlerError("x"), 1),
        (errors.EndpointError("x"), 1),
        (errors.StreamTruncated("x"), 1),
        (errors.StateError("x"), 1),
        (RuntimeError("x"), 1),
        (errors.InvalidRequest("x"), 2),
        (errors.ContextOverflow("x"), 2),
        (errors.ConfigError("x"), 3),
        (errors.AuthenticationError("x"), 4),
        (errors.PermissionDenied("x"), 4),
        (errors.NotFound("x"), 5),
        (errors.Conflict("x"), 5),
        (errors.CallTimeout("x"), 6),
        (errors.WaitTimeout("x"), 6),
        (errors.UnsupportedByProvider("x", provider="p", alternative="a"), 7),
        (errors.MissingExtra("x", extra="local"), 7),
        (errors.RateLimited("x"), 8),
        (errors.ServiceUnavailable("x"), 8),
        (errors.QuotaExceeded("x"), 8),
        (errors.CapacityError("x"), 8),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_code(error: Exception, code: int) -> None:
    assert exits.code(error) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("AuthenticationError", 4),
        ("NotFound", 5),
        ("CallTimeout", 6),
        ("UnsupportedByProvider", 7),
        ("MissingExtra", 7),
        ("ServiceUnavailable", 8),
        ("ProviderError", 1),
    ],
)
def test_a_providers_error_ends_the_command(
    run: Run, fake: Callable[[str], None], error: str, code: int
) -> None:
    fake(f'[[faults]]\noperation = "chat.*"\nerror = "{error}"\nmessage = "as scripted"\n')
    done = run("chat", "hi")
    assert done.code == code
    assert done.out == ""
    assert done.err.startswith("cloudai: fake: ")
    assert "as scripted" in done.err
    assert "Traceback" not in done.err


def test_a_traceback_only_on_request(run: Run, fake: Callable[[str], None]) -> None:
    fake('[[faults]]\noperation = "chat.*"\nerror = "NotFound"\n')
    done = run("chat", "hi", CLOUDAI_DEBUG="1")
    assert done.code == 5
    assert "Traceback" in done.err


def test_an_error_is_one_json_line_where_json_is_asked_for(
    run: Run, fake: Callable[[str], None]
) -> None:
    import json

    fake('[[faults]]\noperation = "chat.*"\nerror = "ServiceUnavailable"\nmessage = "slow down"\n')
    done = run("chat", "hi", "--json")
    assert done.out == ""
    assert json.loads(done.err)["error"] == {
        "type": "ServiceUnavailable",
        "message": "fake: slow down",
        "exit_code": 8,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trian"], 2, "Did you mean 'train'?"),
        (["local", "setpu"], 2, "Did you mean 'local setup'?"),
        (["--nope", "chat"], 2, "'--nope'"),
        (["--profile", "fake"], 2, "a command is missing"),
        (["chat", "hi", "--nope"], 2, "--nope"),
        (["embed"], 2, "there is no text"),
        (["embed", "a", "-o", "x.txt"], 2, ".npy"),
        (["chat", ""], 2, "is empty"),
        (["chat", "hi", "--temperature", "hot"], 2, "--temperature"),
        (["chat", "hi", "--temperature", "9"], 2, "temperature=9"),
        (["chat", "hi", "-p", "tset"], 3, "Did you mean 'test'?"),
        (["chat", "hi", "--provider", "fkae"], 3, "Did you mean 'fake'?"),
        (["chat", "hi", "--set", "spede=2"], 3, "Did you mean 'speed'?"),
        (["chat", "hi", "--set", "speed=fast"], 3, "not a number"),
        (["chat", "hi", "--set", "speed"], 2, "NAME=VALUE"),
        (["chat", "hi", "--config", "no.toml"], 3, "no.toml"),
        (["train"], 2, "nothing to train"),
        (["train", "src"], 2, "--source DIR"),
        (["train", "no.toml"], 2, "cannot be read"),
        (["train", "job.yaml"], 2, "neither .toml nor .json"),
        (["train", "--source", "src", "--entry", "no.py"], 2, "no.py"),
        (["train", "--source", "src"], 2, "entry"),
        (["train", "--source", "src", "--entry", "train.py", "--hp", "a"], 2, "NAME=VALUE"),
        (["train", "--source", "src", "--entry", "train.py", "--input", "a=gone"], 2, "gone"),
        (["train", "--source", "src", "--entry", "train.py", "--accelerator", "A100"], 2, "A100"),
        (["deploy", "gone", "--name", "x"], 2, "gone"),
        (["deploy", "src"], 2, "name of the Deployment is missing"),
        (["deploy", "src", "--name", "no good"], 2, "no good"),
        (["predict", "gone", "1"], 5, "gone"),
        (["predict", "gone", "--file", "gone.jsonl"], 2, "gone.jsonl"),
        (["batch", "gone.jsonl"], 2, "OUTPUT"),
        (["batch", "gone.jsonl", "out.jsonl", "--model", "src"], 2, "gone.jsonl"),
        (["batch", "in.jsonl", "out.jsonl"], 2, "exactly one of"),
        (["wait", "cloudai://test/training/gone"], 5, "gone"),
        (["wait", "nonsense"], 2, "nonsense"),
        (["destroy"], 2, "--all"),
        (["destroy", "cloudai://test/training/gone", "--yes"], 5, "gone"),
        (["logs", "cloudai://test/training/gone", "--since", "soon"], 5, "gone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(
    run: Run, fake: None, source: str, arguments: list[str], code: int, said: str
) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_job_file_names_its_bad_field(run: Run, fake: None, work: Path, source: str) -> None:
    (work / "job.toml").write_text('source = "src"\nentry = "train.py"\nhyperparameter = 1\n')
    done = run("train", "job.toml")
    assert done.code == 2
    assert "Did you mean 'hyperparameters'?" in done.err
    (work / "job.toml").write_text('source = "src"\nentry = "train.py"\ntimeout = "long"\n')
    done = run("train", "job.toml")
    assert done.code == 2
    assert "timeout" in done.err


def test_a_failed_job(run: Run, fake: Callable[[str], None], source: str) -> None:
    fake('[training.default]\nstate = "FAILED"\nexit_code = 3\nlogs = ["about to fail"]\n')
    done = run("train", "--source", source, "--entry", "train.py")
    assert done.code == 1
    assert "FAILED" in done.err
    assert done.err.count("about to fail") == 1


def test_a_wait_that_is_over_leaves_the_job(
    run: Run, fake: Callable[[str], None], source: str
) -> None:
    fake("[training.default]\nrunning = 600\n")
    uri = run("train", "--source", source, "--entry", "train.py", "--detach").out.strip()
    done = run("wait", uri, "--timeout", "0.2")
    assert done.code == 6
    assert run("status", uri, "--json").json["status"]["state"] == "RUNNING"
    assert run("cancel", uri, "--wait").out == f"{uri} CANCELLED\n"
    assert run("wait", uri).code == 1


def test_the_first_failure_of_several_is_the_code(run: Run, fake: None, source: str) -> None:
    uri = run("train", "--source", source, "--entry", "train.py", "--detach").out.strip()
    done = run("wait", "cloudai://test/training/gone", uri)
    assert done.code == 5
    assert f"{uri} SUCCEEDED" in done.out


def test_a_secret_has_no_place_on_a_command_line(run: Run) -> None:
    done = run("chat", "hi", "--provider", "azure", "--set", "api_key=hunter2")
    assert done.code == 2
    assert "CLOUDAI_API_KEY" in done.err
    assert "hunter2" not in done.err + done.out


def test_ctrl_c_on_a_wait_leaves_the_job(
    run: Run, fake: Callable[[str], None], source: str, work: Path
) -> None:
    fake("[training.default]\nrunning = 600\n")
    uri = run("train", "--source", source, "--entry", "train.py", "--detach").out.strip()
    for arguments in (["wait", uri], ["logs", "-f", uri]):
        code, said = interrupted(
            arguments, work, until=b"RUNNING" if arguments[0] == "wait" else b"running"
        )
        assert code == 130
        assert f"cloudai wait '{uri}'" in said
        assert run("status", uri, "--json").json["status"]["state"] == "RUNNING"


def test_ctrl_c_stops_an_answer(fake: Callable[[str], None], work: Path) -> None:
    fake('[[chat.replies]]\ntext = "one two three four five six"\nseconds = 2\n')
    code, said = interrupted(["chat", "count"], work, until=b"one")
    assert code == 130
    assert "six" not in said


def test_a_reader_that_goes_away(fake: None, work: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "embed", *("word " * 300).split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=work,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert err == b""


def interrupted(arguments: list[str], work: Path, until: bytes) -> tuple[int, str]:
    """Sends SIGINT once ``until`` has been said; gives the exit code and all that was said."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=work
    ) as process:
        assert process.stdout is not None
        said = b""
        while until not in said:
            piece = process.stdout.read1(65536)
            assert piece, said.decode()
            said += piece
        process.send_signal(signal.SIGINT)
        said += process.stdout.read()
        return process.wait(60), said.decode()
