"""Local batch transforms: the runner under a supervisor, killed and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from jobtools import CALL, ended, profile, run, supervisor, text, until

import cloudai
from cloudai._core.batches import spool
from cloudai.errors import Conflict, InvalidRequest, UnsupportedByProvider
from cloudai.providers.local.batch import LocalBatch
from cloudai.providers.local.training import LocalTraining
from cloudai.types import BatchTransform, Resources, Retry, SecretRef, State, TrainingJob

DOUBLE = """
def load(model_dir):
    return int((model_dir / "factor").read_text())

def predict(model, inputs, params):
    return [model * item["i"] + params.get("plus", 0) for item in inputs]
"""

SLOW = """
import os, time
def load(model_dir):
    return str(model_dir)
def predict(model, inputs):
    with open(os.environ["SEEN"], "a") as file:
        file.write("".join(f"{item['i']} " for item in inputs))
    time.sleep(0.08)
    return [item["i"] for item in inputs]
"""


@pytest.fixture
def batch() -> LocalBatch:
    return LocalBatch(profile())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "factor").write_text("2")
    (folder / "handler.py").write_text(DOUBLE)
    return folder


def numbers(path: Path, count: int) -> Path:
    path.write_text("".join(f'{{"i": {i}}}\n' for i in range(count)))
    return path


def transform(name: str, folder: Path, **fields: Any) -> BatchTransform:
    fields.setdefault("idempotency_key", f"key-{name}")
    fields.setdefault("input", str(folder / "in.jsonl"))
    fields.setdefault("output", str(folder / "out.jsonl"))
    if not {"chat", "embeddings", "endpoint"} & set(fields):
        fields.setdefault("model", str(folder / "model"))
    return BatchTransform(name=name, **fields)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_handler_over_json_lines(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    numbers(tmp_path / "in.jsonl", 200)
    status = run(batch, transform("plain", tmp_path, params={"plus": 1}))
    assert lines(tmp_path / "out.jsonl") == [2 * i + 1 for i in range(200)]
    assert status.outputs == {"output": str(tmp_path / "out.jsonl")}
    assert (status.progress, status.errors, status.cost) == ((200, 200), 0, 0.0)
    assert text(batch, "plain")[-1].startswith("200 lines, 0 failed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "model", "out.jsonl"]


def test_a_handler_of_its_own_and_csv(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def load(model_dir): return None\n"
        "def predict(model, inputs): return [{'len': len(row['t'])} for row in inputs]\n"
    )
    (tmp_path / "in.csv").write_text("t\nab\nabc\n")
    spec = transform(
        "csv",
        tmp_path,
        input=str(tmp_path / "in.csv"),
        output=str(tmp_path / "out.csv"),
        handler=str(tmp_path / "mine.py"),
    )
    run(batch, spec)
    assert (tmp_path / "out.csv").read_text() == "len\n2\n3\n"


def test_bad_lines_make_it_partial(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"i": 1}\nnot json\n{"x": 1}\n{"i": 4}\n')
    status = run(batch, transform("dead", tmp_path, on_error="dead_letter"), State.PARTIAL)
    assert lines(tmp_path / "out.jsonl") == [2, None, None, 8]
    assert status.errors == 2
    assert status.reason == "2 of 4 lines failed"
    assert [error["line"] for error in lines(Path(status.outputs["errors"]))] == [2, 3]
    spec = transform("strict", tmp_path, overwrite=True)
    status = run(batch, spec, State.FAILED)
    assert "line 2 of in.jsonl: not JSON" in str(status.reason)
    assert status.exit_code == 1


def test_a_handler_with_the_wrong_length(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    (model / "handler.py").write_text(
        "def load(d): return 0\ndef predict(m, inputs, params): return inputs[1:]\n"
    )
    numbers(tmp_path / "in.jsonl", 10)
    status = run(batch, transform("short", tmp_path, on_error="skip"), State.FAILED)
    assert "9 outputs for 10 inputs" in str(status.reason)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_corrupt_model_tells_the_handlers_own_error(
    batch: LocalBatch, tmp_path: Path, model: Path
) -> None:
    (model / "factor").write_text("two")
    numbers(tmp_path / "in.jsonl", 1)
    status = run(batch, transform("corrupt", tmp_path), State.FAILED)
    assert "load raised ValueError" in str(status.reason)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": "/does/not/exist.jsonl"}, "input", "is not a file"),
    ({"model": "/does/not/exist"}, "model", "is not a directory"),
    ({"handler": "/does/not/exist.py"}, "handler", "is not a file"),
    ({"requirements": "/does/not/exist.txt"}, "requirements", "is not a file"),
    ({"chat": "", "params": {"max_token": 1}}, "params.max_token", "max_tokens"),
    ({"resources": Resources(accelerator="H9000:8")}, "resources.accelerator", "is not here"),
    (
        {"secrets": {"A": SecretRef(store="env", name="NOT_SET_ANYWHERE")}},
        "secrets.A",
        "is not set",
    ),
]


@pytest.mark.parametrize(("fields", "field", "message"), BAD, ids=[b[1] for b in BAD])
def test_what_cannot_run_is_refused(
    batch: LocalBatch,
    tmp_path: Path,
    model: Path,
    fields: dict[str, Any],
    field: str,
    message: str,
) -> None:
    numbers(tmp_path / "in.jsonl", 1)
    spec = transform("bad", tmp_path, **fields)
    with pytest.raises(InvalidRequest, match=message) as caught:
        batch.submit(spec, CALL)
    assert caught.value.field == field
    assert [violation.field for violation in batch.plan(spec).violations] == [field]
    assert batch.list(CALL) == []


def test_uris_and_existing_outputs_are_refused(
    batch: LocalBatch, tmp_path: Path, model: Path
) -> None:
    with pytest.raises(UnsupportedByProvider, match="Download it first"):
        batch.submit(transform("uri", tmp_path, input="s3://bucket/in.jsonl"), CALL)
    numbers(tmp_path / "in.jsonl", 1)
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(Conflict, match="overwrite=True"):
        batch.submit(transform("exists", tmp_path), CALL)
    assert not batch.plan(transform("exists", tmp_path)).ok
    run(batch, transform("replace", tmp_path, overwrite=True))
    assert lines(tmp_path / "out.jsonl") == [0]


def test_a_name_is_one_jobs_whatever_its_kind(
    batch: LocalBatch, tmp_path: Path, model: Path
) -> None:
    numbers(tmp_path / "in.jsonl", 1)
    run(batch, transform("taken", tmp_path))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "t.py").touch()
    spec = TrainingJob(name="taken", source=str(tmp_path / "src"), entry="t.py")
    with pytest.raises(Conflict, match="belongs to a batch job"):
        LocalTraining(profile()).submit(
            TrainingJob(name="taken", source=spec.source, entry="t.py", idempotency_key="k"), CALL
        )
    with pytest.raises(Conflict):
        batch.submit(transform("taken", tmp_path, idempotency_key="other", overwrite=True), CALL)


def test_plan_shows_the_losses(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    numbers(tmp_path / "in.jsonl", 1)
    plan = batch.plan(transform("plan", tmp_path, shards=4))
    assert plan.ok
    assert any("shards=4" in loss for loss in plan.dropped)
    assert plan.requests[0].body["retry"] == {"max": 2, "on": ["preempted"]}
    assert not (batch.home / "local.db").exists()


def worker(home: Path, id: str) -> int:
    """The worker's process id."""
    return until(lambda: _worker(supervisor(home, id)), f"the worker of {id}")


