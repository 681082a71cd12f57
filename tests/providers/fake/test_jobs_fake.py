"""The fake's jobs, endpoints and clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloudai import BatchTransform, Metric, Outputs, Resources, Retry, TrainingJob
from cloudai.errors import (
    CapacityError,
    ConfigError,
    EndpointError,
    HandlerError,
    InvalidRequest,
    JobExpired,
    JobFailed,
    JobPartial,
    JobPreempted,
)
from cloudai.providers.fake._course import course
from cloudai.providers.fake._script import Fate
from cloudai.testing import FakeScript
from cloudai.types import Model, State


@pytest.fixture
def script(tmp_path: Path) -> FakeScript:
    return FakeScript(tmp_path / "home")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/train.py").write_text("raise SystemExit('never run')\n")
    return tmp_path / "source"


def job(source: Path, **spec: Any) -> TrainingJob:
    return TrainingJob(source=str(source), entry="train.py", **spec)


def test_every_state_on_a_clock_that_stands_still(script: FakeScript, source: Path) -> None:
    script.freeze().fate(queued=10, starting=20, running=30)
    handle = script.client().training.submit(job(source))
    seen = []
    for seconds in (0, 9, 2, 18, 2, 28, 2):
        script.advance(seconds)
        seen.append(str(handle.state))
    assert seen == [
        "QUEUED", "QUEUED", "STARTING", "STARTING", "RUNNING", "RUNNING", "SUCCEEDED",
    ]  # fmt: skip
    status = handle.status
    assert status.started_at == pytest.approx(status.created_at + 30)
    assert status.ended_at == pytest.approx(status.created_at + 60)


def test_the_model_directory(script: FakeScript, source: Path, tmp_path: Path) -> None:
    spec = job(
        source,
        hyperparameters={"epochs": 3},
        metrics=(Metric(name="loss", regex="(.)"), Metric(name="accuracy", regex="(.)")),
    )
    handle = script.fate(metrics={"accuracy": [0.5, 0.9]}).client().training.submit(spec)
    handle.wait(10)
    model = Path(handle.model.uri)
    manifest = json.loads((model / "cloudai-fake.json").read_text())
    assert manifest["hyperparameters"] == {"epochs": 3}
    assert json.loads((model / "metrics.json").read_text())["accuracy"] == [0.5, 0.9]
    assert [p.value for p in handle.metrics["accuracy"]] == [0.5, 0.9]
    assert [p.value for p in handle.metrics["loss"]] == [1, 0.5, pytest.approx(1 / 3)]
    handle.delete()
    assert not model.exists()
    outputs = Outputs(model=str(tmp_path / "kept"))
    kept = script.client().training.submit(job(source, outputs=outputs))
    kept.wait(10)
    kept.delete()
    assert (tmp_path / "kept/metrics.json").exists(), "the caller's own place was removed"


@pytest.mark.parametrize(
    ("fate", "error"),
    [
        ({"state": "FAILED", "exit_code": 7, "logs": ["boom"]}, JobFailed),
        ({"state": "PREEMPTED"}, JobPreempted),
        ({"state": "EXPIRED"}, JobExpired),
        ({"state": "PARTIAL"}, JobPartial),
    ],
)
def test_scripted_ends(
    script: FakeScript, source: Path, fate: dict[str, Any], error: type[Exception]
) -> None:
    handle = script.fate(**fate).client().training.submit(job(source))
    with pytest.raises(error) as caught:
        handle.wait(10)
    if error is JobFailed:
        assert caught.value.exit_code == 7  # type: ignore[attr-defined]
        assert "boom" in caught.value.log_tail  # type: ignore[attr-defined]


def test_preemptions_and_retries(script: FakeScript, source: Path) -> None:
    train = script.client().training
    resumed = train.submit(
        job(source, native={"fake": {"preemptions": 2}}, retry=Retry(max=2))
    ).wait(10)
    assert (resumed.state, resumed.restarts) == (State.SUCCEEDED, 2)
    lost = train.submit(job(source, native={"fake": {"preemptions": 2}}, retry=Retry(max=1)))
    assert lost.wait(10, check=False).state is State.PREEMPTED
    assert lost.status.restarts == 1


def test_the_course_adds_up() -> None:
    fate = Fate(queued=1, starting=2, running=12, preemptions=2)
    way = course(fate, 100.0, None, None, Retry(max=5))
    assert sum(end - start for start, end in way.running) == pytest.approx(12)
    assert way.end.start == pytest.approx(100 + 1 + 3 * 2 + 12)
    assert way.moment(1.0) == pytest.approx(way.end.start)
    cut = course(fate, 100.0, None, 5.0, Retry(max=5))
    assert cut.end.state is State.TIMED_OUT
    assert sum(end - start for start, end in cut.running) == pytest.approx(5)
    assert cut.moment(1.0) is None
    early = course(fate, 100.0, 100.5, None, Retry())
    assert [phase.state for phase in early.phases] == [
        State.QUEUED,
        State.STOPPING,
        State.CANCELLED,
    ]
    late = course(Fate(running=1), 100.0, 500.0, None, Retry())
    assert late.end.state is State.SUCCEEDED


def test_no_capacity(script: FakeScript, source: Path) -> None:
    script.fail("training.submit", CapacityError)
    client = script.client()
    with pytest.raises(CapacityError):
        client.training.submit(job(source, resources=Resources(accelerator="L4:1")))
    assert client.resources() == []
    assert client.training.list() == []


def test_speed(script: FakeScript, source: Path) -> None:
    slow = job(source, native={"fake": {"running": 100, "queued": 100}})
    handle = script.client(speed=1e6).training.submit(slow)
    assert handle.wait(10).state is State.SUCCEEDED
    with pytest.raises(ConfigError, match="speed"):
        script.client(speed=0).training.submit(slow)


def test_a_bad_fate_is_refused_at_once(script: FakeScript, source: Path) -> None:
    client = script.client()
    with pytest.raises(InvalidRequest, match="native"):
        client.training.submit(job(source, native={"fake": {"runing": 1}}))
    assert client.resources() == []
    with pytest.raises(ConfigError, match="runing"):
        script.fate(runing=1)


def test_many_processes_at_once_make_one_job(script: FakeScript, source: Path) -> None:
    code = (
        "import sys, cloudai\n"
        "c = cloudai.Client(provider='fake', home=sys.argv[1])\n"
        "j = c.training.submit(cloudai.TrainingJob(source=sys.argv[2], entry='train.py',\n"
        "    name='one', idempotency_key='k', metrics=()))\n"
        "j.wait(20); print(j.id)\n"
    )
    given = [sys.executable, "-c", code, str(script.home), str(source)]

    def run() -> str:
        return subprocess.run(given, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(3) as pool:
        told = {future.result() for future in [pool.submit(run) for _ in range(3)]}
    assert len(told) == 1
    assert len(script.client().training.list()) == 1


def test_a_fork_finds_the_same_world(script: FakeScript, source: Path) -> None:
    client = script.client()
    handle = client.training.submit(job(source))
    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside threads warns; what happens then is the test.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            ok = client.training.attach(handle.id).wait(10).state is State.SUCCEEDED
            ok = ok and client.chat.create("hello").text == "hello"
        except BaseException:
            ok = False
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_endpoints_of_a_fake_model(script: FakeScript, source: Path, tmp_path: Path) -> None:
    client = script.client()
    trained = client.training.submit(job(source))
    trained.wait(10)
    handler = tmp_path / "handler.py"
    handler.write_text("def load(d):\n    1 / 0\ndef predict(m, i, p):\n    return i\n")
    endpoint = client.endpoints.deploy(trained.model, name="e", handler=str(handler))
    assert endpoint.predict([1, {"a": 2}]) == [1, {"a": 2}]
    assert (endpoint.state, endpoint.cost) == (State.RUNNING, 0.0)
    script.predict(["scripted"])
    assert endpoint.predict([1]) == ["scripted"]
    script.predict(["too", "many"])
    with pytest.raises(HandlerError, match="2 outputs for 1"):
        endpoint.predict([1])
    handler.write_text("nothing = 1\n")
    with pytest.raises(InvalidRequest, match="load"):
        client.endpoints.deploy(trained.model, name="f", handler=str(handler))


def test_scripted_endpoints(tmp_path: Path) -> None:
    script = FakeScript(tmp_path).load({"endpoints": {"output": 7}})
    endpoint = script.client().endpoints.deploy(Model(uri="s3://bucket/model"), name="e")
    assert endpoint.predict([1, 2]) == [7, 7]
    script.load({"endpoints": {"state": "FAILED", "reason": "no quota"}})
    with pytest.raises(EndpointError, match="no quota"):
        script.client().endpoints.deploy("s3://bucket/model", name="f")


def test_batch_progress_follows_the_clock(script: FakeScript, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\nb\nc\nd\n")
    output = tmp_path / "out.jsonl"
    script.freeze().fate("batch", queued=0, starting=0, running=100)
    handle = script.client().batch.submit(
        BatchTransform(input=str(tmp_path / "in.txt"), output=str(output), chat="")
    )
    script.advance(51)
    assert handle.progress == (2, 4)
    assert not output.exists()
    script.advance(50)
    assert handle.progress == (4, 4)
    assert handle.state is State.SUCCEEDED
    lines = [json.loads(line)["text"] for line in output.read_text().splitlines()]
    assert lines == ["a", "b", "c", "d"]
