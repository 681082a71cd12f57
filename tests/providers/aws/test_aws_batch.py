"""Batch: transform jobs' requests, Bedrock's jobs put into order, workers of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudai import BatchTransform, Client
from cloudai.errors import (
    Conflict,
    InvalidRequest,
    JobExpired,
    JobFailed,
    JobTimedOut,
    NotFound,
)
from cloudai.testing.emulators.aws import BUCKET, AwsEmulator, Fate, ScriptedExecutor
from cloudai.types import State

CHAT = "anthropic.claude-sonnet-4-5-20250929-v1:0"
TITAN = "amazon.titan-embed-text-v2:0"
HANDLER = "def load(d):\n    return 0\n\n\ndef predict(m, inputs, params):\n    return inputs\n"


def lines(tmp_path: Path, count: int, name: str = "in.jsonl") -> str:
    path = tmp_path / name
    path.write_text("".join(f"{json.dumps(f'line number {n}')}\n" for n in range(count)))
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    return str(folder)


def test_what_plan_shows_is_what_is_sent(
    aws: AwsEmulator, client: Client, model: str, tmp_path: Path
) -> None:
    spec = BatchTransform(
        model=model, input=lines(tmp_path, 10), output=f"s3://{BUCKET}/out.jsonl", name="golden",
        idempotency_key="k", shards=3, batch_size=5, params={"top": 3}, framework="pytorch==2.6",
    )  # fmt: skip
    plan = client.batch.plan(spec)
    assert plan.ok, plan.violations
    handle = client.batch.submit(spec)
    planned = {r.operation.partition(":")[2]: r.body for r in plan.requests}
    for operation in ("CreateModel", "CreateTransformJob"):
        (sent,) = aws.sent(operation)
        assert sent.body == json.dumps(planned[operation]).encode()
    assert handle.wait(20).progress == (10, 10)
    # Three machines, three files, one output in the input's order.
    s3 = boto3.client("s3", endpoint_url=aws.url)
    parts = s3.list_objects_v2(Bucket=BUCKET, Prefix="cloudai/golden/in/")["KeyCount"]
    assert parts == 3
    body = s3.get_object(Bucket=BUCKET, Key="out.jsonl")["Body"].read().decode()
    assert [json.loads(line) for line in body.splitlines()] == [
        f"line number {n}" for n in range(10)
    ]
    handle.delete()
    assert aws.cloud_state.left("Model") == []
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="cloudai/")["KeyCount"] == 0
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="out.jsonl")["KeyCount"] == 1


def test_bedrock_runs_chat_of_a_hundred_lines(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    spec = BatchTransform(
        chat=CHAT, input=lines(tmp_path, 120), output=str(tmp_path / "out.jsonl"),
        params={"max_tokens": 8}, idempotency_key="chat-key",
    )  # fmt: skip
    (planned,) = [r for r in client.batch.plan(spec).requests if "Invocation" in r.operation]
    assert planned.body["modelInvocationType"] == "Converse"
    handle = client.batch.submit(spec)
    assert handle.native_id.startswith("arn:aws:bedrock:")
    assert client.batch.submit(spec).native_id == handle.native_id
    status = handle.wait(20)
    assert status.state is State.SUCCEEDED
    out = [json.loads(line) for line in Path(handle.output).read_text().splitlines()]
    assert [one["text"] for one in out] == [f"line number {n}" for n in range(120)]
    adapter = client._runtime.binding("batch").adapter
    from cloudai.protocols import Call

    assert adapter.find("chat-key", Call()) == handle.native_id
    assert handle.native_id in [one.id for one in client.batch.list()]
    handle.delete()
    with pytest.raises(NotFound):
        client.attach(handle.id)


def test_bedrock_runs_embeddings(aws: AwsEmulator, client: Client, tmp_path: Path) -> None:
    spec = BatchTransform(
        embeddings=TITAN, input=lines(tmp_path, 100), output=str(tmp_path / "out.jsonl"),
        params={"dimensions": 256},
    )  # fmt: skip
    handle = client.batch.submit(spec)
    handle.wait(20)
    rows = [json.loads(line)["embedding"] for line in Path(handle.output).read_text().splitlines()]
    alone = client.embeddings.create("line number 57", model=TITAN, dimensions=256).vectors[0]
    assert len(rows) == 100
    assert rows[57] == pytest.approx(alone, abs=1e-6)


def test_bad_lines_of_a_bedrock_job(aws: AwsEmulator, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [json.dumps(f"line {n}") for n in range(110)]
    rows[3], rows[50] = "{broken", json.dumps("word " * 30_000)
    path.write_text("\n".join(rows) + "\n")
    spec = BatchTransform(
        chat=CHAT, input=str(path), output=str(tmp_path / "out.jsonl"), on_error="dead_letter"
    )
    status = client.batch.submit(spec).wait(20, check=False)
    assert (status.state, status.errors) == (State.PARTIAL, 2)
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [n for n, one in enumerate(out) if one is None] == [3, 50]
    letters = (tmp_path / "out.jsonl.errors.jsonl").read_text()
    assert "prompt is too long" in letters


def test_a1_a_withheld_line_of_a_bedrock_job_is_an_answer(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    """Of Converse's own stop reasons; what is no answer fails alone."""
    usage = {"inputTokens": 1, "outputTokens": 0, "totalTokens": 1}
    empty: dict[str, Any] = {"message": {"role": "assistant", "content": []}}
    told: dict[str, dict[str, Any]] = {
        "line number 3": {"stopReason": "content_filtered", "output": empty, "usage": usage},
        "line number 4": {"stopReason": "guardrail_intervened", "output": empty, "usage": usage},
        "line number 6": {"message": "an error with status 200"},
    }
    aws.cloud_state.chat = lambda body: told.get(body["messages"][0]["content"][0]["text"])
    spec = BatchTransform(
        chat=CHAT, input=lines(tmp_path, 100), output=str(tmp_path / "out.jsonl"),
        on_error="dead_letter",
    )  # fmt: skip
    status = client.batch.submit(spec).wait(20, check=False)
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [n for n, one in enumerate(out) if one is None] == [6]
    assert (status.state, status.errors) == (State.PARTIAL, 1)
    for withheld in (out[3], out[4]):
        assert (withheld["text"], withheld["finish_reason"]) == ("", "content_filter")
    assert out[2]["text"] == "line number 2"
    assert out[7]["text"] == "line number 7"


