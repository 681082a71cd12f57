"""The client over the fake provider: fallback, streams, creating once, handles."""

from __future__ import annotations

import asyncio
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

import cloudai
from cloudai import (
    AsyncClient,
    Client,
    ConfigError,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    ProviderError,
    ServiceUnavailable,
    State,
    StreamTruncated,
    TrainingJob,
    UnsupportedByProvider,
)
from cloudai.testing import FakeScript


@pytest.fixture(autouse=True)
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment would go before the homes that the files here name."""
    monkeypatch.delenv("CLOUDAI_HOME", raising=False)


@pytest.fixture
def script(tmp_path: Path) -> FakeScript:
    return FakeScript(tmp_path / "fake")


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("print('hello')\n")
    return TrainingJob(source=str(source), entry="train.py")


def two_profiles(tmp_path: Path) -> tuple[Client, FakeScript, FakeScript]:
    file = tmp_path / "cloudai.toml"
    file.write_text(
        f"""
        [profiles.first]
        provider = "fake"
        home = "{tmp_path}/one"
        retries = 0
        fallback = ["second"]
        models = {{ smart = "model-1", embed = "vectors-1" }}
        [profiles.second]
        provider = "fake"
        home = "{tmp_path}/two"
        retries = 0
        models = {{ smart = "model-2", embed = "vectors-2", same = "vectors-1" }}
        """
    )
    client = Client("first", config=file)
    return client, FakeScript(tmp_path / "one"), FakeScript(tmp_path / "two")


def test_chat_falls_back_with_the_other_profiles_own_model(tmp_path: Path) -> None:
    client, first, second = two_profiles(tmp_path)
    first.fail("chat.create", ServiceUnavailable)
    assert client.chat.create("hi", model="smart").text == "hi"
    assert [request.model for request in second.requests("chat.create")] == ["model-2"]


def test_a_bad_request_does_not_fall_back(tmp_path: Path) -> None:
    client, first, second = two_profiles(tmp_path)
    first.fail("chat.create", InvalidRequest)
    with pytest.raises(InvalidRequest):
        client.chat.create("hi")
    assert second.received == []


def test_when_all_fail_the_last_failure_is_raised_with_the_first_as_its_cause(
    tmp_path: Path,
) -> None:
    client, first, second = two_profiles(tmp_path)
    first.fail("chat.create", ServiceUnavailable, message="one")
    second.fail("chat.create", ConnectionFailed, message="two")
    with pytest.raises(ConnectionFailed, match="two") as caught:
        client.chat.create("hi")
    assert "one" in str(caught.value.__cause__)


def test_a_stream_falls_back_before_its_first_piece_and_not_after(tmp_path: Path) -> None:
    client, first, second = two_profiles(tmp_path)
    first.fail("chat.stream", ServiceUnavailable)
    stream = client.chat.stream("one two three")
    assert "".join(chunk.text for chunk in stream) == "one two three"
    first.cut_stream(chunks=1)
    stream = client.chat.stream("one two three")
    with pytest.raises(StreamTruncated) as caught:
        list(stream)
    assert caught.value.text == "one"
    assert len(second.requests("chat.stream")) == 1


def test_embeddings_never_fall_back_to_another_model(tmp_path: Path) -> None:
    client, first, second = two_profiles(tmp_path)
    first.fail("embeddings.create", ServiceUnavailable)
    with pytest.raises(ServiceUnavailable):
        client.embeddings.create("a", model="embed")
    assert second.received == []
    first.fail("embeddings.create", ServiceUnavailable)
    assert client.embeddings.create("a", model="vectors-1").dim
    assert [r.model for r in second.requests("embeddings.create")] == ["vectors-1"]


def test_a_stream_adds_up_to_the_answer(script: FakeScript) -> None:
    script.reply("the sky scatters blue light", reasoning="think")
    with script.client().chat.stream("why?") as stream:
        texts = [chunk.text for chunk in stream]
    assert "".join(texts) == stream.text == stream.reply.text == "the sky scatters blue light"
    assert stream.reply.reasoning[0].text == "think"
    assert stream.reply.usage.output_tokens > 0
    assert list(stream) == []


def test_a_truncated_stream_is_never_a_success(script: FakeScript) -> None:
    script.reply("one two three four")
    script.cut_stream(chunks=2)
    stream = script.client().chat.stream("x")
    with pytest.raises(StreamTruncated) as caught:
        list(stream)
    assert caught.value.text == "one two"
    with pytest.raises(StreamTruncated):
        _ = stream.reply


async def test_the_async_stream_does_the_same(script: FakeScript) -> None:
    client = script.async_client()
    script.reply("one two three")
    async with client.chat.stream("x") as stream:
        texts = [chunk.text async for chunk in stream]
    assert "".join(texts) == "one two three"
    script.reply("one two three")
    script.cut_stream(chunks=1)
    stream = client.chat.stream("x")
    with pytest.raises(StreamTruncated):
        [chunk async for chunk in stream]


def test_a_bad_stream_request_is_told_at_once(script: FakeScript) -> None:
    with pytest.raises(InvalidRequest):
        script.client().chat.stream("x", temperature=9)
    assert script.received == []


@dataclass
class Person:
    name: str
    age: int


def test_an_answer_is_parsed_or_refused(script: FakeScript) -> None:
    client = script.client()
    script.reply('{"name": "Ada", "age": 36}')
    assert client.chat.create("Ada, 36", response_type=Person).parsed == Person("Ada", 36)
    script.reply('{"name": "Ada"}')
    with pytest.raises(ProviderError, match="age"):
        client.chat.create("Ada, 36", response_type=Person)
    script.reply('{"name": "A', finish_reason="length")
    with pytest.raises(ProviderError, match="max_tokens"):
        client.chat.create("Ada, 36", response_type=Person)
    (request, *_) = script.requests("chat.create")
    assert request.response_schema.schema["additionalProperties"] is False
    assert set(request.response_schema.schema["properties"]) == {"name", "age"}


def test_messages_are_read_as_openai_writes_them(script: FakeScript) -> None:
    client = script.client()
    client.chat.create(
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "function": {"name": "look", "arguments": '{"city":"Ulm"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "rain"},
        ]
    )
    (request,) = script.requests("chat.create")
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[2].content[0].input == {"city": "Ulm"}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "wizard", "content": "x"}],
        [{"role": "user"}],
        ["text"],
        [{"role": "user", "content": [{"type": "sound"}]}],
        "",
        [{"role": "system", "content": "only this"}],
    ],
)
def test_bad_messages_are_refused_before_anything_is_sent(
    script: FakeScript, messages: object
) -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        script.client().chat.create(messages)  # type: ignore[arg-type]
    assert script.received == []


def test_a_function_is_a_tool(script: FakeScript) -> None:
    def weather(city: str, days: int = 1) -> str:
        """Tells the weather.

        More text.
        """
        return f"{city} {days}"

    made = cloudai.tool(weather)
    assert made.description == "Tells the weather."
    assert made.parameters["required"] == ["city"]
    assert made.parameters["properties"]["days"]["type"] == "integer"
    script.reply(tool_calls={"weather": {"city": "Ulm"}})
    reply = script.client().chat.create("?", tools=[weather], tool_choice="weather")
    assert reply.finish_reason == "tool_calls"
    assert reply.tool_calls[0].input == {"city": "Ulm"}
    assert reply.message.role == "assistant"
    with pytest.raises(InvalidRequest, match="tool_choice"):
        script.client().chat.create("?", tools=[weather], tool_choice="wether")

    def untyped(city):  # type: ignore[no-untyped-def]
        return city

    with pytest.raises(InvalidRequest, match="no type hint"):
        cloudai.tool(untyped)


def test_empty_texts_are_refused_by_index(script: FakeScript) -> None:
    with pytest.raises(InvalidRequest, match=r"texts\[1\]"):
        script.client().embeddings.create(["a", "  ", "b"])
    with pytest.raises(InvalidRequest, match="texts"):
        script.client().embeddings.create([])
    assert script.received == []


def test_a_lost_reply_makes_no_second_job(
    script: FakeScript, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    client = script.client()
    for _ in range(100):
        script.lose_reply("training.submit")
        client.training.submit(job)
    assert len(client.training.list()) == 100
    assert len(client.resources()) == 100


def test_the_same_key_is_the_same_job_and_other_work_is_refused(
    script: FakeScript, job: TrainingJob
) -> None:
    import msgspec

    client = script.client()
    keyed = msgspec.structs.replace(job, idempotency_key="k1")
    first = client.training.submit(keyed)
    assert client.training.submit(keyed).id == first.id
    assert len(script.requests("training.submit")) == 1
    with pytest.raises(Conflict, match="hyperparameters"):
        client.training.submit(msgspec.structs.replace(keyed, hyperparameters={"x": 1}))


def test_a_submission_that_was_refused_leaves_no_trace(
    script: FakeScript, job: TrainingJob
) -> None:
    client = script.client()
    script.fail("training.submit", InvalidRequest)
    with pytest.raises(InvalidRequest):
        client.training.submit(job)
    assert client.resources() == []


def test_a_create_of_unknown_fate_stays_in_the_ledger_and_is_found_again(
    script: FakeScript, job: TrainingJob
) -> None:
    import msgspec

    keyed = msgspec.structs.replace(job, idempotency_key="k1")
    client = script.client(retries=0)
    script.lose_reply("training.submit")
    with pytest.raises(ConnectionFailed):
        client.training.submit(keyed)
    (entry,) = client.resources()
    assert (entry.state, entry.uri) == (State.PLANNED, None)
    again = script.client().training.submit(keyed)
    assert again.wait(30).state is State.SUCCEEDED
    assert len(client.training.list()) == 1


def test_an_unconfirmed_create_can_be_destroyed(script: FakeScript, job: TrainingJob) -> None:
    client = script.client(retries=0)
    script.lose_reply("training.submit")
    with pytest.raises(ConnectionFailed):
        client.training.submit(job)
    client.destroy(client.resources()[0])
    assert client.resources() == []
    assert client.training.list() == []


async def test_a_cancelled_submit_is_still_recorded(script: FakeScript, job: TrainingJob) -> None:
    client = script.async_client()
    script.delay("training.submit", 2.0)
    task = asyncio.create_task(client.training.submit(job))
    while not script.requests("training.submit"):  # it is on its way, and takes its time
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (entry,) = await client.resources()
    assert entry.uri is not None


def test_a_look_that_fails_does_not_end_the_wait(script: FakeScript, job: TrainingJob) -> None:
    handle = script.client(retries=0).training.submit(job)
    script.fail("training.status", ServiceUnavailable, times=3)
    assert handle.wait(30).state is State.SUCCEEDED


def test_handles_and_clients_do_not_pickle_but_their_ids_travel(
    script: FakeScript, job: TrainingJob
) -> None:
    client = script.client()
    handle = client.training.submit(job)
    for thing in (client, handle):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    assert cloudai.Client(provider="fake").attach(handle.id).id == handle.id
    assert handle.id in handle.to_json()
    assert handle.id in repr(handle)


def test_what_is_not_there_is_told(script: FakeScript) -> None:
    client = script.client()
    with pytest.raises(NotFound):
        client.training.attach("nothing")
    with pytest.raises(ConfigError, match="kind 'batch'"):
        client.training.attach("cloudai://fake/batch/x")


def test_a_capability_that_a_provider_lacks_names_who_has_it() -> None:
    from cloudai._core.profiles import registry

    spec = registry.ProviderSpec(name="half", title="half")
    with pytest.raises(UnsupportedByProvider, match="local, fake"):
        registry.adapter_factory(spec, "training")


def test_a_missing_package_names_the_pip_command() -> None:
    from cloudai._core.profiles import registry

    spec = registry.ProviderSpec(name="half", title="half", extras={"chat": "aws"})
    with pytest.raises(cloudai.MissingExtra, match=r"pip install 'cloudai\[aws\]'"):
        registry.load_extra("no_such_package.module:Thing", spec, "chat")


def test_one_client_serves_many_loops(tmp_path: Path) -> None:
    client = FakeScript(tmp_path).async_client()
    before = len(os.listdir("/proc/self/fd"))

    async def once() -> str:
        return (await client.chat.create("hi")).text

    assert [asyncio.run(once()) for _ in range(150)] == ["hi"] * 150
    assert len(os.listdir("/proc/self/fd")) <= before + 3


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_client_survives_a_fork(script: FakeScript) -> None:
    client = script.client()
    client.chat.create("before")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if client.chat.create("hi").text == "hi" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.chat.create("after").text == "after"


def test_the_async_client_is_the_same_interface() -> None:
    for name in ("chat", "embeddings", "training", "endpoints", "batch"):
        assert isinstance(getattr(Client, name), property)
        assert isinstance(getattr(AsyncClient, name), property)
