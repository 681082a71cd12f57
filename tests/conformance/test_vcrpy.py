"""Cassettes of the real vcrpy play in our recorder, and ours in vcrpy."""

from __future__ import annotations

import gzip
import http.client
import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_record import COMPLETION, KEY, Service, service  # noqa: F401 - a fixture

from cloudai.testing import Recorder
from cloudai.testing.cassette import load

vcr = pytest.importorskip("vcr")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SERIALIZERS = pytest.mark.parametrize("kind", ["yaml", "json"])


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(url: str, path: str, body: Any) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("Content-Encoding")
    finally:
        connection.close()


def recorder(kind: str, **about: Any) -> Any:
    # Only what is asked of the service, and not the questions to our own recorder.
    return vcr.VCR(serializer=kind, match_on=["method", "path", "query", "body"], **about)


@pytest.mark.parametrize(
    ("kind", "unpacked"),
    # vcrpy's JSON cannot hold a packed body.
    [("yaml", False), ("yaml", True), ("json", True)],
)
def test_a_cassette_that_vcrpy_recorded(
    service: str,  # noqa: F811
    tmp_path: Path,
    kind: str,
    unpacked: bool,
) -> None:
    file = tmp_path / f"vcr.{kind}"
    with recorder(kind, decode_compressed_response=unpacked).use_cassette(str(file)):
        whole = ask(service, "/v1/chat?b=2&a=1", {"text": "Grüße 😀", "n": 1})
        packed = ask(service, "/gzip", {})
        streamed = ask(service, "/v1/chat", {"stream": True})
        again = ask(service, "/v1/chat?b=2&a=1", {"text": "Grüße 😀", "n": 1})
    asked = len(Service.asked)
    assert asked >= 3
    assert len(load(file)) == asked
    with Recorder(file) as playing:
        # The query's order and the body's spaces differ.
        played = ask(playing.url, "/v1/chat?a=1&b=2", {"n": 1, "text": "Grüße 😀"})
        assert played[:2] == whole[:2] == again[:2]
        assert json.loads(played[1]) == COMPLETION
        body, encoding = ask(playing.url, "/gzip", {})[1:]
        if encoding == "gzip":
            body = gzip.decompress(body)
        assert json.loads(body) == {"packed": True}
        assert ask(playing.url, "/v1/chat", {"stream": True})[1] == streamed[1]
    assert packed[0] == 200
    assert len(Service.asked) == asked, "playing asked the service"


def test_an_sdk_plays_what_vcrpy_recorded_of_it(service: str, tmp_path: Path) -> None:  # noqa: F811
    openai = pytest.importorskip("openai")
    file = tmp_path / "openai.yaml"

    def program(url: str) -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            given: Any = {"model": "gpt", "messages": [{"role": "user", "content": "Hello"}]}
            whole = client.chat.completions.create(**given).choices[0].message.content
            with client.chat.completions.create(**given, stream=True) as stream:
                return whole, "".join(piece.choices[0].delta.content or "" for piece in stream)

    with recorder("yaml").use_cassette(str(file)):
        assert program(service) == ("Hi", "Hi")
    if not file.exists():
        pytest.skip("this vcrpy does not see the openai SDK's HTTP client")
    with Recorder(file) as playing:
        assert program(playing.url) == ("Hi", "Hi")
    assert len(Service.asked) == 2


def test_bedrocks_event_stream_that_vcrpy_recorded(
    service: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    file = tmp_path / "bedrock.yaml"

    def program(url: str) -> str:
        client = boto3.client("bedrock-runtime", region_name="eu-west-1", endpoint_url=url)
        asked = [{"role": "user", "content": [{"text": "Hello"}]}]
        answer = client.converse_stream(modelId="eu.model-v1:0", messages=asked)
        deltas = [
            one["contentBlockDelta"] for one in answer["stream"] if "contentBlockDelta" in one
        ]
        client.close()
        return "".join(delta["delta"]["text"] for delta in deltas)

    with recorder("yaml").use_cassette(str(file)):
        assert program(service) == "Hé"
    with Recorder(file) as playing:
        assert program(playing.url) == "Hé"
    assert len(Service.asked) == 1


@SERIALIZERS
def test_vcrpy_plays_what_we_recorded(service: str, tmp_path: Path, kind: str) -> None:  # noqa: F811
    path = "/gzip" if kind == "yaml" else "/plain"  # vcrpy's JSON holds text alone
    file = tmp_path / f"ours.{kind}"
    with Recorder(file, service, mode="record") as recording:
        ask(recording.url, "/v1/chat?a=1", {"n": 1})
        ask(recording.url, path, {"n": 2})
    asked = len(Service.asked)
    with recorder(kind, record_mode="none").use_cassette(str(file)) as cassette:
        status, body, _ = ask(service, "/v1/chat?a=1", {"n": 1})
        assert (status, json.loads(body)) == (200, COMPLETION)
        body = ask(service, path, {"n": 2})[1]
        assert json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        assert cassette.play_count == 2
    assert len(Service.asked) == asked


def test_a_filtered_cassette_of_vcrpy(service: str, tmp_path: Path) -> None:  # noqa: F811
    """What vcrpy was told to leave out or to replace is no hindrance."""
    file = tmp_path / "filtered.yaml"
    hidden = {
        "filter_headers": ["authorization", ("x-api-key", "REDACTED")],
        "filter_query_parameters": ["key"],
        "filter_post_data_parameters": ["client_secret"],
    }
    form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Bearer {KEY}"}
    with recorder("yaml", **hidden).use_cassette(str(file)):
        request = urllib.request.Request(
            f"{service}/token?key={KEY}&v=1", b"client_secret=s3cr3t&grant=x", form, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            recorded = json.loads(response.read())
    with Recorder(file, match=("method", "path")) as playing:
        request = urllib.request.Request(
            f"{playing.url}/token?key=other&v=1", b"client_secret=other&grant=x", form,
            method="POST",
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.loads(response.read()) == recorded
