"""``cloudai serve NAME``: local models by name, as a real server over loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, Run
from platformdirs import user_data_path

from cloudai.engine import catalog, gguf
from cloudai.errors import ConfigError

HANDLER = "def load(d): return 2\ndef predict(m, inputs, params): return [m * x for x in inputs]\n"


@contextmanager
def serving(work: Path, *arguments: str, **env: str) -> Generator[str]:
    """The address of ``cloudai serve`` with these arguments, once it is ready."""
    pytest.importorskip("uvicorn")
    log = work / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--workers", "1", *arguments],
            cwd=work, stderr=file, env={**os.environ, **env},
        )  # fmt: skip
    try:
        end = time.monotonic() + 200
        base = ""
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            for line in log.read_text().splitlines():
                if '"event":"listening"' in line:
                    base = json.loads(line)["url"]
            if '"event":"ready"' in log.read_text():
                break
            time.sleep(0.05)
        yield base
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_the_embedded_models_by_name(work: Path) -> None:
    try:
        chat, _ = (
            catalog.find(None, name, home=work) for name in ("smollm2-135m", "all-minilm-l6-v2")
        )
    except ConfigError as error:
        pytest.skip(str(error))
    # Where `cloudai local setup` has converted the chat model; else it is converted here.
    home = user_data_path("cloudai", appauthor=False)
    if not gguf.ready(chat.key, home / "models"):
        home = work / "home"
    given = ("all-minilm-l6-v2", "talk=SmolLM2-135m")
    with serving(work, *given, CLOUDAI_HOME=str(home)) as base:
        assert ask(f"{base}/v1/models")["models"] == ["all-minilm-l6-v2", "talk"]
        texts = ["A cat sat on the mat.", "A kitten was sitting on a rug.", "Stocks fell today."]
        told = ask(f"{base}/v1/embeddings", {"model": "all-minilm-l6-v2", "input": texts})
        a, b, c = (one["embedding"] for one in told["data"])
        assert len(a) == 384

        def alike(x: list[float], y: list[float]) -> float:
            return sum(p * q for p, q in zip(x, y, strict=True))

        assert alike(a, b) > 0.5 > alike(a, c)
        question = [{"role": "user", "content": "What is the capital of France?"}]
        body = {"model": "talk", "messages": question, "max_tokens": 16, "temperature": 0}
        said = ask(f"{base}/v1/chat/completions", body)
        assert "Paris" in said["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_a_model_of_the_home_a_logical_name_and_a_directory(work: Path) -> None:
    """A folder in <home>/models, by its name and by the profile's name for it; a directory goes
    before a model."""
    home = work / "home"
    mine = home / "models" / "mine-1.5"
    mine.mkdir(parents=True)
    (mine / "handler.py").write_text(HANDLER)
    (mine / "config.json").write_text("{}")
    (work / "cloudai.toml").write_text(
        '[profiles.dev]\nprovider = "local"\n[profiles.dev.models]\nsmart = "mine-1.5"\n'
    )
    shutil.copytree(mine, work / "all-minilm-l6-v2")
    (work / "all-minilm-l6-v2" / "handler.py").write_text(HANDLER.replace("return 2", "return 3"))
    given = ("-p", "dev", "mine-1.5", "smart", "three=all-minilm-l6-v2")
    with serving(work, *given, CLOUDAI_HOME=str(home)) as base:
        assert ask(f"{base}/v1/models")["models"] == ["mine-1.5", "smart", "three"]
        for name, answer in (("mine-1.5", 10), ("smart", 10), ("three", 15)):
            told = ask(f"{base}/v1/models/{name}:predict", {"instances": [5]})
            assert told == {"predictions": [answer]}
    given = ("-p", "dev", "mine-1.5", "--variant", "b=smart", "--shadow", "c=smart")
    with serving(work, *given, CLOUDAI_HOME=str(home)) as base:
        (served,) = ask(f"{base}/models")["models"]
        assert [one["name"] for one in served["variants"]] == ["main", "b", "c"]
        assert {one["path"] for one in served["variants"]} == {str(mine)}


def test_a_name_that_is_none_lists_what_there_is(run: Run, work: Path) -> None:
    home = work / "home"
    (home / "models" / "mine").mkdir(parents=True)
    (home / "models" / "mine" / "config.json").write_text("{}")
    done = run("serve", "smollm", CLOUDAI_HOME=str(home))
    assert done.code == 2
    assert "model='smollm' is not a directory, and there is no local model 'smollm'" in done.err
    assert "Did you mean 'smollm2-135m'?" in done.err
    assert "There are: smollm2-135m, all-minilm-l6-v2, mine, or the path" in done.err
    done = run("serve", "mine", "--shadow", "b=gone", CLOUDAI_HOME=str(home))
    assert done.code == 2
    assert "--shadow='gone' is not a directory" in done.err
