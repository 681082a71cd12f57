"""What the commands do, over the fake provider; ``--json`` gives one document, or JSON Lines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import COMMAND, Run

TRAIN = ("train", "--source", "src", "--entry", "train.py")


@pytest.fixture(autouse=True)
def _profile(fake: None, source: str) -> None:
    """The fake provider is the default, and there is a script."""


def test_version(run: Run) -> None:
    from cloudai import __version__

    assert run("version").out == run("--version").out == f"cloudai {__version__}\n"
    assert run("version", "--json").json["cloudai"] == __version__


def test_providers(run: Run) -> None:
    from cloudai._core.profiles import registry

    found = {one["name"]: one for one in run("providers", "--json").json}
    assert set(found) >= set(registry.BUILT_IN)
    assert found["local"]["capabilities"] == dict.fromkeys(registry.CAPABILITIES, True)
    assert "cloudai[local]" in found["local"]["install"]
    plain = run("providers").out
    table = run("providers", "--markdown").out
    for name in found:
        assert f"\n{name} " in plain
        assert f"| `{name}` |" in table


def test_providers_writes_between_the_markers(run: Run, work: Path) -> None:
    from cloudai.cli.about import BEGIN, END

    page = work / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert run("providers", "--update", "page.md").code == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert run("providers", "--markdown").out.strip() in text
    page.write_text("no markers")
    assert run("providers", "--update", "page.md").code == 2
    assert page.read_text() == "no markers"


def test_chat(run: Run, fake: Callable[[str], None]) -> None:
    assert run("chat", "two", "words").out == "two words\n"
    assert run("chat", stdin="piped\n").out == "piped\n"
    assert run("chat", "-", stdin="piped\n").out == "piped\n"
    assert run("chat", "hi", "--no-stream").out == "hi\n"
    one = run("chat", "hi", "--json").json
    assert (one["text"], one["finish_reason"], one["usage"]["output_tokens"]) == ("hi", "stop", 1)
    *pieces, last = run("chat", "a b c", "--json", "--stream").lines
    assert "".join(piece["text"] for piece in pieces) == "a b c" == last["reply"]["text"]
    assert run("chat", "a b c", "--max-tokens", "1", "--json").json["finish_reason"] == "length"
    assert run("--profile", "test", "chat", "hi").out == "hi\n"
    assert run("chat", "hi", stdin="").out == "hi\n"
    assert run("chat", stdin="").code == 2


def test_embed(run: Run, work: Path) -> None:
    vectors = run("embed", "a", "b").lines
    assert [len(vector) for vector in vectors] == [64, 64]
    assert run("embed", stdin="a\n\nb\n").lines == vectors
    (work / "texts.txt").write_text("a\nb\n")
    assert run("embed", "--file", "texts.txt").lines == vectors
    document = run("embed", "a", "b", "--json").json
    assert document["vectors"] == vectors
    assert document["dim"] == 64
    assert run("embed", "a", "--dimensions", "8", "--json").json["dim"] == 8


def test_embed_into_a_file(run: Run, work: Path) -> None:
    np = pytest.importorskip("numpy")
    assert run("embed", "a", "b", "-o", "v.npy").out == "v.npy: 2 vectors of 64\n"
    assert np.load(work / "v.npy").shape == (2, 64)


def test_train_with_options(run: Run, work: Path) -> None:
    (work / "data").mkdir()
    done = run(
        *TRAIN,
        *("--hp", "epochs=3", "--hp", "name=yes", "--hp", "flags=[1, 2]"),
        *("--input", "train=data", "--metric", r"loss=loss=([0-9.]+)"),
        *("--name", "first", "--tag", "team=a", "--env", "MODE=x=y"),
        "--json",
    )
    assert done.code == 0, done.err
    status = done.json["status"]
    assert (status["state"], status["name"]) == ("SUCCEEDED", "first")
    assert "loss" in status["metrics"]
    assert "is not run" in done.err  # the job's log, as it came
    manifest = json.loads((Path(status["outputs"]["model"]) / "cloudai-fake.json").read_text())
    assert manifest["hyperparameters"] == {"epochs": 3, "name": "yes", "flags": [1, 2]}


def test_train_from_a_file_with_options_over_it(run: Run, work: Path) -> None:
    (work / "jobs").mkdir()
    (work / "jobs" / "job.toml").write_text(
        'source = "../src"\nentry = "train.py"\nframework = "pytorch"\n'
        "[hyperparameters]\nepochs = 3\nlr = 0.1\n[resources]\nnproc = 2\n"
    )
    plan = run("train", "jobs/job.toml", "--hp", "epochs=5", "--plan", "--json").json
    assert plan["ok"]
    body = plan["requests"][0]["body"]
    assert body["hyperparameters"] == {"epochs": 5, "lr": 0.1}
    assert body["resources"]["nproc"] == 2
    assert run("ls", "--json").json == []  # a plan makes nothing
    (work / "jobs" / "job.json").write_text('{"source": "../src", "entry": "train.py"}')
    assert run("train", "jobs/job.json").code == 0


def test_a_plan_that_would_be_refused(run: Run) -> None:
    done = run("train", "--source", "src", "--entry", "gone.py", "--plan")
    assert done.code == 2
    assert "refused: entry" in done.out


def test_one_key_makes_one_job(run: Run) -> None:
    first = run(*TRAIN, "--key", "once", "--detach", "--json").json
    assert run(*TRAIN, "--key", "once", "--detach", "--json").json == first
    assert len(run("ls", "--json").json) == 1


def test_from_a_job_to_an_endpoint_and_a_batch(run: Run, work: Path) -> None:
    job = run(*TRAIN, "--json").json["id"]
    made = run("deploy", job, "--name", "sentiment", "--json").json
    assert made["status"]["state"] == "RUNNING"
    assert run("predict", "sentiment", "1", '"a"', "word").lines == [1, "a", "word"]
    asked = run("predict", made["id"], "--json", stdin='{"x": 1}\n\n2\n').json
    assert asked["outputs"] == [{"x": 1}, 2]
    assert asked["variant"] == "main"
    assert run("predict", "sentiment", stdin="{broken").code == 2
    again = run("deploy", job, "--name", "sentiment")
    assert again.code == 5
    both = run(
        "deploy", "--name", "sentiment", "--update", "--json",
        "--variant", f"a={job}@3", "--variant", f"b={job}@1",
    ).json  # fmt: skip
    shares = {one["name"]: one["share"] for one in both["status"]["variants"]}
    assert shares == {"a": 0.75, "b": 0.25}
    assert run("predict", "sentiment", "1", "--variant", "b", "--json").json["variant"] == "b"

    (work / "in.jsonl").write_text("1\n2\n3\n")
    done = run("batch", "in.jsonl", "out.jsonl", "--model", job, "--json")
    assert done.json["status"]["progress"] == [3, 3]
    assert (work / "out.jsonl").read_text() == "1\n2\n3\n"
    taken = run("batch", "in.jsonl", "out.jsonl", "--model", job)
    assert taken.code == 5
    assert run("batch", "in.jsonl", "out.jsonl", "--model", job, "--overwrite").code == 0
    assert run("batch", "in.jsonl", "o2.jsonl", "--endpoint", "sentiment").code == 0
    (work / "batch.toml").write_text('input = "in.jsonl"\noutput = "o3.jsonl"\nchat = ""\n')
    (work / "in.jsonl").write_text('"hi"\n')
    assert run("batch", "batch.toml").code == 0
    assert "hi" in (work / "o3.jsonl").read_text()

    kinds = [one["kind"] for one in run("ls", "--json").json]
    assert sorted(set(kinds)) == ["batch", "endpoint", "training"]
    assert {one["kind"] for one in run("ls", "--kind", "batch", "--json").json} == {"batch"}
    refused = run("destroy", "--all")
    assert refused.code == 2
    assert "--yes" in refused.err
    removed = run("destroy", "--all", "--yes", "--json").json["removed"]
    assert len(removed) == len(kinds)
    assert run("ls", "--json").json == []


def test_destroy_says_what_it_removed(run: Run) -> None:
    first, second = (run(*TRAIN, "--detach").out.strip() for _ in range(2))
    assert run("destroy", first, "--yes").out == f"removed {first}\n"
    assert [one["uri"] for one in run("ls", "--json").json] == [second]


def test_ls_refresh_asks_the_provider(run: Run) -> None:
    uri = run(*TRAIN, "--detach").out.strip()
    assert run("ls", "--json").json[0]["state"] in {"QUEUED", "RUNNING"}
    run("wait", uri)
    assert run("ls", "--refresh", "--json").json[0]["state"] == "SUCCEEDED"
    assert uri in run("ls").out


def test_logs_and_status(run: Run, fake: Callable[[str], None]) -> None:
    fake('[training.default]\nlogs = ["one", "two"]\n')
    uri = run(*TRAIN, "--detach").out.strip()
    followed = run("logs", "-f", uri).out.splitlines()
    assert [line for line in followed if line in {"one", "two"}] == ["one", "two"]
    lines = run("logs", uri, "--json").lines
    assert [line["text"] for line in lines] == followed
    assert run("logs", uri, "--since", "1d").out.splitlines() == followed
    shown = run("status", uri)
    assert "state:    SUCCEEDED" in shown.out
    assert run("wait", uri, "--json").json["status"]["state"] == "SUCCEEDED"
    assert run("cancel", uri).out == f"{uri} SUCCEEDED\n"  # harmless after the end


def test_a_name_that_ls_lists_stands_for_its_handle(run: Run, fake: Callable[[str], None]) -> None:
    uri = run(*TRAIN, "--name", "one", "--detach").out.strip()
    assert run("wait", "one").out == f"{uri} SUCCEEDED\n"
    endpoint = run("deploy", uri, "--name", "one", "--detach").out.strip()
    several = run("status", "one")
    assert several.code == 2
    assert f"Say which: {uri}  {endpoint}" in several.err
    assert run("destroy", endpoint, "--yes").code == 0
    assert run("destroy", "one", "--yes").out == f"removed {uri}\n"


def test_an_endpoints_log_and_wait(run: Run) -> None:
    job = run(*TRAIN, "--json").json["id"]
    uri = run("deploy", job, "--name", "quick", "--detach").out.strip()
    assert run("wait", uri).out == f"{uri} RUNNING\n"
    assert "in service" in run("logs", uri).out
    refused = run("cancel", uri)
    assert refused.code == 2
    assert "cloudai destroy" in refused.err


def test_keys_of_the_profile(run: Run, work: Path) -> None:
    run("train", "--source", "src", "--entry", "train.py", "--set", "home=elsewhere")
    assert (work / "elsewhere" / "ledger.db").exists()
    assert run("ls", "--json").json == []
    assert len(run("ls", "--json", "--set", "home=elsewhere").json) == 1
    models = '--set=models={"smart": "any-model"}'
    assert run("chat", "hi", "--model", "smart", models, "--json").json["model"] == "any-model"


@pytest.mark.slow
def test_a_real_job_on_this_machine(run: Run, work: Path) -> None:
    pytest.importorskip("torch")
    (work / "src" / "real.py").write_text(
        "import os, pathlib, sys\n"
        "print('epoch=1 loss=0.5')\n"
        "model = pathlib.Path(os.environ['CLOUDAI_MODEL_DIR'])\n"
        "(model / 'handler.py').write_text('def load(d): return int((d / \"n\").read_text())\\n'\n"
        "    'def predict(m, inputs, params): return [m * x for x in inputs]\\n')\n"
        "(model / 'n').write_text(sys.argv[-1].removeprefix('--n='))\n"
    )
    local = ("--profile", "local")
    job = run(*local, "train", "--source", "src", "--entry", "real.py", "--hp", "n=3", "--json")
    assert job.code == 0, job.err
    assert "epoch=1 loss=0.5" in job.err
    uri = job.json["id"]
    try:
        deployed = run(*local, "deploy", uri, "--name", "triple", "--workers", "1")
        assert deployed.code == 0, deployed.err
        assert run(*local, "predict", "triple", "1", "2").lines == [3, 6]
        (work / "in.jsonl").write_text("1\n2\n")
        assert run(*local, "batch", "in.jsonl", "out.jsonl", "--model", uri).code == 0
        assert (work / "out.jsonl").read_text() == "3\n6\n"
    finally:
        assert run(*local, "destroy", "--all", "--yes").code == 0
    assert run(*local, "ls", "--json").json == []


@pytest.mark.slow
def test_serve_answers_until_it_is_told_to_stop(work: Path) -> None:
    pytest.importorskip("httptools")
    (work / "model").mkdir()
    (work / "model" / "handler.py").write_text(
        "def load(d): return 2\ndef predict(m, inputs, params): return [m * x for x in inputs]\n"
    )
    command = [*COMMAND, "serve", "model", "--port", "0", "--workers", "1"]
    log = work / "log"
    with log.open("wb") as file, subprocess.Popen(command, cwd=work, stderr=file) as process:
        try:
            deadline = time.monotonic() + 60
            while (told := re.search(r'"url": ?"http://[^"]*:(\d+)"', log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            request = urllib.request.Request(
                f"http://127.0.0.1:{told[1]}/predict",
                data=b'{"inputs": [1, 2]}',
                headers={"Content-Type": "application/json"},
            )
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=5) as answer:
                        assert json.load(answer)["outputs"] == [2, 4]
                    break
                except OSError:  # not yet there, or 503 while it loads
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) in {0, 130, -signal.SIGINT}


def test_serve_refuses_what_is_not_there(run: Run, work: Path) -> None:
    done = run("serve", "gone")
    assert done.code == 2
    assert "model='gone' is not a directory" in done.err
    done = run("serve", ".", "--handler", "gone.py")
    assert done.code == 2
    assert "handler='gone.py' is not a file" in done.err
    done = run("serve", ".", "--target", "mars")
    assert done.code == 2
    assert "--target='mars' is no target. Use one of sagemaker, " in done.err


def test_package_writes_a_whole_build_context(run: Run, work: Path) -> None:
    (work / "model").mkdir(exist_ok=True)
    (work / "model" / "handler.py").write_text("def load(d): ...\ndef predict(m, i): return i\n")
    arguments = ("package", "model", "--image", "registry/digits:1", "--output", "context")
    done = run(*arguments, "--json")
    assert done.code == 0, done.err
    made = work / "context"
    assert set(done.json["files"]) == {path.name for path in made.iterdir()} - {"model"}
    assert (made / "model" / "handler.py").is_file()
    assert "USER" in (made / "Dockerfile").read_text()
    assert "name: digits" in (made / "kubernetes.yaml").read_text()
    again = run(*arguments)
    assert again.code == 2
    assert "not an empty folder" in again.err


def test_what_package_wrote_is_deployed(run: Run, work: Path) -> None:
    """As `package` says, and from a file of another folder, whose paths are relative to it."""
    pytest.importorskip("google.cloud.storage", reason="the vertex extra")
    (work / "model").mkdir()
    (work / "model" / "handler.py").write_text("def load(d): ...\ndef predict(m, i): return i\n")
    image = "europe-docker.pkg.dev/p/r/digits:1"
    said = run("package", "model", "--image", image, "--output", "context")
    (line,) = [one for one in said.out.splitlines() if one.startswith("deploy it with: cloudai ")]
    vertex = ("--plan", "--json", "--provider", "vertex", "--set", "project=p", "--set", "bucket=b",
              "--set", "location=europe-west4")  # fmt: skip
    (work / "specs").mkdir()
    (work / "specs" / "digits.toml").write_text(
        'name = "digits"\nimage = "../context"\n[[variants]]\nmodel = "../model"\n'
    )
    for arguments in (
        line.removeprefix("deploy it with: cloudai ").split(),
        ["deploy", "specs/digits.toml"],
    ):
        done = run(*arguments, *vertex)
        assert done.code == 0, done.err
        assert done.json["requests"][0]["body"]["model"]["containerSpec"]["imageUri"] == image
    done = run("deploy", "model", "--name", "digits", "--image", "./model", *vertex)
    assert done.json["violations"][0]["field"] == "image"


def test_package_refuses_before_it_writes(run: Run, work: Path) -> None:
    (work / "model").mkdir(exist_ok=True)
    done = run(
        "package", "model", "--image", "x:1", "--output", "context", "--requirement", "numpy"
    )
    assert done.code == 2
    assert "numpy" in done.err
    assert not (work / "context").exists()
