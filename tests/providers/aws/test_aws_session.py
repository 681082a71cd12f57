"""The session: credentials, regions, roles, secrets, mocks in process, and nothing that leaks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudai import BatchTransform, Client, TrainingJob
from cloudai._core.profiles.config import Config, Profile
from cloudai.errors import (
    AuthenticationError,
    CloudAIError,
    ConfigError,
    ContextOverflow,
    NotFound,
    StreamTruncated,
)
from cloudai.protocols import Call
from cloudai.providers.aws import SPEC
from cloudai.providers.aws.secrets import AwsSecrets
from cloudai.providers.aws.session import AwsSession
from cloudai.testing.emulators.aws import (
    ROLE,
    AwsEmulator,
    Fate,
    ScriptedExecutor,
    mock_aws,
)
from cloudai.types import SecretRef

CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"


def test_credentials_that_expire_in_a_long_wait_are_renewed(
    aws: AwsEmulator, keys: Any, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("")
    aws.cloud_state.lifetime = 1.5
    aws.cloud_state.executor = ScriptedExecutor([Fate(running=4.0)])
    client = Client(**keys, assume_role=ROLE)
    job = client.training.submit(TrainingJob(source=str(tmp_path), entry="train.py", timeout=60))
    began = time.monotonic()
    assert job.wait(30).state.succeeded
    assert time.monotonic() - began > 2.0
    used = {
        one.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for one in aws.sent("DescribeTrainingJob")
    }
    assert len(used) > 1, "one set of credentials outlived its time"
    assert aws.env["AWS_ACCESS_KEY_ID"] not in used


def test_credentials_that_another_program_renews_are_read_anew(
    aws: AwsEmulator, keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"

    def write(key: str) -> None:
        file.write_text(
            f"[default]\naws_access_key_id={key}\naws_secret_access_key=x\naws_session_token=t\n"
        )

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write("AKIAOLD")
    client = Client(**keys)
    assert client.chat.create("Hi", model=CLAUDE).text == "Hi"
    client.training.list()
    aws.cloud_state.expiries["AKIAOLD"] = 0.0
    with pytest.raises(AuthenticationError, match="aws sso login"):
        client.chat.create("Hi", model=CLAUDE)
    write("AKIANEW")
    assert client.chat.create("Hi again", model=CLAUDE).text == "Hi again"
    assert client.training.list() == []


SSO = """
import cloudai
from cloudai.errors import AuthenticationError
model = "anthropic.claude-sonnet-4-5-20250929-v1:0"
for profile in ("work", "chained"):
    with cloudai.Client(provider="aws", profile=profile) as client:
        print(client.chat.create(profile, model=model).text)
        print(client.chat.create("again", model=model).text, len(client.training.list()))
with cloudai.Client(provider="aws", profile="signed-out") as client:
    try:
        client.chat.create("Hi", model=model)
    except AuthenticationError as error:
        print("told" if "aws sso login" in str(error) else error)
"""


def test_profiles_of_sso_and_of_roles_over_it(aws: AwsEmulator, tmp_path: Path) -> None:
    """In a process of its own, since botocore looks for the home folder when it is imported. The
    role's credentials last half a minute, and are renewed ahead of their end."""
    (tmp_path / ".aws" / "sso" / "cache").mkdir(parents=True)
    (tmp_path / ".aws" / "config").write_text(
        "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://c.example/start\n"
        "sso_registration_scopes = sso:account:access\n"
        "[profile work]\nsso_session = corp\nsso_account_id = 123456789012\n"
        "sso_role_name = dev\nregion = us-east-1\n"
        f"[profile chained]\nrole_arn = {ROLE}\nsource_profile = work\nregion = us-east-1\n"
        "[sso-session other]\nsso_region = us-east-1\nsso_start_url = https://d.example/start\n"
        "[profile signed-out]\nsso_session = other\nsso_account_id = 123456789012\n"
        "sso_role_name = dev\nregion = us-east-1\n"
    )
    token = {"startUrl": "https://c.example/start", "region": "us-east-1",
             "accessToken": "emulated-sso-token", "expiresAt": "2099-01-01T00:00:00Z"}  # fmt: skip
    name = hashlib.sha1(b"corp").hexdigest()
    (tmp_path / ".aws" / "sso" / "cache" / f"{name}.json").write_text(json.dumps(token))
    aws.cloud_state.lifetime = 30.0
    env = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    env |= {"HOME": str(tmp_path), "AWS_ENDPOINT_URL": aws.url, "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(
        [sys.executable, "-c", SSO], capture_output=True, text=True, timeout=120, env=env
    )
    assert done.stdout.splitlines() == ["work", "again 0", "chained", "again 0", "told"], done
    keys = [
        one.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for one in aws.sent("/converse")
    ]
    assert len(set(keys)) >= 4


