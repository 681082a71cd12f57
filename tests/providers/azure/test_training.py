"""Fine-tuning: the files' checks, the request, a job's life, lost replies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import (
    InvalidRequest,
    JobCancelled,
    JobFailed,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.providers.azure.openai import training as azure_training
from cloudai.providers.azure.openai.wire import training as wire
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.types import Spot, State, TrainingJob

MODEL = "gpt-4o-mini-2024-07-18"


def example(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"q{number}"},
            {"role": "assistant", "content": "ä"},
        ]
    }


def examples(folder: Path, *replaced: tuple[int, str], count: int = 12) -> str:
    rows = [json.dumps(example(n)) for n in range(count)]
    for line, text in replaced:
        rows[line - 1] = text
    path = folder / "train.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


def job(train: str, **about: Any) -> TrainingJob:
    return TrainingJob(
        **{"kind": "finetune", "base_model": MODEL, "inputs": {"train": train}, **about}
    )


def test_a_job(azure: AzureEmulator, client: cloudai.Client, tmp_path: Path) -> None:
    handle = client.training.submit(job(examples(tmp_path), hyperparameters={"epochs": 2}))
    seen: list[State] = []
    status = handle.wait(30, on_update=lambda s: seen.append(s.state))
    assert status.state is State.SUCCEEDED
    assert ".ft-" in handle.model.uri
    assert status.cost == pytest.approx(12_000 * 3.0 / 1e6)
    assert [p.value for p in status.metrics["train_loss"]][:2] == [2.0, 1.0]
    assert len(status.metrics["valid_loss"]) == 1
    assert status.outputs["checkpoint-10"].endswith("ckpt-step-10")
    assert next(iter(handle.logs())).text.startswith("Job enqueued")
    uploaded = next(f for f in azure.cloud_state.files.values() if f.purpose == "fine-tune")
    assert uploaded.content.startswith(b"\xef\xbb\xbf")
    assert [p["step_number"] for p in azure_training.checkpoints(handle)] == [10, 5]


def test_logs_go_on_where_they_were(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    handle = client.training.submit(job(examples(tmp_path)))
    adapter: Any = client.training._bound.adapter
    call = client.training._bound.caller.call()
    azure.advance(1.5)
    first = adapter.logs(handle.native_id, None, call)
    again = adapter.logs(handle.native_id, first.cursor, call)
    azure.advance(10)
    rest = adapter.logs(handle.native_id, again.cursor, call)
    texts = [line.text for line in (*first.lines, *again.lines, *rest.lines)]
    assert len(texts) == 13
    assert len(set(texts)) == 13


def test_what_plan_shows_is_what_is_sent(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    spec = job(
        examples(tmp_path),
        name="golden",
        idempotency_key="k" * 32,
        hyperparameters={"n_epochs": 3, "seed": 5},
        tags={"team": "a"},
        native={"azure": {"suffix": "mine", "trainingType": "GlobalStandard"}},
    )
    plan = client.training.plan(spec)
    assert plan.ok
    assert plan.cost is not None
    client.training.submit(spec)
    sent = next(r for r in azure.requests if r.method == "POST" and r.path.endswith("/jobs"))
    body = json.loads(sent.body)
    assert {**plan.requests[-1].body, "training_file": body["training_file"]} == body
    expected = json.loads((Path(__file__).parent / "golden" / "fine_tuning.json").read_text())
    assert {**body, "training_file": "file-1"} == expected


def test_dpo_and_reinforcement(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    pair = {
        "input": {"messages": [{"role": "user", "content": "q"}]},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
    path = tmp_path / "dpo.jsonl"
    path.write_text("\n".join(json.dumps(pair) for _ in range(10)))
    spec = job(str(path), method="dpo", hyperparameters={"beta": 0.1}, spot=Spot())
    assert client.training.submit(spec).wait(30).state is State.SUCCEEDED
    asked = {"messages": [{"role": "user", "content": "q"}], "answer": "4"}
    path.write_text("\n".join(json.dumps(asked) for _ in range(10)))
    grader = {
        "type": "string_check",
        "name": "same",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
    }
    spec = job(
        str(path),
        method="reinforcement",
        base_model="o4-mini-2025-04-16",
        native={"azure": {"grader": grader}},
    )
    assert client.training.submit(spec).wait(30).state is State.SUCCEEDED
    bodies = [
        json.loads(r.body)
        for r in azure.requests
        if r.method == "POST" and r.path.endswith("/jobs")
    ]
    assert bodies[0]["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}}
    assert bodies[0]["trainingType"] == "developerTier"
    assert bodies[1]["method"]["reinforcement"]["grader"] == grader


@pytest.mark.parametrize(
    ("line", "text", "reason"),
    [
        (3, "{broken", "line 3 of train.jsonl is not JSON"),
        (5, "[1]", "line 5 of train.jsonl is .*not a JSON object"),
        (2, '{"messages": []}', 'line 2 of train.jsonl has no list "messages"'),
        (4, '{"messages": [{"role": "robot", "content": "x"}]}', "line 4 .*role='robot'"),
        (4, '{"messages": [{"role": "user", "content": "x"}]}', "line 4 .*no answer to learn"),
        (4, '{"messages": [{"role": "user"}]}', "line 4 .*without content"),
        (4, '{"messages": [{"role": "user", "content": 5}]}', "line 4 .*neither text nor"),
        (
            4,
            '{"messages": [{"role": "assistant", "content": "a", "weight": 2}]}',
            "line 4 .*weight=2",
        ),
    ],
)
def test_a_bad_line_is_told_with_its_number(
    azure: AzureEmulator,
    client: cloudai.Client,
    tmp_path: Path,
    line: int,
    text: str,
    reason: str,
) -> None:
    spec = job(examples(tmp_path, (line, text)))
    with pytest.raises(InvalidRequest, match=reason):
        client.training.submit(spec)
    plan = client.training.plan(spec)
    assert not plan.ok
    assert f"line {line}" in str(plan.violations[0])
    assert not azure.requests
    assert client.resources() == []


def test_bad_files(azure: AzureEmulator, client: cloudai.Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds 9 examples.*at least 10"):
        client.training.submit(job(examples(tmp_path, count=9)))
    with pytest.raises(InvalidRequest, match="is not a file"):
        client.training.submit(job(str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(InvalidRequest, match="file of this machine"):
        client.training.submit(job("s3://bucket/train.jsonl"))
    wide = tmp_path / "wide.jsonl"
    wide.write_text("x", encoding="utf-16")
    with pytest.raises(InvalidRequest, match="UTF-16"):
        client.training.submit(job(str(wide)))
    assert not azure.requests


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"hyperparameters": {"learning_rate": 1}}, "learning_rate_multiplier"),
        ({"native": {"azure": {"suffix": "x" * 19}}}, "suffix"),
        ({"native": {"azure": {"suffix": "a.b"}}}, "suffix"),
        ({"native": {"azure": {"trainingType": "Fast"}}}, "trainingType"),
        ({"native": {"azure": {"tier": 1}}}, "tier"),
        ({"method": "reinforcement"}, "grader"),
        ({"tags": {"x": "y" * 600}}, "tags"),
    ],
)
def test_bad_specs(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path, about: dict[str, Any], field: str
) -> None:
    spec = job(examples(tmp_path), **about)
    with pytest.raises(InvalidRequest, match=field):
        client.training.submit(spec)
    assert not client.training.plan(spec).ok
    assert not azure.requests


def test_scripts_belong_to_azure_ml(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("")
    spec = TrainingJob(source=str(tmp_path), entry="train.py")
    with pytest.raises(UnsupportedByProvider, match=r"azure\.ml\.training"):
        client.training.submit(spec)
    assert not client.training.plan(spec).ok


def test_pause_resume_cancel(azure: AzureEmulator, client: cloudai.Client, tmp_path: Path) -> None:
    handle = client.training.submit(job(examples(tmp_path)))
    azure.freeze()
    azure.advance(1.5)
    assert handle.state is State.RUNNING
    azure_training.pause(handle)
    assert (handle.status.native_state, handle.state) == ("paused", State.QUEUED)
    azure.advance(100)
    assert handle.status.native_state == "paused"
    azure_training.resume(handle)
    assert handle.state is State.RUNNING
    handle.cancel()
    with pytest.raises(JobCancelled):
        handle.wait(10)
    handle.cancel()


def test_a_failed_job_tells_why(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    azure.fate("fine_tuning", "failed")
    handle = client.training.submit(job(examples(tmp_path)))
    with pytest.raises(JobFailed, match="internal_error"):
        handle.wait(30)


@pytest.mark.parametrize(
    ("native", "state"),
    [
        ("validating_files", State.STARTING),
        ("pending", State.QUEUED),
        ("notRunning", State.QUEUED),
        ("queued", State.QUEUED),
        ("running", State.RUNNING),
        ("pausing", State.RUNNING),
        ("paused", State.QUEUED),
        ("resuming", State.QUEUED),
        ("cancelling", State.STOPPING),
        ("succeeded", State.SUCCEEDED),
        ("failed", State.FAILED),
        ("cancelled", State.CANCELLED),
        ("something new", State.UNKNOWN),
        (None, State.QUEUED),
    ],
)
def test_states(native: str | None, state: State) -> None:
    found = wire.status({"id": "ftjob-1", "status": native, "error": None, "metadata": None})
    assert found.state is state


def test_lost_replies_make_no_duplicate(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    monkeypatch.setattr("cloudai.testing.emulators.azure._tuning._MAX_QUEUED", 1000)
    train = examples(tmp_path)
    for number in range(100):
        azure.faults.add("lose_reply", "POST /openai/v1/fine_tuning/jobs")
        client.training.submit(job(train))
        assert len(azure.cloud_state.tunings) == number + 1
    # One file does for all of them.
    assert len([f for f in azure.cloud_state.files.values() if f.purpose == "fine-tune"]) == 1


def test_another_process_finds_the_job(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    handle = client.training.submit(job(examples(tmp_path)))
    code = (
        "import sys, cloudai\n"
        "job = cloudai.Client(provider='azure', api_key=sys.argv[2]).attach(sys.argv[1])\n"
        "print(job.wait(30).state, job.model.uri)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, handle.id, azure.key],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("SUCCEEDED gpt-4o-mini"), done.stderr


def test_delete_and_list(azure: AzureEmulator, client: cloudai.Client, tmp_path: Path) -> None:
    handle = client.training.submit(job(examples(tmp_path), name="to-go"))
    handle.wait(30)
    assert [one.name for one in client.training.list()] == ["to-go"]
    handle.delete()
    handle.delete()
    assert client.training.list() == []
    assert not [f for f in azure.cloud_state.files.values() if f.purpose.startswith("fine-tune")]
    with pytest.raises(NotFound, match="no fine-tuning job"):
        client.training.attach(handle.id)


def test_files_are_kept_while_another_job_needs_them(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    train = examples(tmp_path)
    first = client.training.submit(job(train))
    first.wait(30)
    second = client.training.submit(job(train))
    first.delete()
    assert second.wait(30).state is State.SUCCEEDED
    second.delete()
    assert not azure.cloud_state.files


def test_a_refused_submission_leaves_no_file(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="cannot be fine-tuned"):
        client.training.submit(job(examples(tmp_path), base_model="no-such-model"))
    assert not azure.cloud_state.files
    assert client.resources() == []


def created(azure: AzureEmulator) -> list[dict[str, Any]]:
    return [
        json.loads(r.body)
        for r in azure.requests
        if r.method == "POST" and r.path.endswith("/jobs")
    ]


# FineTuningJobCreation of Azure's published description, 2024-10-21 (azure-rest-api-specs).
PUBLISHED = {"model", "training_file", "validation_file", "hyperparameters", "suffix", "seed"}


@pytest.mark.parametrize("version", ["2024-10-21", "2025-04-01-preview"])
def test_e13_the_dated_api(azure: AzureEmulator, tmp_path: Path, version: str) -> None:
    with cloudai.Client(provider="azure", api_key=azure.key, api_version=version) as client:
        spec = job(examples(tmp_path), name="dated", hyperparameters={"epochs": 2, "seed": 5})
        planned = client.training.plan(spec).requests[-1].body
        handle = client.training.submit(spec)
        (body,) = created(azure)
        assert set(body) <= PUBLISHED
        assert {**planned, "training_file": ""} == {**body, "training_file": ""}
        assert (body["hyperparameters"], body["seed"]) == ({"n_epochs": 2}, 5)
        handle.wait(30)
        assert [one.id for one in client.training.list()] == [handle.native_id]
        handle.delete()
    assert not azure.cloud_state.tunings
    assert not azure.cloud_state.files


def test_e13_exactly_once_without_metadata(
    azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to the creation is lost; the job is known by its own file's name."""
    settings: Any = {"provider": "azure", "api_key": azure.key, "api_version": "2024-10-21"}
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    spec = job(examples(tmp_path), idempotency_key="k" * 32)
    azure.faults.add("lose_reply", "POST /openai/fine_tuning/jobs")
    for home in ("one", "two"):  # the second knows of nothing
        monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / home))
        with cloudai.Client(**settings) as client:
            client.training.submit(spec)
    assert len(azure.cloud_state.tunings) == 1
    with cloudai.Client(**settings) as client:
        other = client.training.submit(job(examples(tmp_path), idempotency_key="l" * 32))
        assert len(azure.cloud_state.tunings) == 2  # the same content, another key
        other.wait(30)
        other.delete()  # it is known to be ours
    assert len(azure.cloud_state.tunings) == 1
    assert len([f for f in azure.cloud_state.files.values() if f.purpose == "fine-tune"]) == 1


