"""Batch transforms over real sockets, against the emulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from vertextools import golden, sent

from cloudai import Client
from cloudai.errors import (
    Conflict,
    InvalidRequest,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobPartial,
    ServiceUnavailable,
    WaitTimeout,
)
from cloudai.providers.vertex.batch import wire
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.vertex import Fate, VertexEmulator
from cloudai.types import BatchTransform, Resources, State


@pytest.fixture
def cloud() -> Iterator[VertexEmulator]:
    with VertexEmulator(execute=True) as emulator:
        base = f"gs://{emulator.bucket}/m"
        emulator.storage.put(f"{base}/model.json", '{"scale": 2}')
        emulator.storage.put(f"{base}/handler.py", (ASSETS / "handler.py").read_text())
        yield emulator


def put(cloud: VertexEmulator, *values: Any) -> str:
    text = "".join(json.dumps(value) + "\n" for value in values)
    return cloud.storage.put(f"gs://{cloud.bucket}/in.jsonl", text)


def read(cloud: VertexEmulator, uri: str) -> list[Any]:
    return [json.loads(line) for line in (cloud.storage.get(uri) or b"").splitlines()]


SPECS: dict[str, dict[str, Any]] = {
    "batch_model": {
        "model": "gs://b/m",
        "params": {"add": 1},
        "resources": Resources(accelerator="L4:1"),
        "shards": 3,
        "on_error": "skip",
    },
    "batch_chat": {"chat": "gemini-3.5-flash", "params": {"max_tokens": 5}},
    "batch_embeddings": {
        "embeddings": "text-embedding-005",
        "params": {"dimensions": 64, "task": "query"},
    },
}


@pytest.mark.parametrize("name", SPECS)
def test_golden(name: str) -> None:
    spec = BatchTransform(
        input="gs://b/in.jsonl", output="gs://b/out.jsonl", name="batch", **SPECS[name]
    )
    record = {"text": "a"} if spec.chat is None else {"prompt": "a"}
    body = wire.encode(
        spec,
        "gs://b/base",
        "us-central1",
        model={"model": "publishers/google/models/x"},
        objects=spec.model is not None,
        service_account=None,
    )
    line = wire.line(spec, 7, record, objects=spec.model is not None)
    golden(name, {"job": body, "line": json.loads(line)})


def test_plan_is_what_is_sent(client: Client, cloud: VertexEmulator, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"a": 1}\n{"a": 2}\n')
    spec = BatchTransform(
        input=str(source),
        output=f"gs://{cloud.bucket}/out.jsonl",
        model=f"gs://{cloud.bucket}/m",
        name="planned",
        idempotency_key="k1",
    )
    plan = client.batch.plan(spec)
    assert plan.ok
    client.batch.submit(spec)
    (body,) = [one.body for one in cloud.requests if one.path.endswith("/batchPredictionJobs")]
    assert body == msgspec.json.encode(plan.requests[-1].body)
    assert plan.requests[-1].body["instanceConfig"]["keyField"] == wire.LINE


def test_gemini_s_own_batch_keeps_the_order(client: Client, cloud: VertexEmulator) -> None:
    prompts = [{"prompt": f"this is number {n}"} for n in range(30)]
    job = client.batch.submit(
        BatchTransform(
            input=put(cloud, *prompts),
            output=f"gs://{cloud.bucket}/out.jsonl",
            chat="gemini-3.5-flash",
            params={"max_tokens": 3},
            join="input",
        )
    )
    job.wait(30)
    lines = read(cloud, job.output)
    assert [line["input"] for line in lines] == prompts
    assert {line["output"]["text"].strip() for line in lines} == {"this is number"}
    assert lines[0]["output"]["finish_reason"] == "length"
    (body,) = sent(cloud, "/batchPredictionJobs")
    assert body["model"] == "publishers/google/models/gemini-3.5-flash"
    assert sent(cloud, ":generateContent") == []


@pytest.mark.parametrize("model", ["text-embedding-005", "gemini-embedding-2"])
def test_embeddings(client: Client, cloud: VertexEmulator, model: str) -> None:
    texts = ["a cat", "a dog", "a cat"]
    job = client.batch.submit(
        BatchTransform(
            input=put(cloud, *texts),
            output=f"gs://{cloud.bucket}/out.jsonl",
            embeddings=model,
            params={"dimensions": 16},
        )
    )
    job.wait(30)
    vectors = [line["embedding"] for line in read(cloud, job.output)]
    assert vectors[0] == vectors[2] != vectors[1]
    online = client.embeddings.create("a cat", model=model, dimensions=16).vectors[0]
    assert vectors[0] == pytest.approx(online, abs=1e-6)


@pytest.mark.parametrize("model", ["gemini-embedding-001", "gemini-embedding-2"])
def test_e8_lines_of_gemini_embeddings(client: Client, cloud: VertexEmulator, model: str) -> None:
    """Google's own example of a line ("Get batch embeddings inferences", read 2026-11-30)."""
    job = client.batch.submit(
        BatchTransform(
            input=put(cloud, *(f"text {n}" for n in range(20))),
            output=f"gs://{cloud.bucket}/out.jsonl",
            embeddings=model,
            params={"dimensions": 16, "task": "document"},
            join="input",
        )
    )
    (body,) = sent(cloud, "/batchPredictionJobs")
    assert "modelParameters" not in body
    (uri,) = body["inputConfig"]["gcsSource"]["uris"]
    second = read(cloud, uri)[1]
    text, config = "text 1", {"output_dimensionality": 16, "auto_truncate": False}
    if model == "gemini-embedding-2":
        text = "title: none | text: text 1"
    else:
        config["task_type"] = "RETRIEVAL_DOCUMENT"
    request = {"content": {"parts": [{"text": text}]}, "embed_content_config": config}
    assert second == {"key": "1", "request": request}
    job.wait(30)
    lines = read(cloud, job.output)
    assert [line["input"] for line in lines] == [f"text {n}" for n in range(20)]
    online = client.embeddings.create("text 1", model=model, dimensions=16, task="document")
    assert lines[1]["output"]["embedding"] == pytest.approx(online.vectors[0], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "told"),
    [("gemini-embedding-001", [3.0, 4.0]), ("gemini-embedding-2", [0.6, 0.8])],
)
def test_e8_a_vector_that_is_longer_than_asked(model: str, told: list[float]) -> None:
    spec = BatchTransform(
        input="gs://b/in", output="gs://b/out", embeddings=model, params={"dimensions": 2}
    )
    outcomes = wire.Outcomes(spec, [wire.line(spec, 0, "a", objects=False)])
    outcomes.add(b'{"key": "0", "response": {"embedding": {"values": [3.0, 4.0, 5.0]}}}')
    assert outcomes.answer(0) == {"embedding": pytest.approx(told)}


