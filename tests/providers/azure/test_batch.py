"""Batches: the service's, in parts and with failures, and the worker process for the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cloudai
from cloudai._core.profiles.travel import pack, unpack
from cloudai.errors import (
    Conflict,
    InvalidRequest,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobPartial,
    JobTimedOut,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.types import BatchTransform, State


def put(folder: Path, *values: Any) -> str:
    path = folder / "in.jsonl"
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return str(path)


def chat(folder: Path, *values: Any, **about: Any) -> BatchTransform:
    given = {"chat": "smart", "output": str(folder / "out.jsonl"), **about}
    return BatchTransform(input=put(folder, *values), **given)


def lines(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def texts(path: str) -> list[Any]:
    return [line and line["text"] for line in lines(path)]


def posts(azure: AzureEmulator, end: str) -> list[Any]:
    return [r for r in azure.requests if r.method == "POST" and r.path.endswith(end)]


def test_output_is_in_the_inputs_order(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    job = client.batch.submit(chat(tmp_path, *(f"line {n}" for n in range(40))))
    status = job.wait(30)
    assert status.state is State.SUCCEEDED
    assert texts(job.output) == [f"line {n}" for n in range(40)]
    assert status.progress == (40, 40)
    assert not [
        p.name for p in tmp_path.iterdir() if p.name.startswith(".out.jsonl.") and p.is_dir()
    ]


def test_what_plan_shows_is_what_is_sent(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    spec = chat(tmp_path, "a", "b", name="golden", idempotency_key="k" * 32, params={"seed": 7})
    plan = client.batch.plan(spec)
    assert plan.ok, plan.violations
    client.batch.submit(spec)
    sent = json.loads(posts(azure, "/batches")[0].body)
    shown = plan.requests[-1].body
    assert {**shown, "input_file_id": sent["input_file_id"]} == sent
    upload = next(f for f in azure.cloud_state.files.values() if f.purpose == "batch")
    assert not upload.content.startswith(b"\xef\xbb\xbf")
    assert [json.loads(line)["body"]["seed"] for line in upload.content.splitlines()] == [7, 7]


def test_a_large_input_becomes_several_batches(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    adapter: Any = client.batch._bound.adapter
    adapter.service.max_lines = 4
    job = client.batch.submit(chat(tmp_path, *(f"line {n}" for n in range(10))))
    job.wait(30)
    assert len(azure.cloud_state.batches) == 3
    assert texts(job.output) == [f"line {n}" for n in range(10)]


def test_parts_are_split_by_size_too(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    adapter: Any = client.batch._bound.adapter
    adapter.service.max_bytes = 1200
    job = client.batch.submit(chat(tmp_path, *("x" * 300 for _ in range(6))))
    job.wait(30)
    assert len(azure.cloud_state.batches) >= 2
    files = [f for f in azure.cloud_state.files.values() if f.purpose == "batch"]
    assert all(len(f.content) <= 1200 for f in files)


def test_parts_wait_for_the_quota(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    adapter: Any = client.batch._bound.adapter
    adapter.service.max_lines = 5
    adapter.service.quota_pause = 0.0
    # One part fits, two do not.
    azure.batches.enqueued = 12
    job = client.batch.submit(chat(tmp_path, *(f"n{n}" for n in range(15))))
    status = job.wait(60)
    assert status.state is State.SUCCEEDED
    assert texts(job.output) == [f"n{n}" for n in range(15)]
    assert len(azure.cloud_state.batches) > 3, "none of them had to wait"


def test_another_process_goes_on(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    adapter: Any = client.batch._bound.adapter
    adapter.service.max_lines = 5
    azure.batches.enqueued = 7  # one part of two
    job = client.batch.submit(chat(tmp_path, *(f"n{n}" for n in range(10))))
    code = (
        "import sys, cloudai\n"
        "from cloudai.providers.azure.openai.service_batch import ServiceBatches\n"
        "ServiceBatches.quota_pause = 0.0\n"
        "job = cloudai.Client(provider='azure', api_key=sys.argv[2]).attach(sys.argv[1])\n"
        "print(job.wait(60).state, job.output)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, job.id, azure.key], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["SUCCEEDED", str(tmp_path / "out.jsonl")], done.stderr
    assert texts(str(tmp_path / "out.jsonl")) == [f"n{n}" for n in range(10)]
    assert len(azure.cloud_state.batches) > 2, "none had to wait"
    assert job.wait(10).state is State.SUCCEEDED


def test_failed_lines_fail_the_batch(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    job = client.batch.submit(chat(tmp_path, "fine", "trigger-content-filter"))
    with pytest.raises(JobFailed, match="record 2: .*filter"):
        job.wait(30)
    assert not (tmp_path / "out.jsonl").exists()


def test_failed_lines_are_partial(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    values = ["one", "trigger-content-filter", "three", {"nothing": 1}, "five"]
    job = client.batch.submit(chat(tmp_path, *values, on_error="dead_letter", join="input"))
    with pytest.raises(JobPartial):
        job.wait(30)
    status = job.wait(30, check=False)
    assert (status.state, status.errors) == (State.PARTIAL, 2)
    shown = lines(status.outputs["output"])
    assert [line["input"] for line in shown] == values
    assert [line["output"] and line["output"]["text"] for line in shown] == [
        "one",
        None,
        "three",
        None,
        "five",
    ]
    letters = lines(status.outputs["errors"])
    assert [letter["line"] for letter in letters] == [2, 4]
    assert "filter" in letters[0]["error"]["message"]


def test_an_expired_batch_keeps_what_it_has(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    azure.fate("batches", "expired")
    job = client.batch.submit(chat(tmp_path, "a", "b", "c", "d", on_error="skip"))
    with pytest.raises(JobExpired):
        job.wait(30)
    assert texts(str(tmp_path / "out.jsonl")) == ["a", "b", None, None]
    assert job.wait(60, check=False).errors == 2


def test_a_part_that_failed_leaves_the_others_their_lines(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    adapter: Any = client.batch._bound.adapter
    adapter.service.max_lines = 2
    azure.fate("batches", "completed", "failed", "completed")
    job = client.batch.submit(chat(tmp_path, *"abcde", on_error="dead_letter"))
    with pytest.raises(JobPartial, match="2 of 5 lines failed; its part failed"):
        job.wait(30)
    assert texts(job.output) == ["a", "b", None, None, "e"]
    assert [letter["line"] for letter in lines(job.status.outputs["errors"])] == [3, 4]
    azure.fate("batches", "completed", "failed", "completed")
    with pytest.raises(JobFailed, match="no reason"):
        client.batch.submit(chat(tmp_path, *"abcde", output=str(tmp_path / "2"))).wait(30)
    assert not (tmp_path / "2").exists()


def test_several_who_wait_ask_for_a_part_once(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    adapter: Any = client.batch._bound.adapter
    adapter.service.max_lines = 5
    azure.batches.enqueued = 7  # one part of two
    job = client.batch.submit(chat(tmp_path, *(f"n{n}" for n in range(10))))
    azure.batches.enqueued = None
    azure.advance(10)
    waiters = [cloudai.Client(provider="azure", api_key=azure.key) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        states = list(pool.map(lambda c: c.batch.attach(job.id).wait(60).state, waiters))
    for one in waiters:
        one.close()
    assert set(states) == {State.SUCCEEDED}
    assert texts(job.output) == [f"n{n}" for n in range(10)]
    assert len(azure.cloud_state.batches) == 3, (
        "the first part, the second that had to wait, and again"
    )


def test_cancel(client: cloudai.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough not to be through before it is cancelled, however busy the machine.
    monkeypatch.setattr("cloudai.testing.emulators.azure._batches.RUNNING", 6000.0)
    job = client.batch.submit(chat(tmp_path, "a", "b"))
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(30)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_refused_file_tells_why(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    job = client.batch.submit(chat(tmp_path, "a", chat="nowhere"))
    with pytest.raises(JobFailed, match="model_not_found: nowhere.*There are: embed, smart"):
        job.wait(30)


def test_batches_need_a_batch_deployment(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    client.endpoints.deploy("gpt-5.1", name="plain")
    with pytest.raises(JobFailed, match="plain is GlobalStandard; batches need"):
        client.batch.submit(chat(tmp_path, "a", chat="plain")).wait(30)
    client.endpoints.deploy("gpt-5.1", name="nightly", native={"azure": {"sku": "GlobalBatch"}})
    job = client.batch.submit(chat(tmp_path, "a", chat="nightly"))
    assert job.wait(30).state is State.SUCCEEDED
    with pytest.raises(InvalidRequest, match="GlobalBatch"):
        client.chat.create("a", model="nightly")


def test_bad_lines_are_told_before_anything_is_sent(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    spec = chat(tmp_path, "a", "b")
    Path(spec.input).write_text('"a"\n{broken\n"c"\n')
    with pytest.raises(InvalidRequest, match="line 2 of in.jsonl: not JSON"):
        client.batch.submit(spec)
    with pytest.raises(InvalidRequest, match="line 1 of in.jsonl"):
        client.batch.submit(chat(tmp_path, {"text": "wrong field"}))
    with pytest.raises(InvalidRequest, match="params.temprature"):
        client.batch.submit(chat(tmp_path, "a", params={"temprature": 1}))
    with pytest.raises(UnsupportedByProvider, match="workspace"):
        client.batch.submit(
            BatchTransform(model="m", input=put(tmp_path, "a"), output=str(tmp_path / "o"))
        )
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(Conflict, match="output"):
        client.batch.submit(chat(tmp_path, "a"))
    assert not azure.requests
    assert client.resources() == []


def test_lost_replies_make_no_duplicate(
    azure: AzureEmulator,
    client: cloudai.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    for number in range(100):
        azure.faults.add("lose_reply", "POST /openai/v1/batches")
        folder = tmp_path / str(number)
        folder.mkdir()
        client.batch.submit(chat(folder, "a"))
        assert len(azure.cloud_state.batches) == number + 1
    assert (
        len({b["body"]["metadata"]["cloudai_key"] for b in azure.cloud_state.batches.values()})
        == 100
    )


def test_lost_replies_to_the_upload(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    azure.faults.add("lose_reply", "POST /openai/v1/files")
    client.batch.submit(chat(tmp_path, "a"))
    assert len([f for f in azure.cloud_state.files.values() if f.purpose == "batch"]) == 1


def test_delete_and_list(azure: AzureEmulator, client: cloudai.Client, tmp_path: Path) -> None:
    job = client.batch.submit(chat(tmp_path, "a", name="to-go"))
    job.wait(30)
    assert [one.name for one in client.batch.list()] == ["to-go"]
    uri = job.id
    job.delete()
    assert client.batch.list() == []
    assert not azure.cloud_state.files
    with pytest.raises(NotFound), cloudai.Client(provider="azure", api_key=azure.key) as other:
        other.attach(uri)


def test_embeddings_run_in_a_worker(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    spec = chat(tmp_path, "one", {"text": "two"}, "one", chat=None, embeddings="embed")
    plan = client.batch.plan(spec)
    assert any("worker" in loss for loss in plan.dropped)
    job = client.batch.submit(spec)
    status = job.wait(60)
    assert status.state is State.SUCCEEDED
    vectors = [line["embedding"] for line in lines(job.output)]
    assert vectors[0] == vectors[2] != vectors[1]
    home = Path(client.profile.home)
    held = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    assert azure.key.encode() not in held
    job.delete()
    assert client.batch.list() == []


def test_a_fine_tuned_model_runs_in_a_worker(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    azure.deploy("mine.ft-abc", model="gpt-4o.ft-abc")
    job = client.batch.submit(chat(tmp_path, "a", "b", chat="mine.ft-abc"))
    job.wait(60)
    assert texts(job.output) == ["a", "b"]
    # Its name need not tell: Resource Manager is asked.
    azure.deploy("mine", model="gpt-4o.ft-abc")
    job = client.batch.submit(chat(tmp_path, "c", chat="mine", output=str(tmp_path / "2.jsonl")))
    job.wait(60)
    assert texts(job.output) == ["c"]
    assert not azure.cloud_state.batches
    assert not azure.cloud_state.files


def test_a_cancelled_worker_goes_on_when_submitted_again(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    azure.faults.add("slow", "POST /openai/.*/chat/completions", times=None, seconds=0.05)
    values = [f"n{n}" for n in range(30)]
    native = {"azure": {"runner": "client"}}
    spec = chat(tmp_path, *values, native=native, concurrency=1)
    job = client.batch.submit(spec)
    while job.progress[0] < 3:
        pass
    job.cancel()
    assert job.wait(30, check=False).state is State.CANCELLED
    assert not (tmp_path / "out.jsonl").exists()
    azure.faults.clear()
    before = len(azure.requests)
    again = client.batch.submit(spec)
    again.wait(60)
    assert texts(again.output) == [f"{value}" for value in values]
    assert len(azure.requests) - before < 30


def test_i11_a_worker_ends_with_its_timeout_and_goes_on(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    azure.faults.add("slow", "POST /openai/.*/chat/completions", times=None, seconds=0.05)
    values = [f"n{n}" for n in range(60)]
    native = {"azure": {"runner": "client"}}
    spec = chat(tmp_path, *values, native=native, concurrency=1, timeout=1.0)
    job = client.batch.submit(spec)
    with pytest.raises(JobTimedOut, match=r"longer than 1\.0 s"):
        job.wait(30)
    azure.faults.clear()
    before = len(azure.requests)
    assert 0 < before < 60
    again = client.batch.submit(msgspec.structs.replace(spec, timeout=None))
    again.wait(60)
    assert texts(again.output) == values
    assert len(azure.requests) - before < 60


def test_i11_a_worker_has_the_profile_of_its_client(tmp_path: Path) -> None:
    """Its retries, its timeout, its references to secrets: what the environment and the folder
    of the worker say is not asked."""
    made = cloudai.Client(
        provider="azure", endpoint="https://a.openai.azure.com", api_key="canary-key",
        timeout=7.5, retries=1, home=str(tmp_path), client_certificate=tmp_path / "c.pem",
    ).profile  # fmt: skip
    packed = json.loads(json.dumps(pack(made)))
    again = unpack(packed)
    assert (again.timeout, again.retries, again.home) == (7.5, 1, tmp_path)
    assert again.get("endpoint") == "https://a.openai.azure.com"
    assert again.path("client_certificate", tmp_path) == tmp_path / "c.pem"
    secret = again.secret("api_key")
    assert secret is not None
    assert secret.reveal() == "canary-key"
    assert "canary" not in json.dumps({**packed, "secrets": {}})


def test_a_killed_worker_is_not_reported_as_running(
    azure: AzureEmulator, client: cloudai.Client, tmp_path: Path
) -> None:
    import os
    import signal

    from cloudai._core.batches.client_side import read

    azure.faults.add("slow", "POST /openai/.*/chat/completions", times=None, seconds=0.1)
    native = {"azure": {"runner": "client"}}
    job = client.batch.submit(chat(tmp_path, *range(40), native=native, params={}, on_error="skip"))
    folder = client.profile.home / "azure" / "batch" / job.native_id
    while (pid := read(folder).pid) is None:
        pass
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(JobFailed, match="worker was lost"):
        job.wait(30)
