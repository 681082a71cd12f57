"""Fine-tuning over real sockets, against the emulator; google-genai as the measure."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
from vertextools import golden, sent

from cloudai import AsyncClient, Client
from cloudai.errors import (
    InvalidRequest,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobPartial,
    NotFound,
    UnsupportedByProvider,
    WaitTimeout,
)
from cloudai.providers.vertex.training import examples as _examples
from cloudai.providers.vertex.training import tuning_wire as wire
from cloudai.testing.emulators.vertex import Fate, VertexEmulator
from cloudai.types import Metric, Resources, Spot, State, TrainingJob

FLASH = "gemini-3.5-flash-lite"


def example(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def lines(*examples: Any) -> str:
    return "".join(json.dumps(one) + "\n" for one in examples)


@pytest.fixture
def train(tmp_path: Path) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text(lines(example("Who?", "Ada it was."), example("Where?", "In London.")))
    return str(path)


def tuning(train: str, **about: Any) -> TrainingJob:
    about = {"name": "tuned", "base_model": FLASH, "inputs": {"train": train}, **about}
    return TrainingJob(kind="finetune", **about)


def test_golden() -> None:
    spec = tuning(
        "gs://b/train.jsonl",
        inputs={"train": "gs://b/train.jsonl", "validation": "gs://b/v.jsonl"},
        hyperparameters={"n_epochs": 3, "learning_rate_multiplier": 0.5, "adapter_size": 4},
        tags={"team": "x"},
        idempotency_key="k1",
        native={"vertex": {"supervisedTuningSpec": {"exportLastCheckpointOnly": True}}},
    )
    assert wire.violations(spec, "us-central1") == []
    files = {name: spec.input(name).uri for name in spec.inputs}
    golden("tuning_everything", wire.encode(spec, files, "robot@p.iam.gserviceaccount.com"))
    model = "projects/p/locations/us-central1/models/7@2"
    golden("tuning_goes_on", wire.encode(tuning("gs://b/t", base_model=model), files, None))


def test_same_request_as_google_genai(cloud: VertexEmulator, client: Client) -> None:
    """google-genai itself, asked the same, sends the same."""
    genai: Any = pytest.importorskip("google.genai")
    from google.oauth2.credentials import Credentials

    gemini = {
        "contents": [
            {"role": "user", "parts": [{"text": "Who?"}]},
            {"role": "model", "parts": [{"text": "Ada."}]},
        ]
    }
    uri = cloud.storage.put(f"gs://{cloud.bucket}/train.jsonl", lines(gemini))
    with genai.Client(
        vertexai=True,
        project=cloud.project,
        location=cloud.location,
        credentials=Credentials(cloud.identity.issue()["access_token"]),
        http_options=genai.types.HttpOptions(base_url=cloud.url, api_version="v1"),
    ) as theirs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls its own tuning experimental
            made = theirs.tunings.tune(
                base_model=FLASH,
                training_dataset=genai.types.TuningDataset(gcs_uri=uri),
                config=genai.types.CreateTuningJobConfig(
                    epoch_count=2,
                    learning_rate_multiplier=0.5,
                    adapter_size="ADAPTER_SIZE_FOUR",
                    tuned_model_display_name="tuned",
                    validation_dataset=genai.types.TuningValidationDataset(gcs_uri=uri),
                ),
            )
        job = client.training.submit(
            tuning(
                uri,
                inputs={"train": uri, "validation": uri},
                hyperparameters={
                    "epochs": 2, "learning_rate_multiplier": 0.5, "adapter_size": 4,
                },
            )
        )  # fmt: skip
        first, second = [one for one in cloud.requests if one.path.endswith("/tuningJobs")]
        assert first.path == second.path
        told, ours = _as_proto(first.json), _as_proto(second.json)
        assert set(ours.pop("labels")) == {"cloudai_key", "cloudai_name"}
        assert told == ours
        # What one made the other knows.
        status = job.wait(30)
        assert theirs.tunings.get(name=job.native_id).tuned_model.endpoint == job.model.uri
        assert client.training.attach(made.name).wait(30).state is State.SUCCEEDED
        assert status.native_state == "JOB_STATE_SUCCEEDED"


def _as_proto(body: dict[str, Any]) -> dict[str, Any]:
    from google.cloud.aiplatform_v1 import TuningJob
    from google.protobuf import json_format

    return json_format.MessageToDict(json_format.ParseDict(body, TuningJob.pb()()))


def test_tunes_then_chats(client: Client, cloud: VertexEmulator, train: str) -> None:
    spec = tuning(train, hyperparameters={"epochs": 2}, idempotency_key="k1")
    plan = client.training.plan(spec)
    assert plan.ok
    assert plan.cost is None  # Google's page has no price that was read
    costed = client.training.plan(msgspec.structs.replace(spec, base_model="gemini-2.5-flash"))
    assert costed.cost is not None
    assert costed.cost.high > costed.cost.low > 0
    assert any("gemini-2.5-flash ended on 2026-10-20" in note for note in costed.notes)
    assert cloud.requests == []
    job = client.training.submit(spec)
    assert sent(cloud, "/tuningJobs") == [plan.requests[-1].body]
    status = job.wait(30)
    assert status.cost is None
    model = job.model.uri
    assert client.chat.create("Who?", model=model).text == "Ada it was."
    stream = client.chat.stream("Where?", model=model)
    assert "".join(chunk.text for chunk in stream) == "In London."
    assert client.chat.create("Who?", model="gemini-3.5-flash").text != "Ada it was."
    assert [line.text for line in job.logs()][-1] == "ended: JOB_STATE_SUCCEEDED"
    assert any("2 examples" in line.text for line in job.logs())
    assert client.training.attach(job.id).status.outputs == status.outputs
    assert [one.id for one in client.training.list()] == [job.native_id]
    # A second job goes on from the first one's model.
    more = Path(train).with_name("more.jsonl")
    more.write_text(lines(example("When?", "In 1843.")))
    again = client.training.submit(
        tuning(str(more), base_model=job.outputs["registered_model"], name="more")
    )
    again.wait(30)
    assert client.chat.create("When?", model=again.model.uri).text == "In 1843."
    assert client.chat.create("Who?", model=again.model.uri).text == "Ada it was."
    for one in (again, job):
        client.destroy(one.id)
    assert cloud.serving.models == cloud.serving.endpoints == {}
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == []
    assert client.resources() == []


async def test_async(aclient: AsyncClient, train: str) -> None:
    job = await aclient.training.submit(tuning(train))
    assert (await job.wait(30)).state is State.SUCCEEDED
    model = (await job.model).uri
    assert (await aclient.chat.create("Who?", model=model)).text == "Ada it was."


def test_files_of_a_bucket(client: Client, cloud: VertexEmulator) -> None:
    foreign = cloud.storage.put(
        f"gs://{cloud.bucket}/openai.jsonl", lines(example("Who?", "Grace."))
    )
    job = client.training.submit(tuning(foreign))
    (body,) = sent(cloud, "/tuningJobs")
    uri = body["supervisedTuningSpec"]["trainingDatasetUri"]
    assert uri != foreign  # a copy in Gemini's form
    assert b'"contents"' in (cloud.storage.get(uri) or b"")
    job.wait(30)
    client.destroy(job.id)
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == [foreign]
    with pytest.raises(NotFound):
        client.training.submit(tuning(f"gs://{cloud.bucket}/none.jsonl"))
    with pytest.raises(InvalidRequest, match="gemini-1.0"):
        client.training.submit(tuning(foreign, base_model="gemini-1.0"))
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == [foreign]
    assert len(cloud.tunings.all) == 1


@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (Fate(state="JOB_STATE_EXPIRED"), JobExpired),
        (Fate(state="JOB_STATE_PARTIALLY_SUCCEEDED"), JobPartial),
        (Fate(state="JOB_STATE_FAILED", message="out of luck"), JobFailed),
    ],
)
def test_wait_tells_every_end(
    client: Client, cloud: VertexEmulator, train: str, fate: Fate, error: type[Exception]
) -> None:
    cloud.tunings.fate = fate
    job = client.training.submit(tuning(train))
    cloud.faults.add("unavailable", "GET .*/tuningJobs/", times=2)
    with pytest.raises(error):
        job.wait(30)
    client.destroy(job.id)
    assert cloud.storage.names(f"gs://{cloud.bucket}/") == []


def test_paused_and_cancelled(client: Client, cloud: VertexEmulator, train: str) -> None:
    cloud.tunings.fate = Fate(state="JOB_STATE_PAUSED")
    job = client.training.submit(tuning(train))
    cloud.clock.advance(10)
    with pytest.raises(WaitTimeout):
        job.wait(0.5)
    assert job.status.state is State.QUEUED
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(30)


def test_lost_reply_makes_no_second_job(client: Client, cloud: VertexEmulator, train: str) -> None:
    cloud.faults.add("lose_reply", "POST .*/tuningJobs$")
    job = client.training.submit(tuning(train))
    assert list(cloud.tunings.all) == [job.native_id]


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"hyperparameters": {"learning_rate": 0.1}}, "learning_rate"),
        ({"hyperparameters": {"epochs": 0}}, "epochs"),
        ({"hyperparameters": {"adapter_size": 3}}, "adapter_size"),
        ({"hyperparameters": {"learning_rate_multiplier": True}}, "learning_rate_multiplier"),
        ({"method": "dpo"}, "method"),
        ({"base_model": "projects/p/locations/l/endpoints/1"}, "base_model"),
        ({"tags": {"Upper": "x"}}, "tags"),
        ({"inputs": {"train": "nowhere.jsonl"}}, "inputs.train"),
        ({"inputs": {"train": "s3://b/k"}}, "inputs.train"),
        ({"inputs": {"train": "gs://b/k", "test": "gs://b/k"}}, "inputs.test"),
        ({"location": "global"}, "location"),
    ],
)
def test_bad_input_is_not_sent(
    cloud: VertexEmulator, train: str, about: dict[str, Any], field: str
) -> None:
    about = dict(about)
    keys = {**cloud.keys(), "location": about.pop("location", cloud.location)}
    client = Client(provider="vertex", **keys)
    spec = tuning(train, **about)
    assert any(field in one.field for one in client.training.plan(spec).violations)
    with pytest.raises(InvalidRequest, match=field):
        client.training.submit(spec)
    assert cloud.requests == []
    assert client.resources() == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("not json", "JSON"),
        ("[]", "object"),
        ('{"text": "x"}', "messages"),
        ('{"messages": []}', "messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "answer"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}', "role"),
        ('{"messages": [{"role": "user"}]}', "content"),
        ('{"messages": [{"role": "tool", "tool_call_id": "9", "content": "x"}]}', "tool call"),
        ('{"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}', "role"),
        ('{"contents": [{"role": "model", "parts": []}]}', "parts"),
        ('{"contents": [{"role": "model", "parts": [{"text": "x"}]}], "extra": 1}', "extra"),
    ],
)
def test_bad_lines_are_named(
    client: Client, cloud: VertexEmulator, train: str, line: str, word: str
) -> None:
    with Path(train).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidRequest, match=rf"line 3 of train.jsonl.*{word}"):
        client.training.submit(tuning(train))
    assert cloud.requests == []


def test_empty_and_too_many(client: Client, tmp_path: Path, train: str) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(InvalidRequest, match="no examples"):
        client.training.submit(tuning(str(empty)))
    many = tmp_path / "many.jsonl"
    many.write_text(lines({"prompt": "a", "completion": "b"}) * 5001)
    inputs = {"train": train, "validation": str(many)}
    with pytest.raises(InvalidRequest, match="5000"):
        client.training.submit(tuning(train, inputs=inputs))


def test_conversations_with_tools_and_images(tmp_path: Path) -> None:
    weather = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object"}},
    }
    given = {
        "tools": [weather],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Weather here?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "image_url", "image_url": {"url": "gs://b/cat.webp"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."},
        ],
    }
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + lines(given).encode())
    with target.open("wb") as file:
        found = _examples.convert(source, file, "inputs.train")
    assert (found.count, found.native) == (1, False)
    golden("tuning_example", msgspec.json.decode(target.read_bytes()))


def test_what_tuning_does_not_carry(client: Client, cloud: VertexEmulator, train: str) -> None:
    spec = tuning(
        train,
        resources=Resources(accelerator="L4:1"),
        spot=Spot(),
        timeout=60.0,
        env={"A": "1"},
        metrics=(Metric(name="loss", regex="loss=(.*)"),),
    )
    dropped = " ".join(client.training.plan(spec).dropped)
    assert all(word in dropped for word in ("resources", "spot", "timeout", "env", "metrics"))
    job = client.training.submit(tuning(train))
    job.wait(30)
    with pytest.raises(UnsupportedByProvider) as caught:
        job.download("here")
    assert "job.model.uri" in (caught.value.alternative or "")
    plan = client.endpoints.plan(job.model, name="tuned")
    assert "job.model.uri" in plan.violations[0].mend