def test_partial_success_is_partial_with_the_failed_lines(
    client: Client, cloud: VertexEmulator
) -> None:
    job = client.batch.submit(
        BatchTransform(
            input=put(cloud, 1, "bad", 3),
            output=f"gs://{cloud.bucket}/out.jsonl",
            model=f"gs://{cloud.bucket}/m",
            on_error="dead_letter",
        )
    )
    with pytest.raises(JobPartial):
        job.wait(30)
    status = job.status
    assert status.state is State.PARTIAL
    assert status.native_state == "JOB_STATE_PARTIALLY_SUCCEEDED"
    assert status.errors == 1
    assert read(cloud, job.output) == [2, None, 6]
    (letter,) = read(cloud, status.outputs["errors"])
    assert letter["input"] == "bad"
    assert "this input is bad" in json.dumps(letter)
    again = client.batch.attach(job.id).status
    assert (again.state, again.outputs) == (status.state, status.outputs)


def test_model_that_does_not_load(client: Client, cloud: VertexEmulator) -> None:
    base = f"gs://{cloud.bucket}/broken"
    cloud.storage.put(f"{base}/handler.py", "def load(d):\n    1 / 0\ndef predict(m, i, p): pass\n")
    job = client.batch.submit(
        BatchTransform(input=put(cloud, 1), output=f"gs://{cloud.bucket}/out.jsonl", model=base)
    )
    with pytest.raises(JobFailed, match="ZeroDivisionError"):
        job.wait(30)
    assert cloud.storage.get(f"gs://{cloud.bucket}/out.jsonl") is None


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("JOB_STATE_EXPIRED", JobExpired),
        ("JOB_STATE_CANCELLED", JobCancelled),
        # Every line has its answer; what the service says of the whole is told all the same.
        ("JOB_STATE_FAILED", JobFailed),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", JobPartial),
        ("JOB_STATE_PAUSED", WaitTimeout),
    ],
)
def test_wait_tells_every_end(
    client: Client, cloud: VertexEmulator, state: str, error: type[Exception]
) -> None:
    cloud.batches.fates["late"] = Fate(state=state)
    job = client.batch.submit(
        BatchTransform(
            input=put(cloud, "a"),
            output=f"gs://{cloud.bucket}/out.jsonl",
            chat="gemini-3.5-flash",
            name="late",
        )
    )
    cloud.faults.add("unavailable", "GET .*/batchPredictionJobs/", times=2)
    with pytest.raises(error):
        job.wait(3 if error is WaitTimeout else 30)