def _worker(parent: int) -> int:
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if any("batch_worker" in part for part in child.cmdline()):
                return child.pid
    return 0


def test_a_killed_worker_is_started_again(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    (model / "handler.py").write_text(SLOW)
    numbers(tmp_path / "in.jsonl", 600)
    seen = tmp_path / "seen"
    spec = transform("again", tmp_path, batch_size=10, env={"SEEN": str(seen)})
    id = batch.submit(spec, CALL)
    until(lambda: (batch.status(id, CALL).progress or (0,))[0] >= 100, "some progress")
    os.kill(worker(batch.home, id), signal.SIGKILL)
    status = ended(batch, id)
    assert (status.state, status.restarts) == (State.SUCCEEDED, 1)
    assert lines(tmp_path / "out.jsonl") == list(range(600))
    called = [int(i) for i in seen.read_text().split()]
    assert len(called) - len(set(called)) <= 10  # the chunk that was under way, at most


def test_cancelled_then_submitted_again_goes_on(
    batch: LocalBatch, tmp_path: Path, model: Path
) -> None:
    (model / "handler.py").write_text(SLOW)
    numbers(tmp_path / "in.jsonl", 600)
    seen = tmp_path / "seen"
    fields = {"batch_size": 10, "env": {"SEEN": str(seen)}}
    id = batch.submit(transform("go-on", tmp_path, **fields), CALL)
    until(lambda: (batch.status(id, CALL).progress or (0,))[0] >= 50, "some progress")
    batch.cancel(id, CALL)
    assert ended(batch, id).state is State.CANCELLED
    # The same key is the same submission, and that one was cancelled.
    assert batch.submit(transform("go-on", tmp_path, **fields), CALL) == id
    assert batch.status(id, CALL).state is State.CANCELLED
    fresh = transform("go-on", tmp_path, idempotency_key="second", **fields)
    status = run(batch, fresh)
    assert status.id == id
    assert lines(tmp_path / "out.jsonl") == list(range(600))
    called = [int(i) for i in seen.read_text().split()]
    assert len(called) - len(set(called)) <= 10


def test_delete_removes_the_progress(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    (model / "handler.py").write_text(SLOW)
    numbers(tmp_path / "in.jsonl", 600)
    spec = transform("drop", tmp_path, batch_size=10, env={"SEEN": str(tmp_path / "seen")})
    id = batch.submit(spec, CALL)
    until(lambda: (batch.status(id, CALL).progress or (0,))[0] >= 10, "some progress")
    assert spool.path_of(tmp_path / "out.jsonl").exists()
    batch.delete(id, CALL)
    batch.delete(id, CALL)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left in (
        ["in.jsonl", "model", "seen"],
        [".out.jsonl.cloudai-lock", "in.jsonl", "model", "seen"],
    )
    assert not list((batch.home / "jobs").iterdir())


def test_two_batches_on_one_output(batch: LocalBatch, tmp_path: Path, model: Path) -> None:
    (model / "handler.py").write_text(SLOW)
    numbers(tmp_path / "in.jsonl", 600)
    fields = {"batch_size": 10, "env": {"SEEN": str(tmp_path / "seen")}}
    id = batch.submit(transform("first", tmp_path, **fields), CALL)
    until(lambda: batch.status(id, CALL).progress, "the first")
    status = run(batch, transform("second", tmp_path, **fields), State.FAILED)
    assert "another batch is writing" in str(status.reason)
    assert ended(batch, id).state is State.SUCCEEDED


@pytest.mark.slow
def test_twenty_batches_killed_at_random_moments(
    batch: LocalBatch, tmp_path: Path, model: Path
) -> None:
    """kill -9 of the worker (odd numbers) or of the supervisor (even ones) of a batch of 600
    lines; a killed supervisor's batch is submitted again. 0 lost, 0 doubled, order kept."""
    (model / "handler.py").write_text(SLOW)
    numbers(tmp_path / "in.jsonl", 600)
    dice = random.Random(11)
    halfway = 0
    for group in range(4):
        specs: dict[str, BatchTransform] = {}
        for number in range(5 * group, 5 * group + 5):
            name = f"batch-{number}"
            specs[name] = transform(
                name,
                tmp_path,
                output=str(tmp_path / f"{name}.jsonl"),
                batch_size=20,
                env={"SEEN": str(tmp_path / f"{name}.seen")},
                retry=Retry(max=2),
            )
            batch.submit(specs[name], CALL)
        # Each is killed after so many lines, as the dice say.
        moments = {name: dice.randrange(0, 400) for name in specs}
        deadline = time.monotonic() + 120
        while moments and time.monotonic() < deadline:
            for name, lines_done in list(moments.items()):
                status = batch.status(name, CALL)
                if not status.state.done and (status.progress or (-1,))[0] < lines_done:
                    continue
                del moments[name]
                if status.state.done:  # it was faster than we
                    continue
                pid = supervisor(batch.home, name)
                if int(name.partition("-")[2]) % 2:
                    pid = _worker(pid)
                if pid > 0:
                    os.kill(pid, signal.SIGKILL)
                    halfway += not (tmp_path / f"{name}.jsonl").exists()
            time.sleep(0.005)
        assert not moments
        for name, spec in specs.items():
            status = ended(batch, name)
            if status.native_state == "lost":
                assert status.state is State.FAILED
                batch.submit(spec, CALL)
                status = ended(batch, name)
            assert status.state is State.SUCCEEDED, status
            assert lines(tmp_path / f"{name}.jsonl") == list(range(600))
            assert not spool.path_of(tmp_path / f"{name}.jsonl").exists()
            called = [int(i) for i in (tmp_path / f"{name}.seen").read_text().split()]
            assert len(called) - len(set(called)) <= 20
    assert halfway >= 15


def test_embeddings_and_chat_lines_that_are_wrong_fail_alone(
    batch: LocalBatch, tmp_path: Path
) -> None:
    """A line that holds no text is refused before any model is asked, so this needs none."""
    (tmp_path / "in.jsonl").write_text('{"text": 5}\n{"nothing": 1}\n')
    for name, fields in (("e", {"embeddings": ""}), ("c", {"chat": ""})):
        spec = transform(
            name, tmp_path, output=str(tmp_path / f"{name}.jsonl"), on_error="skip", **fields
        )
        status = run(batch, spec, State.PARTIAL)
        assert status.errors == 2
        assert lines(tmp_path / f"{name}.jsonl") == [None, None]


@pytest.mark.parametrize("by", ["name", "key"])
def test_k13_a_lost_batch_goes_on_when_it_is_submitted_again(
    tmp_path: Path, model: Path, by: str
) -> None:
    """Its supervisor was killed, and nobody has looked since."""
    (model / "handler.py").write_text(SLOW)
    numbers(tmp_path / "in.jsonl", 300)
    seen = tmp_path / "seen"
    client = cloudai.Client(provider="local")
    spec = BatchTransform(
        name="lost" if by == "name" else None,
        idempotency_key="one" if by == "key" else None,
        input=str(tmp_path / "in.jsonl"),
        output=str(tmp_path / "out.jsonl"),
        model=str(model),
        batch_size=10,
        env={"SEEN": str(seen)},
    )
    first = client.batch.submit(spec)
    until(lambda: first.progress[0] >= 50, "some progress")
    os.kill(supervisor(client.profile.home, first.native_id), signal.SIGKILL)
    again = cloudai.Client(provider="local").batch.submit(spec)
    assert again.id == first.id
    assert again.wait(60).state is State.SUCCEEDED
    assert lines(tmp_path / "out.jsonl") == list(range(300))
    called = [int(i) for i in seen.read_text().split()]
    assert len(called) - len(set(called)) <= 10, "it began anew"
    # One that has ended is the same one still, by its key.
    if by == "key":
        assert client.batch.submit(spec).state is State.SUCCEEDED