def test_e13_a_file_s_id_is_refused_by_a_dated_api(azure: AzureEmulator) -> None:
    settings: Any = {"provider": "azure", "api_key": azure.key, "api_version": "2024-10-21"}
    client = cloudai.Client(**settings)
    with client, pytest.raises(InvalidRequest, match=r"inputs\.train"):
        client.training.submit(job("file-123"))
    assert not azure.requests


def test_e12_the_training_type_is_left_out_unless_asked_for(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    train = examples(tmp_path)
    client.training.submit(job(train))
    client.training.submit(job(train, spot=Spot()))
    for kind in ("Standard", "GlobalStandard", "globalstandard", "Developer", "developerTier"):
        client.training.submit(job(train, native={"azure": {"trainingType": kind}}))
    first, *others = created(azure)
    assert "trainingType" not in first
    assert [body["trainingType"] for body in others] == [
        "developerTier", "Standard", "GlobalStandard", "globalstandard", "Developer",
        "developerTier",
    ]  # fmt: skip


def test_e12_e13_the_emulator_refuses_what_a_dated_version_has_not(
    azure: AzureEmulator, tmp_path: Path
) -> None:
    import openai

    theirs = openai.AzureOpenAI(
        azure_endpoint=azure.url, api_version="2024-10-21", api_key=azure.key, max_retries=0
    )
    with theirs, pytest.raises(openai.BadRequestError, match="metadata"):
        theirs.fine_tuning.jobs.create(model=MODEL, training_file="file-1", metadata={"a": "b"})
