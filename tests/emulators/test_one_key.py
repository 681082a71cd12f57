"""K1, K2: one key is one job, one endpoint and one batch, whoever asks at the same time: threads,
processes, and machines (homes of their own); also where callers are killed.

RIVALS=8x8x50 (processes × threads × keys) runs the whole: each process lives on, and each of its
threads goes through all keys in an order of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.testing.clouds import CLOUDS, apply, emulated, environment

for name in ("moto", "openai", "google.genai", "azure.ai.ml"):
    pytest.importorskip(name)

PROCESSES, THREADS, KEYS = map(int, os.environ.get("RIVALS", "3x3x3").split("x"))

BATCHES: dict[str, list[dict[str, Any]]] = {
    "aws": [
        {"model": "MODEL", "framework": "pytorch==2.6"},  # a transform job
        {"chat": "anthropic.claude-sonnet-4-5-20250929-v1:0", "params": {"max_tokens": 8}},
        {"embeddings": "amazon.titan-embed-text-v2:0", "native": {"aws": {"service": "client"}}},
    ],
    "azure": [
        {"model": "MODEL", "framework": "pytorch"},  # Azure ML
        {"chat": "batches", "params": {"max_tokens": 8}},
        {"embeddings": "text-embedding-3-small"},  # a worker of ours
    ],
    "vertex": [
        {"model": "MODEL", "framework": "pytorch"},
        {"chat": "gemini-3.5-flash", "params": {"max_tokens": 8}},
    ],
    "local": [{"model": "MODEL"}],
}
"""The kinds of batches of each place, those of a worker on this machine last."""

RIVAL = """
import json, os, random, sys, threading, traceback
import cloudai
provider, source, model, batches, threads, keys, seed = sys.argv[1:]
client = cloudai.Client(provider=provider)
barrier = threading.Barrier(int(threads))
out = threading.Lock()
kinds = json.loads(batches.replace("MODEL", model))

def batch(key):
    about = {"input": f"{source}/in.jsonl", "output": f"{source}/../out-{key}.jsonl"}
    about |= {"idempotency_key": f"b{key}", "on_error": "skip"}
    return cloudai.BatchTransform(**about, **kinds[key % len(kinds)])

def handle(kind, key):
    if kind == "training":
        job = cloudai.TrainingJob(source=source, entry="train.py", idempotency_key=f"k{key}")
        return client.training.submit(job)
    if kind == "batch":
        return client.batch.submit(batch(key))
    return client.endpoints.deploy(
        model, name=f"house-{key}", idempotency_key=f"e{key}", wait=False,
        framework="pytorch==2.6" if provider == "aws" else "pytorch",
    )

def ask(number):
    dice = random.Random(f"{seed}-{number}")
    todo = [(k, key) for key in range(int(keys)) for k in ("training", "endpoint", "batch")]
    dice.shuffle(todo)
    barrier.wait()
    try:
        for kind, key in todo:
            id = handle(kind, key).id
            with out:
                print(kind, key, id, flush=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)

many = [threading.Thread(target=ask, args=(n,)) for n in range(int(threads))]
[one.start() for one in many]
[one.join() for one in many]
print("done", flush=True)
"""


@pytest.fixture(params=[*CLOUDS, "local"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[str]:
    """A cloud, or this machine, in the environment."""
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "home"))
    with ExitStack() as stack:
        if request.param in CLOUDS:
            cloud = stack.enter_context(emulated(request.param))
            apply(
                environment([cloud]),
                monkeypatch.setenv,
                lambda name: monkeypatch.delenv(name, False),
            )
            if request.param == "azure":
                cloud.emulator.deploy("batches", model="gpt-5.1", sku="GlobalBatch", any_use=False)
        yield request.param


@pytest.fixture
def work(tmp_path: Path) -> tuple[str, str]:
    source, model = tmp_path / "source", tmp_path / "model"
    source.mkdir()
    model.mkdir()
    (source / "train.py").write_text("print('trained')\n")
    # Bedrock takes 100 lines and more.
    (source / "in.jsonl").write_text('"a line"\n' * 100)
    (model / "handler.py").write_text(
        "def load(folder): return None\ndef predict(model, inputs, params): return inputs\n"
    )
    return str(source), str(model)


def start(
    place: str, work: tuple[str, str], seed: int, folder: Path, keys: int, home: Path | None
) -> subprocess.Popen[bytes]:
    env = dict(os.environ)
    if home is not None:
        env[f"CLOUDAI_{place.upper()}_HOME"] = str(home)
    kinds = BATCHES[place]
    if home is not None and len(kinds) > 2:
        kinds = kinds[:2]  # a worker of this machine is another machine's rival by its output alone
    argv = [sys.executable, "-c", RIVAL, place, *work, json.dumps(kinds)]
    argv += [str(THREADS), str(keys), str(seed)]
    with (folder / f"{seed}.out").open("wb") as out, (folder / f"{seed}.err").open("wb") as err:
        return subprocess.Popen(argv, stdout=out, stderr=err, env=env)


@pytest.mark.parametrize("how", ["together", "killed", "machines"])
def test_k1_one_key_is_one_job_one_endpoint_and_one_batch(
    place: str, work: tuple[str, str], tmp_path: Path, how: str
) -> None:
    if place == "local" and how == "machines":
        pytest.skip("a home of this machine is a place of its own")
    keys = min(KEYS, 2) if place == "local" and "RIVALS" not in os.environ else KEYS
    dice = random.Random(7)
    folder = tmp_path / "told"
    folder.mkdir()

    def home(seed: int) -> Path | None:
        return tmp_path / f"home-{seed}" if how == "machines" else None

    rivals = {n: start(place, work, n, folder, keys, home(n)) for n in range(PROCESSES)}
    kills = PROCESSES if how == "killed" else 0
    fresh = PROCESSES
    while rivals:
        for seed, process in list(rivals.items()):
            if process.poll() is not None:
                del rivals[seed]
                if process.returncode == -9:  # another caller in its place
                    rivals[fresh] = start(place, work, fresh, folder, keys, home(fresh))
                    fresh += 1
                else:
                    error = (folder / f"{seed}.err").read_text()
                    assert process.returncode == 0, error[-12000:]
                    assert (folder / f"{seed}.out").read_text().endswith("done\n")
        began = [seed for seed in rivals if (folder / f"{seed}.out").stat().st_size]
        if kills and began and dice.random() < 0.3:
            rivals[dice.choice(began)].kill()
            kills -= 1
        time.sleep(0.02)
    told: dict[tuple[str, str], set[str]] = {}
    for file in folder.glob("*.out"):
        for line in file.read_text().splitlines():
            if line.count(" ") == 2:  # a killed one's last may be cut
                kind, key, id = line.split()
                told.setdefault((kind, key), set()).add(id)
    assert len(told) == 3 * keys
    assert {len(ids) for ids in told.values()} == {1}, told
    client = cloudai.Client(provider=place)
    lists = {
        "training": client.training.list,
        "endpoint": client.endpoints.list,
        "batch": client.batch.list,
    }
    for kind, listed in lists.items():
        mine = sorted(next(iter(ids)) for (one, _), ids in told.items() if one == kind)
        found = [one.id for one in listed()]
        assert len(mine) == keys, kind
        assert len(found) == keys, (kind, found, mine)
    for ids in told.values():
        client.destroy(next(iter(ids)))
    assert [listed() for listed in lists.values()] == [[], [], []]
    if how != "machines":
        assert [row for row in client.resources() if row.uri is None] == []
    print(json.dumps({"place": place, "how": how, "processes": fresh, "keys": keys}))