def test_no_credentials(aws: AwsEmulator, keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for work in (lambda c: c.chat.create("Hi", model=CLAUDE), lambda c: c.training.list()):
        with pytest.raises(AuthenticationError, match="AWS_PROFILE"):
            work(Client(**keys))


def test_a_bedrock_key_goes_as_a_bearer(
    aws: AwsEmulator, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-canary")
    client = Client(**keys)
    with pytest.raises(CloudAIError) as caught:  # moto routes by signatures, and finds none
        client.chat.create("Hi", model=CLAUDE, timeout=5)
    assert "canary" not in str(caught.value)
    (sent, *_) = aws.sent("/converse")
    assert sent.headers["authorization"] == "Bearer bedrock-api-key-canary"


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"region": "eu-wets-1", "endpoint_url": None}, "eu-west-1"),
        ({"region": "Ireland"}, "region"),
        ({"profile": "no-such-profile"}, "no-such-profile"),
        ({"assume_role": "admin"}, "assume_role"),
    ],
)
def test_bad_keys(aws: AwsEmulator, keys: Any, about: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Client(**{**keys, **about}).chat.create("Hi", model=CLAUDE)
    assert aws.sent("/converse") == []


def test_the_region_comes_from_the_aws_configuration(
    aws: AwsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert Client(provider="aws").chat.create("Hi", model=CLAUDE).text == "Hi"
    (sent,) = aws.sent("/converse")
    assert "/eu-west-1/bedrock/aws4_request" in sent.headers["authorization"]
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="region"):
        Client(provider="aws").chat.create("Hi", model=CLAUDE)


def test_a_profile_of_the_aws_configuration(
    aws: AwsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(
        f"[profile work]\nregion = ap-south-1\nendpoint_url = {aws.url}\n"
        "aws_access_key_id = AKIAWORK\naws_secret_access_key = x\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.delenv("AWS_DEFAULT_REGION")  # it goes before a profile's region
    client = Client(provider="aws", profile="work")
    assert client.chat.create("Hi", model=CLAUDE).text == "Hi"
    (sent,) = aws.sent("/converse")
    assert "/ap-south-1/" in sent.headers["authorization"]


def test_sessions_share_what_reads_the_descriptions(aws: AwsEmulator, keys: Any) -> None:
    settings = {key: value for key, value in keys.items() if key != "provider"}
    made = [AwsSession(Profile("aws", SPEC, {**settings, **role}))
            for role in ({}, {}, {"assume_role": ROLE})]  # fmt: skip
    readers = {id(one._botocore.get_component("data_loader")): one for one in made}
    assert len(readers) == 1
    paths = made[0]._botocore.get_component("data_loader").search_paths
    assert len(paths) == len(set(paths))


def test_secrets(aws: AwsEmulator, keys: Any) -> None:
    manager = boto3.client("secretsmanager", endpoint_url=aws.url)
    manager.create_secret(Name="db", SecretString='{"user": "u", "password": "p4ss"}')
    manager.put_secret_value(SecretId="db", SecretString='{"password": "newer"}')
    manager.create_secret(Name="blob", SecretBinary=b"bytes")
    ssm = boto3.client("ssm", endpoint_url=aws.url)
    ssm.put_parameter(Name="/app/key", Value="one", Type="SecureString")
    ssm.put_parameter(Name="/app/key", Value="two", Type="SecureString", Overwrite=True)
    settings = {key: value for key, value in keys.items() if key != "provider"}
    store = AwsSecrets(Profile("aws", SPEC, settings))

    def get(kind: Any, name: str, version: str | None = None) -> str:
        return store.get(SecretRef(store=kind, name=name, version=version), Call())

    assert json.loads(get("secretsmanager", "db")) == {"password": "newer"}
    assert get("secretsmanager", "db#password") == "newer"
    assert get("secretsmanager", "db#password", "AWSPREVIOUS") == "p4ss"
    assert get("secretsmanager", "blob") == "bytes"
    assert get("ssm", "/app/key") == "two"
    assert get("ssm", "/app/key", "1") == "one"
    for kind, name in (("secretsmanager", "none"), ("ssm", "/none")):
        with pytest.raises(NotFound, match="none"):
            get(kind, name)
    with pytest.raises(NotFound) as caught:
        get("secretsmanager", "db#nothing")
    assert "newer" not in str(caught.value)


def test_a_key_of_another_provider_from_secrets_manager(aws: AwsEmulator, tmp_path: Path) -> None:
    boto3.client("secretsmanager", endpoint_url=aws.url).create_secret(
        Name="azure-key", SecretString="from-aws"
    )
    file = tmp_path / "cloudai.toml"
    file.write_text(
        f'[profiles.aws]\nprovider = "aws"\nregion = "us-east-1"\nendpoint_url = "{aws.url}"\n'
        '[profiles.prod]\nprovider = "azure"\nendpoint = "https://x.openai.azure.com"\n'
        'api_key = { secretsmanager = "azure-key" }\n'
    )
    secret = Config(file).profile("prod").secret("api_key")
    assert secret is not None
    assert secret.reveal() == "from-aws"


CANARY = "canary-5d41402abc4b2a76b9719d911017c592"


def test_no_secret_leaks(
    aws: AwsEmulator, keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Neither the secret key nor a session token nor a secret's value, at debug level, in what
    cloudai logs, shows, raises, pickles or records."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"token-{CANARY}")
    (tmp_path / "train.py").write_text("")
    boto3.client("ssm", endpoint_url=aws.url).put_parameter(
        Name="/k", Value=CANARY, Type="SecureString"
    )
    aws.requests.clear()  # the one that put the secret there
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG, "cloudai"):
        client = Client(**keys)
        client.chat.create("Hi", model=CLAUDE)
        spec = TrainingJob(
            source=str(tmp_path), entry="train.py",
            secrets={"API_KEY": SecretRef(store="ssm", name="/k")},
        )  # fmt: skip
        job = client.training.submit(spec)
        seen += [
            repr(client),
            repr(job),
            job.id,
            repr(client.profile),
            repr(client.training.plan(spec)),
        ]
        aws.faults.add("unavailable", r"/converse$", times=None)
        try:
            client.chat.create("Hi", model=CLAUDE, timeout=0.5)
        except CloudAIError as error:
            import traceback

            seen += [str(error), repr(error), "".join(traceback.format_exception(error))]
            seen.append(pickle.dumps(error).decode("latin-1"))
        seen += [repr(client._runtime.binding("chat").adapter.__dict__)]
    seen += [record.getMessage() for record in caplog.records if record.name.startswith("cloudai")]
    seen += [str(one.body) for one in aws.requests]
    home = Path(os.environ["CLOUDAI_HOME"])
    seen += [f.read_bytes().decode("latin-1") for f in home.rglob("*") if f.is_file()]
    assert [text for text in seen if CANARY in text] == []


def test_a_cut_stream_tells_what_came(aws: AwsEmulator, client: Client) -> None:
    whole = client.chat.stream("one two three four five six", model=CLAUDE)
    assert "".join(chunk.text for chunk in whole) == "one two three four five six"
    seen: set[str] = set()
    for after in range(0, 1500, 97):
        aws.faults.add("cut", r"/converse-stream$", after=after)
        stream = client.chat.stream("one two three four five six", model=CLAUDE, timeout=60.0)
        told: StreamTruncated | None = None
        try:
            for _ in stream:
                pass
        except StreamTruncated as error:
            told = error
        if told is None:
            assert stream.reply.text == "one two three four five six"
            continue
        assert told.text == stream.text
        assert "one two three four five six".startswith(told.text)
        seen.add(told.text)
    assert len(seen) > 3


def test_an_error_inside_a_stream(aws: AwsEmulator, client: Client) -> None:
    from cloudai.errors import RateLimited
    from cloudai.formats import eventstream
    from cloudai.providers.aws.chat import converse_reply

    sent = eventstream.event(
        "contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"text":"a"}}'
    ) + eventstream.exception("throttlingException", b'{"message":"too fast"}')
    chunks = converse_reply.Chunks(CLAUDE, "r", None, lambda: None).feed(sent)
    assert next(chunks).text == "a"
    with pytest.raises(RateLimited, match="too fast"):
        next(chunks)


def test_the_context_is_told(client: Client) -> None:
    with pytest.raises(ContextOverflow) as caught:
        client.chat.create("word " * 30_000, model=CLAUDE)
    assert (caught.value.tokens, caught.value.limit) == (30_000, 20_000)


def test_chat_and_embeddings_through_a_sagemaker_endpoint(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}

    def invoke(body: bytes, kind: str) -> tuple[int, bytes]:
        asked = json.loads(body)
        if "input" in asked:
            rows = [
                {"index": n, "embedding": [float(n), 1.0]} for n, _ in enumerate(asked["input"])
            ]
            return 200, json.dumps({"data": rows[::-1], "usage": usage}).encode()
        said = asked["messages"][-1]["content"]
        if not asked.get("stream"):
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return 200, json.dumps({"id": "c", "choices": [choice], "usage": usage}).encode()
        parts = [{"delta": {"content": f"{word} "}} for word in said.split()]
        parts.append({"delta": {}, "finish_reason": "stop"})
        events = [{"id": "c", "choices": [part]} for part in parts]
        events.append({"id": "c", "choices": [], "usage": usage})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return 200, f"{text}data: [DONE]\n\n".encode()

    aws.cloud_state.executor = ScriptedExecutor(invoke=invoke)
    (tmp_path / "handler.py").write_text("def load(d): ...\ndef predict(m, i, p): ...\n")
    client.endpoints.deploy(str(tmp_path), name="llm")
    reply = client.chat.create("Hello there", model="sagemaker:llm")
    assert (reply.text, reply.usage.input_tokens) == ("Hello there", 2)
    stream = client.chat.stream("one two three", model="sagemaker:llm")
    assert [chunk.text for chunk in stream if chunk.text] == ["one ", "two ", "three "]
    assert stream.reply.usage.output_tokens == 1
    found = client.embeddings.create([f"t{n}" for n in range(70)], model="sagemaker:llm")
    assert [row[0] for row in found.vectors] == [float(n % 32) for n in range(70)]
    with pytest.raises(NotFound):
        client.chat.create("Hi", model="sagemaker:none")


def test_embeddings_of_tei(aws: AwsEmulator, client: Client, tmp_path: Path) -> None:
    """It refuses OpenAI's format on /invocations; its own is sent from then on."""

    def invoke(body: bytes, kind: str) -> tuple[int, bytes]:
        asked = json.loads(body)
        if "inputs" not in asked:
            return 422, b"Failed to deserialize the JSON body: missing field `inputs`"
        return 200, json.dumps([[float(len(text)), 0.5] for text in asked["inputs"]]).encode()

    aws.cloud_state.executor = ScriptedExecutor(invoke=invoke)
    (tmp_path / "handler.py").write_text("def load(d): ...\ndef predict(m, i, p): ...\n")
    client.endpoints.deploy(str(tmp_path), name="tei")
    for count in (1, 2):
        found = client.embeddings.create(["a", "bbb"], model="sagemaker:tei")
        assert found.vectors == [[1.0, 0.5], [3.0, 0.5]]
        assert len(aws.sent("/invocations")) == 1 + count


def test_a_cut_chat_of_a_sagemaker_endpoint(
    aws: AwsEmulator, client: Client, tmp_path: Path
) -> None:
    parts: list[dict[str, Any]] = [{"delta": {"content": f"{n} "}} for n in range(20)]
    parts.append({"delta": {}, "finish_reason": "stop"})
    text = "".join(f"data: {json.dumps({'choices': [part]})}\n\n" for part in parts).encode()
    aws.cloud_state.executor = ScriptedExecutor(invoke=lambda body, kind: (200, text))
    (tmp_path / "handler.py").write_text("def load(d): ...\ndef predict(m, i, p): ...\n")
    client.endpoints.deploy(str(tmp_path), name="llm")
    aws.faults.add("cut", r"/invocations-response-stream$", after=1500)
    stream = client.chat.stream("Count", model="sagemaker:llm")
    with pytest.raises(StreamTruncated) as caught:
        list(stream)
    assert caught.value.text == stream.text
    assert stream.text.startswith("0 1 2 ")


def test_moto_in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    with mock_aws() as world:
        world.executor = ScriptedExecutor([Fate(logs=("hello",))])
        client = Client(provider="aws", region="us-east-1", role=ROLE, bucket="cloudai-emulated")
        assert client.chat.create("Hi there", model=CLAUDE).text == "Hi there"
        assert "".join(c.text for c in client.chat.stream("Hi there", model=CLAUDE)) == "Hi there"
        job = client.training.submit(TrainingJob(source=str(tmp_path), entry="train.py"))
        assert job.wait(20).state.succeeded
        assert [line.text for line in job.logs()] == ["hello"]
        model = tmp_path / "model"
        model.mkdir()
        (model / "handler.py").write_text("def load(d): ...\ndef predict(m, i, p): return i\n")
        endpoint = client.endpoints.deploy(str(model), name="mocked")
        assert endpoint.predict([1, 2]) == [1, 2]
        assert json.loads(b"".join(endpoint.stream([1]))) == {"predictions": [1]}
        assert client.embeddings.create(["a", "b"], model="cohere.embed-v4:0").array.shape[0] == 2
        lines = tmp_path / "in.jsonl"
        lines.write_text('"one"\n"two"\n')
        about = {"input": str(lines), "name": "mocked"}
        batches = [
            BatchTransform(**about, output=str(tmp_path / "a.jsonl"), model=str(model)),
            # A worker's process would be outside the mock: it is a thread.
            BatchTransform(**about, output=str(tmp_path / "b.jsonl"), chat=CLAUDE),
        ]
        for spec in batches:
            assert client.batch.submit(spec).wait(30).state.succeeded
        said = (tmp_path / "b.jsonl").read_text().splitlines()
        assert [json.loads(line)["text"] for line in said] == ["one", "two"]
        theirs = boto3.client("bedrock-runtime", region_name="us-east-1")
        found = theirs.converse(
            modelId=CLAUDE, messages=[{"role": "user", "content": [{"text": "plain boto3"}]}]
        )
        assert found["output"]["message"]["content"][0]["text"] == "plain boto3"
        client.close()


def test_plain_boto3_at_the_emulator(aws: AwsEmulator) -> None:
    """Any program can use it; its refusals have AWS's shape."""
    runtime = boto3.client("bedrock-runtime", endpoint_url=aws.url)
    asked = [{"role": "user", "content": [{"text": "a b"}]}]
    events = runtime.converse_stream(modelId=CLAUDE, messages=asked)["stream"]
    texts = [e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e]
    assert texts == ["a", " b"]
    sagemaker = boto3.client("sagemaker", endpoint_url=aws.url)
    with pytest.raises(sagemaker.exceptions.ClientError) as caught:
        sagemaker.describe_training_job(TrainingJobName="none")
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_the_description_of_the_provider_loads_no_sdk() -> None:
    code = (
        "import sys; from cloudai.providers.aws import SPEC\n"
        "heavy = {'boto3', 'botocore', 'sagemaker', 'numpy', 'urllib3'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