def test_a_line_that_cannot_be_read_is_told_before_a_job_is_paid_for(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('"fine"\n' * 120 + "{broken\n")
    spec = BatchTransform(chat=CHAT, input=str(path), output=str(tmp_path / "out.jsonl"))
    with pytest.raises(InvalidRequest, match="line 121"):
        client.batch.submit(spec)
    assert aws.sent("/model-invocation-job") == []


@pytest.mark.parametrize(
    ("end", "kind"), [("Failed", JobFailed), ("Expired", JobExpired)], ids=["failed", "expired"]
)
def test_ends_of_bedrock_jobs(
    aws: AwsEmulator, client: Client, tmp_path: Path, end: str, kind: type[Exception]
) -> None:
    aws.cloud_state.executor = ScriptedExecutor([Fate(end=end, reason="the model is gone")])
    spec = BatchTransform(chat=CHAT, input=lines(tmp_path, 100), output=str(tmp_path / "out.jsonl"))
    with pytest.raises(kind):
        client.batch.submit(spec).wait(20)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_transform_that_fails_and_one_that_is_late(
    aws: AwsEmulator, client: Client, model: str, tmp_path: Path
) -> None:
    fates = [Fate(end="Failed", reason="ClientError: no memory"), Fate(running=1e6)]
    aws.cloud_state.executor = ScriptedExecutor(fates)
    about: dict[str, Any] = {"model": model, "input": lines(tmp_path, 3)}
    with pytest.raises(JobFailed, match="no memory"):
        client.batch.submit(BatchTransform(**about, output=str(tmp_path / "a.jsonl"))).wait(20)
    late = BatchTransform(**about, output=str(tmp_path / "b.jsonl"), timeout=0.5)
    with pytest.raises(JobTimedOut):
        client.batch.submit(late).wait(20)


def test_few_lines_run_on_the_clients_side(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    spec = BatchTransform(
        chat=CHAT, input=lines(tmp_path, 3), output=f"s3://{BUCKET}/small.jsonl",
        params={"max_tokens": 4},
    )  # fmt: skip
    assert client.batch.plan(spec).requests[0].operation == "cloudai:run_batch"
    handle = client.batch.submit(spec)
    assert handle.native_id.startswith("client-")
    assert handle.wait(30).state is State.SUCCEEDED
    assert aws.sent("/model-invocation-job") == []
    data = boto3.client("s3", endpoint_url=aws.url).get_object(Bucket=BUCKET, Key="small.jsonl")
    assert len(data["Body"].read().splitlines()) == 3
    handle.delete()


def test_i11_a_worker_that_was_killed_goes_on_by_its_key(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    """Killed in the middle, submitted again: no line is asked for twice but those under way. What
    was done of an output in S3 is kept too."""
    import os
    import signal
    import time

    slow = aws.faults.add("slow", r"/converse$", times=1000, seconds=1.0)
    spec = BatchTransform(
        chat=CHAT, input=lines(tmp_path, 30), output=f"s3://{BUCKET}/slow.jsonl", name="slow",
        concurrency=2, native={"aws": {"service": "client"}}, idempotency_key="once",
    )  # fmt: skip
    handle = client.batch.submit(spec)
    home = Path(os.environ["CLOUDAI_HOME"]) / "aws" / "batch" / handle.native_id
    end = time.monotonic() + 60
    while handle.progress[0] < 4:
        assert time.monotonic() < end, "it made no progress"
        time.sleep(0.05)
    os.kill(json.loads((home / "state.json").read_text())["pid"], signal.SIGKILL)
    lost = handle.wait(60, check=False)
    assert lost.state is State.FAILED
    assert "submit the batch again" in (lost.reason or "")
    # What was under way is with the service still, and would else arrive in the next test.
    while len(aws.sent("/converse")) < 1000 - (slow.times or 0):
        assert time.monotonic() < end
        time.sleep(0.05)
    aws.faults.clear()
    again = client.batch.submit(spec)
    assert again.id == handle.id
    assert again.wait(30).state is State.SUCCEEDED
    data = boto3.client("s3", endpoint_url=aws.url).get_object(Bucket=BUCKET, Key="slow.jsonl")
    out = [json.loads(line)["text"] for line in data["Body"].read().splitlines()]
    assert out == [f"line number {n}" for n in range(30)]
    assert len(aws.sent("/converse")) <= 30 + 4
    assert not list((home.parent / "files").iterdir())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "input": ({"input": "/no/such.jsonl"}, "input"),
    "remote": ({"input": f"s3://{BUCKET}/none.jsonl"}, "input"),
    "format": ({"input": __file__}, "format"),
    "output": ({"output": "gs://x/y.jsonl"}, "output"),
    "params": ({"params": {"temprature": 1}}, "temperature"),
    "seed": ({"params": {"seed": 1}}, "seed"),
    "service": ({"native": {"aws": {"service": "azure"}}}, "service"),
    "too-few": ({"native": {"aws": {"service": "bedrock"}}}, "100"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(aws: AwsEmulator, client: Client, tmp_path: Path, case: str) -> None:
    about, word = BAD[case]
    given = {"chat": CHAT, "input": lines(tmp_path, 3), "output": str(tmp_path / "o.jsonl")}
    with pytest.raises(InvalidRequest) as caught:
        client.batch.submit(BatchTransform(**{**given, **about}))
    assert word in str(caught.value)
    assert aws.sent("/converse") == []
    assert client.resources() == []


def test_an_output_in_s3_that_is_there(
    aws: AwsEmulator, client: Client, model: str, tmp_path: Path
) -> None:
    boto3.client("s3", endpoint_url=aws.url).put_object(Bucket=BUCKET, Key="o.jsonl", Body=b"x")
    spec = BatchTransform(model=model, input=lines(tmp_path, 3), output=f"s3://{BUCKET}/o.jsonl")
    with pytest.raises(Conflict, match="overwrite"):
        client.batch.submit(spec)


def test_m2_requests_of_a_transform_job_are_sized_in_lines(
    aws: AwsEmulator, client: Client, model: str, tmp_path: Path
) -> None:
    spec = BatchTransform(
        model=model, input=lines(tmp_path, 100), output=str(tmp_path / "out.jsonl"), name="slow",
        batch_size=2, native={"aws": {"lines_per_request": 30}},
    )  # fmt: skip
    client.batch.submit(spec)
    (job,) = aws.sent("CreateTransformJob")
    sent = json.loads(job.body)
    assert sent["TransformInput"]["SplitType"] == "None"  # a file is a request
    assert "BatchStrategy" not in sent
    assert sent["ModelClientConfig"]["InvocationsTimeoutInSeconds"] == 3600
    (made,) = aws.sent("CreateModel")
    environment = json.loads(made.body)["PrimaryContainer"]["Environment"]
    for name in (
        "TS_DEFAULT_RESPONSE_TIMEOUT", "MMS_DEFAULT_RESPONSE_TIMEOUT",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT",
    ):  # fmt: skip
        assert environment[name] == "3600"
    s3 = boto3.client("s3", endpoint_url=aws.url)
    bodies = [
        s3.get_object(Bucket=BUCKET, Key=row["Key"])["Body"].read()
        for row in s3.list_objects_v2(Bucket=BUCKET, Prefix="cloudai/slow/in/")["Contents"]
    ]
    assert [body.count(b"\n") for body in bodies] == [30, 30, 30, 10]


def test_m9_a_key_or_a_tag_that_aws_cannot_hold(client: Client, model: str, tmp_path: Path) -> None:
    about: dict[str, Any] = {
        "model": model, "input": lines(tmp_path, 3), "output": str(tmp_path / "o.jsonl"),
    }  # fmt: skip
    for more, field in (
        ({"idempotency_key": "a, b"}, "idempotency_key"),
        ({"tags": {"team": "a#b"}}, "tags"),
        ({"tags": {"te(am": "a"}}, "tags"),
    ):
        plan = client.batch.plan(BatchTransform(name="t", **about, **more))
        assert field in {violation.field.partition("[")[0] for violation in plan.violations}
    fine = {"team": "Größe 1.0: a/b=c+d-e@f_g"}
    assert client.batch.plan(BatchTransform(name="t", **about, tags=fine)).ok
