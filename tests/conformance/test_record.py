"""Recording and playing: the vendors' real SDKs through a recorder, against a service on
loopback."""

from __future__ import annotations

import gzip
import http.client
import json
import struct
import threading
import zlib
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cloudai.errors import ConfigError
from cloudai.testing import Recorder
from cloudai.testing.cassette import Exchange, Response, load, save
from cloudai.testing.scrub import HIDDEN, Scrubber

KEY = "sk-live-0123456789abcdef"

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
}


def event(kind: str, body: dict[str, Any]) -> bytes:
    """One message of AWS's event stream encoding."""
    headers = b""
    for name, value in (
        (":event-type", kind),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ):
        headers += struct.pack(">B", len(name)) + name.encode()
        headers += b"\x07" + struct.pack(">H", len(value)) + value.encode()
    payload = json.dumps(body).encode()
    head = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    head += struct.pack(">I", zlib.crc32(head))
    message = head + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str, dict[str, str], bytes]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        Service.asked.append((self.command, self.path, dict(self.headers.items()), body))
        path = urlsplit(self.path).path
        if path.endswith("/converse-stream"):
            pieces = [
                event("messageStart", {"role": "assistant"}),
                event("contentBlockDelta", {"delta": {"text": "Hé"}, "contentBlockIndex": 0}),
                event("messageStop", {"stopReason": "end_turn"}),
            ]
            self._stream("application/vnd.amazon.eventstream", pieces)
        elif path == "/cut":
            self._stream("text/event-stream", [b"data: 1\n\n"], end=False)
        elif b'"stream":true' in body.replace(b" ", b""):
            chunk = {**COMPLETION, "object": "chat.completion.chunk"}
            pieces = [
                b"data: "
                + json.dumps(
                    {**chunk, "choices": [{"index": 0, "delta": {"content": text}}]}
                ).encode()
                + b"\n\n"
                for text in ("H", "i")
            ]
            self._stream("text/event-stream", [*pieces, b"data: [DONE]\n\n"])
        elif path == "/token":
            self._whole({"access_token": KEY, "echo": f"Bearer {KEY}"}, {"Set-Cookie": "a=b"})
        elif path == "/gzip-token":
            self._whole({"access_token": KEY, "n": 1}, {"Content-Encoding": "gzip"})
        elif path == "/gzip":
            self._whole({"packed": True}, {"Content-Encoding": "gzip"})
        else:
            self._whole(COMPLETION, {})

    do_GET = do_POST

    def _whole(self, value: Any, headers: dict[str, str]) -> None:
        body = json.dumps(value).encode()
        body = gzip.compress(body) if "Content-Encoding" in headers else body
        self.send_response(200)
        for name, given in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, given)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, kind: str, pieces: list[bytes], end: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        if end:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Generator[str]:
    Service.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def post(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        sent = {"Content-Type": "application/json", **headers}
        connection.request("POST", path, json.dumps(body), sent)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


FORMATS = pytest.mark.parametrize("ending", ["yaml", "json"])


@FORMATS
def test_openai_whole_and_streamed(service: str, tmp_path: Path, ending: str) -> None:
    openai = pytest.importorskip("openai")
    cassette = tmp_path / f"chat.{ending}"

    def program(url: str) -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            asked: Any = {"model": "gpt", "messages": [{"role": "user", "content": "Hello"}]}
            whole = client.chat.completions.create(**asked).choices[0].message.content
            with client.chat.completions.create(**asked, stream=True) as stream:
                return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with Recorder(cassette, service, mode="record") as recorder:
        assert program(recorder.url) == ("Hi", "Hi")
    assert len(Service.asked) == 2
    sent = {name.lower(): value for name, value in Service.asked[0][2].items()}
    assert sent["authorization"] == f"Bearer {KEY}"
    assert KEY not in cassette.read_text()
    with Recorder(cassette) as recorder:
        assert program(recorder.url) == ("Hi", "Hi")
    assert len(Service.asked) == 2, "playing asked the service"
    assert len(load(cassette)[1].response.chunks) >= 1


@FORMATS
def test_bedrocks_event_stream(
    service: str, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token-of-the-test")
    cassette = tmp_path / f"converse.{ending}"

    def program(url: str) -> str:
        client = boto3.client("bedrock-runtime", region_name="eu-west-1", endpoint_url=url)
        answer = client.converse_stream(
            modelId="eu.model-v1:0", messages=[{"role": "user", "content": [{"text": "Hello"}]}]
        )
        deltas = [
            one["contentBlockDelta"] for one in answer["stream"] if "contentBlockDelta" in one
        ]
        client.close()
        return "".join(delta["delta"]["text"] for delta in deltas)

    with Recorder(cassette, service, mode="record") as recorder:
        assert program(recorder.url) == "Hé"
    # The service got a signature that was made for it, not for the recorder.
    _, path, headers, body = Service.asked[0]
    assert headers["Authorization"] == signature(service, path, headers, body)
    text = cassette.read_text()
    for secret in (KEY, "session-token-of-the-test", "AKIAEXAMPLEEXAMPLE00"):
        assert secret not in text
    with Recorder(cassette) as recorder:
        assert program(recorder.url) == "Hé"


def signature(service: str, path: str, headers: dict[str, str], body: bytes) -> str:
    """What botocore itself signs for this request to this host."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.session import get_session

    names = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    signed = {
        name: value
        for name, value in headers.items()
        if name.lower() in names and name.lower() not in {"x-amz-date", "x-amz-security-token"}
    }

    class Then(SigV4Auth):
        def _modify_request_before_signing(self, request: Any) -> None:
            super()._modify_request_before_signing(request)
            request.context["timestamp"] = headers["X-Amz-Date"]
            del request.headers["X-Amz-Date"]
            request.headers["X-Amz-Date"] = headers["X-Amz-Date"]

    request = AWSRequest("POST", f"{service}{path}", signed, body)
    Then(get_session().get_credentials(), "bedrock", "eu-west-1").add_auth(request)
    return request.headers["Authorization"]


def test_a_stream_that_broke_breaks_again(service: str, tmp_path: Path) -> None:
    cassette = tmp_path / "cut.yaml"
    with (
        Recorder(cassette, service, mode="record") as recorder,
        pytest.raises(http.client.IncompleteRead),
    ):
        post(recorder.url, "/cut")
    with Recorder(cassette) as recorder, pytest.raises(http.client.IncompleteRead) as caught:
        post(recorder.url, "/cut")
    assert caught.value.partial == b"data: 1\n\n"


def test_packed_bodies_stay_packed(service: str, tmp_path: Path) -> None:
    cassette = tmp_path / "gzip.json"
    with Recorder(cassette, service, mode="record") as recorder:
        _, recorded = post(recorder.url, "/gzip")
    with Recorder(cassette) as recorder:
        _, played = post(recorder.url, "/gzip")
    assert gzip.decompress(played) == gzip.decompress(recorded) == b'{"packed": true}'


def test_secrets_do_not_get_into_the_cassette(service: str, tmp_path: Path) -> None:
    cassette = tmp_path / "secrets.yaml"
    with Recorder(cassette, service, mode="record", secrets=["my-bucket-name"]) as recorder:
        post(
            recorder.url, "/token?key=AIzaSyExample&sig=abc%2Bdef123", {"client_secret": "s3cr3t!!"}
        )
        post(recorder.url, "/x", {"note": f"as told: {KEY}", "where": "my-bucket-name"})
        post(recorder.url, "/x", {"api_key": "short"}, **{"x-api-key": "another-key-value"})
    text = cassette.read_text()
    for secret in (
        KEY, "AIzaSyExample", "abc%2Bdef123", "abc+def123", "s3cr3t!!", "my-bucket-name",
        "a=b", "another-key-value", '"short"',
    ):  # fmt: skip
        assert secret not in text, secret
    assert text.count(HIDDEN) >= 8
    first = load(cassette)[0]
    assert json.loads(first.response.body)["access_token"] == HIDDEN
    with Recorder(cassette) as recorder:
        # Other secrets than those that were recorded with play just as well.
        path = "/token?key=OtherKeyAltogether&sig=zzz"
        assert post(recorder.url, path, {"client_secret": "another"})[0] == 200


def test_secrets_in_packed_answers(service: str, tmp_path: Path) -> None:
    cassette = tmp_path / "packed.json"
    with Recorder(cassette, service, mode="record") as recorder:
        status, body = post(recorder.url, "/gzip-token", **{"Accept-Encoding": "gzip, br, zstd"})
    assert status == 200
    assert json.loads(gzip.decompress(body))["access_token"] == KEY
    assert Service.asked[0][2]["Accept-Encoding"] == "gzip"
    (kept,) = load(cassette)
    assert json.loads(gzip.decompress(kept.response.body)) == {"access_token": HIDDEN, "n": 1}
    with Recorder(cassette) as recorder:
        played = post(recorder.url, "/gzip-token")[1]
    assert json.loads(gzip.decompress(played))["n"] == 1


def test_what_is_not_recorded_is_named(service: str, tmp_path: Path) -> None:
    cassette = tmp_path / "one.yaml"
    with Recorder(cassette, service, mode="record") as recorder:
        post(recorder.url, "/x", {"n": 1})
        post(recorder.url, "/x", {"n": 2})
    with Recorder(cassette) as recorder:
        assert post(recorder.url, "/x", {"n": 2})[0] == 200
        assert post(recorder.url, "/x", {"n": 1})[0] == 200
    with pytest.raises(ConfigError, match="POST /y"), Recorder(cassette) as recorder:
        assert post(recorder.url, "/y", {"n": 1})[0] == 501
    with pytest.raises(ConfigError, match="POST /x"), Recorder(cassette) as recorder:
        assert post(recorder.url, "/x", {"n": 1})[0] == 200
        assert post(recorder.url, "/x", {"n": 1})[0] == 501
    with pytest.raises(ConfigError, match="cannot be read"):
        Recorder(tmp_path / "none.yaml").__enter__()
    with pytest.raises(ConfigError, match="upstream"):
        Recorder(tmp_path / "none.yaml", mode="record").__enter__()


def test_once(service: str, tmp_path: Path) -> None:
    for _ in range(2):
        with Recorder(tmp_path / "once.json", service, mode="once") as recorder:
            assert post(recorder.url, "/x", {"n": 1})[0] == 200
    assert len(Service.asked) == 1


VCR = """
interactions:
- request:
    body: '{"n": 1}'
    headers:
      Accept: ['*/*']
      authorization: [Bearer abc]
    method: POST
    uri: https://api.example.com/v1/things?b=2&a=1
  response:
    body: {string: '{"made": true}'}
    headers:
      content-type: [application/json]
      content-encoding: [gzip]
      transfer-encoding: [chunked]
      x-request-id: [req-1]
    status: {code: 201, message: Created}
- request:
    body: null
    headers: {}
    method: GET
    uri: https://api.example.com/v1/raw
  response:
    body:
      string: !!binary |
        AAECAwQ=
    headers: {}
    status: {code: 200, message: OK}
version: 1
"""


def test_a_vcrpy_cassette_loads_as_it_is(tmp_path: Path) -> None:
    cassette = tmp_path / "vcr.yaml"
    cassette.write_text(VCR)
    with Recorder(cassette) as recorder:
        status, body = post(recorder.url, "/v1/things?a=1&b=2", {"n": 1})
        assert (status, body) == (201, b'{"made": true}')
        connection = http.client.HTTPConnection(urlsplit(recorder.url).netloc, timeout=10)
        connection.request("GET", "/v1/raw")
        assert connection.getresponse().read() == bytes(range(5))
        connection.close()


@FORMATS
@pytest.mark.parametrize(
    "body", [b"", b"text \xc3\xa9\n", bytes(range(256)), b"\xff\xfe", "\u2028\x85 😀".encode()]
)
def test_bodies_of_all_kinds_come_back(tmp_path: Path, ending: str, body: bytes) -> None:
    response = Response(status=200, reason="OK", headers=(("A", "1"), ("A", "2")), body=body)
    exchange = Exchange(method="POST", uri="http://x/y", body=body, response=response)
    save(tmp_path / f"c.{ending}", [exchange])
    assert load(tmp_path / f"c.{ending}") == [exchange]


@pytest.mark.parametrize("text", ["", "[]", "{}", "interactions: [{}]", "interactions: 5", "{"])
def test_what_is_no_cassette(tmp_path: Path, text: str) -> None:
    for ending in ("yaml", "json"):
        file = tmp_path / f"bad.{ending}"
        file.write_text(text)
        with pytest.raises(ConfigError, match="no cassette"):
            load(file)


def test_short_values_are_hidden_in_their_place_alone() -> None:
    scrubber = Scrubber()
    exchange = Exchange(
        method="POST",
        uri="http://x/y?key=ab",
        headers=(("Content-Type", "application/json"),),
        body=b'{"text": "about ab"}',
        response=Response(status=200),
    )
    done = scrubber.exchange(exchange)
    assert done.uri == f"http://x/y?key={HIDDEN}"
    assert done.body == exchange.body


FIXTURE = """
import json, http.client
from urllib.parse import urlsplit

def test_it(cloudai_cassette):
    recorder = cloudai_cassette({service!r})
    connection = http.client.HTTPConnection(urlsplit(recorder.url).netloc, timeout=10)
    connection.request("POST", "/x", "{{}}", {{"Content-Type": "application/json"}})
    assert json.loads(connection.getresponse().read())["id"] == "chatcmpl-1"
    connection.close()
"""


def test_the_fixture(service: str, tmp_path: Path) -> None:
    from test_suite import run

    text = FIXTURE.format(service=service)
    missing, _ = run(tmp_path, text)
    assert missing.returncode == 1
    assert "cannot be read" in missing.stdout
    recorded, _ = run(tmp_path, text, "--cloudai-record")
    assert recorded.returncode == 0, recorded.stdout
    assert (tmp_path / "cassettes/test_it/test_it.yaml").is_file()
    played, _ = run(tmp_path, text)
    assert played.returncode == 0, played.stdout
    assert len(Service.asked) == 1