def test_local_files(client: Client, cloud: VertexEmulator, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("name\nAda\n")
    output = tmp_path / "made" / "out.csv"
    job = client.batch.submit(
        BatchTransform(input=str(source), output=str(output), model=f"gs://{cloud.bucket}/m")
    )
    job.wait(30)
    assert output.read_text().splitlines() == ["name", "ADA"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [{"age": "7", "name": "ADA"}, {"age": "8", "name": "BOB"}]),
        ({"excludedFields": ["age"]}, [{"name": "ADA"}, {"name": "BOB"}]),
        (
            {"instanceType": "array", "includedFields": ["name", "age"]},
            [["ADA", "7"], ["BOB", "8"]],
        ),
    ],
)
def test_csv_and_the_instances_configuration(
    client: Client, cloud: VertexEmulator, config: dict[str, Any], expected: list[Any]
) -> None:
    base = f"gs://{cloud.bucket}/upper"
    code = "import json\ndef load(d): pass\ndef predict(m, inputs, p):\n"
    code += "    return json.loads(json.dumps(inputs).upper().replace('NAME', 'name')"
    cloud.storage.put(f"{base}/handler.py", code + ".replace('AGE', 'age'))\n")
    job = client.batch.submit(
        BatchTransform(
            input=cloud.storage.put(f"gs://{cloud.bucket}/in.csv", "name,age\nAda,7\nBob,8\n"),
            output=f"gs://{cloud.bucket}/out.jsonl",
            model=base,
            native={"vertex": {"instanceConfig": config}},
        )
    )
    job.wait(30)
    assert read(cloud, job.output) == expected


def test_nothing_is_left_after_destroy(
    client: Client, cloud: VertexEmulator, tmp_path: Path
) -> None:
    output = f"gs://{cloud.bucket}/out.jsonl"
    job = client.batch.submit(
        BatchTransform(
            input=put(cloud, 1),
            output=output,
            model=f"gs://{cloud.bucket}/m",
            handler=str(ASSETS / "handler.py"),
        )
    )
    job.wait(30)
    client.destroy(job.id)
    assert cloud.batches.all == {}
    assert cloud.serving.models == {}
    assert cloud.storage.names(f"gs://{cloud.bucket}/cloudai/") == []
    assert read(cloud, output) == [2]


