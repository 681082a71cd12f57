"""The ``emulated_*`` fixtures: cloudai and the vendors' plain SDKs reach the same emulator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import (
    AuthenticationError,
    ConfigError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    StreamTruncated,
)
from cloudai.testing import EmulatedCloud, emulated
from cloudai.testing.clouds import CLOUDS, environment
from cloudai.types import Tool, TrainingJob

CHAT = {
    "aws": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "azure": "gpt-5.1",
    "vertex": "gemini-3.5-flash",
}


def test_cloudai_and_boto3_meet(emulated_aws: EmulatedCloud) -> None:
    import boto3

    assert os.environ["AWS_ENDPOINT_URL"] == emulated_aws.url
    assert cloudai.Client().chat.create("hello there", model=CHAT["aws"]).text == "hello there"
    bucket = emulated_aws.keys["bucket"]
    boto3.client("s3").put_object(Bucket=bucket, Key="k", Body=b"v")
    bedrock = boto3.client("bedrock-runtime")
    said = bedrock.converse(
        modelId=CHAT["aws"], messages=[{"role": "user", "content": [{"text": "again"}]}]
    )
    assert said["output"]["message"]["content"] == [{"text": "again"}]


def test_cloudai_and_openai_meet(emulated_azure: EmulatedCloud) -> None:
    import openai
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    emulated_azure.emulator.vault.put("greeting", "good day")
    assert cloudai.Client().chat.create("hello", model="gpt-5.1").text == "hello"
    for client in (openai.OpenAI(), openai.AzureOpenAI()):
        with client:
            said = client.chat.completions.create(
                model="gpt-5.1", messages=[{"role": "user", "content": "hi"}]
            )
        assert said.choices[0].message.content == "hi"
    with (
        DefaultAzureCredential() as credential,
        SecretClient(os.environ["AZURE_KEYVAULT_URL"], credential) as vault,
    ):
        assert vault.get_secret("greeting").value == "good day"


def test_cloudai_and_genai_meet(emulated_vertex: EmulatedCloud) -> None:
    from google import genai

    assert cloudai.Client().chat.create("count", model=CHAT["vertex"]).text == "count"
    with genai.Client() as client:
        said = client.models.generate_content(model=CHAT["vertex"], contents="count")
    assert said.text == "count"


def test_one_test_has_several_clouds(
    emulated_aws: EmulatedCloud, emulated_azure: EmulatedCloud, emulated_vertex: EmulatedCloud
) -> None:
    for cloud in (emulated_aws, emulated_azure, emulated_vertex):
        with cloudai.Client(cloud.name) as client:
            assert client.chat.create("one", model=CHAT[cloud.name]).text
    assert cloudai.Client().profile.provider == "aws"  # the first one


@pytest.fixture(params=list(CLOUDS))
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


def test_one_question_has_one_answer_everywhere(cloud: EmulatedCloud) -> None:
    model = CHAT[cloud.name]
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = Tool(name="weather", description="d", parameters=parameters)
    with cloud.client() as client:
        assert client.chat.create("good day", model=model).text == "good day"
        assert client.chat.create("no tool", model=model, tools=[tool]).text == "no tool"
        named = client.chat.create("the weather?", model=model, tools=[tool])
        assert [call.name for call in named.tool_calls] == ["weather"]


def test_replies_are_scripted_the_same_way_everywhere(cloud: EmulatedCloud) -> None:
    model = CHAT[cloud.name]
    tool = Tool(name="weather", description="d", parameters={"type": "object", "properties": {}})
    cloud.reply("Paris").reply("in pieces").reply(tool_calls={"weather": {"city": "Rome"}})
    cloud.reply("cut", finish_reason="length").reply("busy", error="RateLimited").reply("at last")
    with cloud.client() as client:
        assert client.chat.create("capital?", model=model).text == "Paris"
        stream = client.chat.stream("more", model=model)
        assert "".join(chunk.text for chunk in stream) == "in pieces"
        (call,) = client.chat.create("x", model=model, tools=[tool]).tool_calls
        assert (call.name, call.input) == ("weather", {"city": "Rome"})
        assert client.chat.create("x", model=model).finish_reason == "length"
        assert client.chat.create("x", model=model).text == "at last"  # the 429 is waited out
        kinds = (AuthenticationError, InvalidRequest, NotFound, PermissionDenied)
        for kind in kinds:
            cloud.reply("no", error=kind)
            with pytest.raises(kind):
                client.chat.create("x", model=model)
        assert client.chat.create("by rule again", model=model).text == "by rule again"
    with pytest.raises(InvalidRequest, match="is not one of"):
        cloud.reply(error="Mood")


def test_faults_have_the_same_names_everywhere(cloud: EmulatedCloud) -> None:
    model = CHAT[cloud.name]
    with cloud.client(retries=0, timeout=60) as client:
        cloud.faults.throttle("chat.create", retry_after=70)
        with pytest.raises(RateLimited) as caught:
            client.chat.create("one", model=model)
        assert caught.value.retry_after == 70  # longer than the call may take
    with cloud.client(retries=0) as client:  # that one keeps away until then
        cloud.faults.cut_stream(2)
        pieces: list[str] = []
        with pytest.raises(StreamTruncated) as cut:
            for chunk in client.chat.stream("one two three four five", model=model):
                pieces += [chunk.text] if chunk.text else []
        assert len(pieces) == 2
        assert cut.value.text == "".join(pieces)
        cloud.faults.fail("chat.*", times=None)
        cloud.faults.clear()
        assert client.chat.create("one", model=model).text
    with cloud.client(retries=3) as client:
        for put in (cloud.faults.fail, cloud.faults.reset, cloud.faults.lose_reply):
            put("chat.create")
        assert client.chat.create("one", model=model).text
    with pytest.raises(ConfigError, match=r"Did you mean 'chat.create'"):
        cloud.faults.throttle("chat.creat")


@pytest.mark.cloudai_emulated(speed=0.001)
def test_the_mark_sets_what_it_is_made_with(emulated_vertex: EmulatedCloud) -> None:
    assert emulated_vertex.emulator.clock.speed == 0.001


@pytest.mark.parametrize("about", [{"speed": 0}, {"port": -1}, {"port": 70_000}])
def test_what_makes_no_sense_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(about))):
        emulated("aws", **about)


def test_a_port_that_is_taken_is_named(emulated_aws: EmulatedCloud) -> None:
    taken = int(emulated_aws.url.rpartition(":")[2])
    with pytest.raises(InvalidRequest, match=f"port {taken} for vertex"):
        emulated("vertex", port=taken).start()


def test_one_emulator_is_trusted_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    with emulated("azure") as first:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", first.env["REQUESTS_CA_BUNDLE"])
        with emulated("azure") as second:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", second.env["REQUESTS_CA_BUNDLE"])
            for cloud in (first, second):
                assert requests.get(cloud.emulator.secure_url, timeout=30).status_code == 404


def test_other_credentials_do_not_lead_astray(
    monkeypatch: pytest.MonkeyPatch, emulated_aws: EmulatedCloud
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    variables = environment([emulated_aws])
    assert variables["AWS_ENDPOINT_URL_S3"] is None
    assert variables["AWS_PROFILE"] is None
    assert "127.0.0.1" in str(variables["NO_PROXY"])


def test_c6_one_key_is_one_job_from_two_homes(cloud: EmulatedCloud, tmp_path: Path) -> None:
    """Two machines, the same key, no name."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "train.py").write_text("print('hi')")
    spec = TrainingJob(source=str(tmp_path / "job"), entry="train.py", idempotency_key="the-key")
    ids: set[str] = set()
    for home in ("one", "two"):
        with cloud.client(home=str(tmp_path / home)) as client:
            ids.add(client.training.submit(spec).native_id)
            assert len(client.training.list()) == 1
    assert len(ids) == 1