def test_a_removal_that_breaks_off_is_taken_up_again(client: Client, cloud: VertexEmulator) -> None:
    job = client.batch.submit(
        BatchTransform(
            input=put(cloud, 1),
            output=f"gs://{cloud.bucket}/out.jsonl",
            model=f"gs://{cloud.bucket}/m",
            handler=str(ASSETS / "handler.py"),
        )
    )
    job.wait(30)
    cloud.faults.add("unavailable", "DELETE .*/o/.*", times=None)
    with Client(provider="vertex", **cloud.keys(), retries=0) as hasty:
        with pytest.raises(ServiceUnavailable):
            hasty.destroy(job.id)
        cloud.faults.clear()
        hasty.destroy(job.id)
    assert cloud.batches.all == {}
    assert cloud.storage.names(f"gs://{cloud.bucket}/cloudai/") == []


def test_nothing_is_left_of_a_batch_that_is_refused(client: Client, cloud: VertexEmulator) -> None:
    spec = BatchTransform(
        input=put(cloud, 1),
        output=f"gs://{cloud.bucket}/out.jsonl",
        model=f"gs://{cloud.bucket}/m",
        handler=str(ASSETS / "handler.py"),
        native={"vertex": {"nonsense": 1}},
    )
    with pytest.raises(InvalidRequest, match="nonsense"):
        client.batch.submit(spec)
    assert cloud.storage.names(f"gs://{cloud.bucket}/cloudai/") == []


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"chat": "openai:x"}, "chat"),
        ({"chat": "gemini-3.5-flash", "params": {"maximum": 1}}, "params"),
        ({"embeddings": "text-embedding-005", "tags": {"A": "b"}}, "tags"),
        ({"chat": "gemini-3.5-flash", "output": "s3://b/out"}, "output"),
        ({"chat": "gemini-3.5-flash", "input": "nowhere.jsonl"}, "input"),
        ({"model": "nowhere"}, "model"),
    ],
)
def test_bad_input_is_not_sent(
    client: Client, cloud: VertexEmulator, about: dict[str, Any], field: str
) -> None:
    spec = BatchTransform(**{"input": "gs://b/in.jsonl", "output": "gs://b/out.jsonl", **about})
    assert any(field in one.field for one in client.batch.plan(spec).violations)
    with pytest.raises(InvalidRequest, match=field):
        client.batch.submit(spec)
    assert cloud.requests == []


def test_output_that_is_there_and_lines_that_cannot_be_sent(
    client: Client, cloud: VertexEmulator
) -> None:
    output = cloud.storage.put(f"gs://{cloud.bucket}/out.jsonl", "precious\n")
    with pytest.raises(Conflict, match="output"):
        client.batch.submit(
            BatchTransform(input=put(cloud, 1), output=output, model=f"gs://{cloud.bucket}/m")
        )
    with pytest.raises(InvalidRequest, match="line 2"):
        client.batch.submit(
            BatchTransform(
                input=put(cloud, "fine", {"neither": 1}),
                output=f"gs://{cloud.bucket}/new.jsonl",
                chat="gemini-3.5-flash",
            )
        )
    assert sent(cloud, "/batchPredictionJobs") == []


def test_equal_lines_and_numbers_that_the_service_rewrites() -> None:
    spec = BatchTransform(input="i.jsonl", output="o.jsonl", model="gs://m")
    lines = [b"1", b'{"a": 2}', b"1", b'"x"']
    outcomes = wire.Outcomes(spec, lines)
    for told in (
        b'{"instance": "x", "prediction": "X"}',
        b'{"instance": 1.0, "prediction": 10}',
        b'{"instance": {"a": 2.0}, "prediction": 20}',
        b'{"instance": 1, "prediction": 10}',
        b'{"instance": "never sent", "prediction": 0}',
    ):
        outcomes.add(told)
    assert [outcomes.answer(index) for index in range(4)] == [10, 20, 10, "X"]
