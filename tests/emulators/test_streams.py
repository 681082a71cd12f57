"""With ``--execute`` streams come piece by piece, as the model makes them.

What is tested is the order of things, not the time: a model makes its next piece only when the
one before has reached the program.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import CloudAIError, ConfigError, StreamTruncated
from cloudai.testing import EmulatedCloud
from cloudai.types import ChatChunk, ChatRequest

for name in ("torch", "transformers", "moto", "openai", "google.genai"):
    pytest.importorskip(name)

CHAT = {
    "aws": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "azure": "gpt-5.1",
    "vertex": "gemini-3.5-flash",
}
pytestmark = [pytest.mark.cloudai_emulated(execute=True)]


class Steps:
    """The chat model of this machine, held after each piece until the next is asked for; or
    broken off after ``breaks`` pieces."""

    def __init__(self, stream: Any, breaks: int | None = None) -> None:
        self._stream = stream
        self._breaks = breaks
        self.made = 0
        self.asked = threading.Semaphore(0)

    def __call__(self, request: ChatRequest) -> Iterator[ChatChunk]:
        for chunk in self._stream(request):
            if chunk.text:
                self.made += 1
            yield chunk
            if self.made == self._breaks:
                raise CloudAIError("the model broke off")
            if chunk.text and self._breaks is None:
                assert self.asked.acquire(timeout=120), "nobody read the piece"


@pytest.fixture(params=list(CHAT))
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


@pytest.fixture
def local() -> Any:
    from cloudai.engine import catalog
    from cloudai.testing.emulators.common.local_models import shared

    try:
        catalog.find("chat", "", home=Path("nowhere"))
    except ConfigError as error:
        pytest.skip(str(error))
    return shared()


def test_chat(cloud: EmulatedCloud, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(local.stream)
    monkeypatch.setattr(local, "stream", steps)
    with cloudai.Client(cloud.name) as client:
        read = 0
        with client.chat.stream(
            "What is the capital of Italy?", model=CHAT[cloud.name], temperature=0
        ) as stream:
            for piece in stream:
                if piece.text:
                    read += 1
                    assert steps.made == read
                    steps.asked.release()
        assert read > 3
        assert stream.reply.usage.output_tokens >= read
        assert stream.reply.finish_reason == "stop"
        assert "Rome" in stream.reply.text


def connections(cloud: EmulatedCloud) -> list[Any]:
    """The open ones of this process to the emulator."""
    import psutil

    port = int(cloud.url.rpartition(":")[2])
    found = psutil.Process().net_connections("tcp")
    return [
        one for one in found
        if one.raddr and one.raddr.port == port and one.status == "ESTABLISHED"
    ]  # fmt: skip


def test_a_chat_that_breaks_off(
    cloud: EmulatedCloud, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "stream", Steps(local.stream, breaks=2))
    with cloudai.Client(cloud.name) as client:
        with pytest.raises(StreamTruncated) as cut:
            for _ in client.chat.stream("Count from one to ten.", model=CHAT[cloud.name]):
                pass
        if cloud.name == "aws":  # its one connection is closed, although the error lives on
            assert connections(cloud) == []
    assert cut.value.text


# Makes a piece when the file of its number is there: by cloudai's functions, or SageMaker's.
PIECES = """
import json, pathlib, time

def pieces(input):
    for number in range(input["pieces"]):
        until = time.monotonic() + 120
        while not pathlib.Path(input["folder"], str(number)).exists():
            if time.monotonic() > until:
                raise TimeoutError(f"nobody read piece {number - 1}")
            time.sleep(0.01)
        if number == input.get("breaks"):
            raise ValueError("it broke")
        yield {"piece": number}
"""
HANDLER = """

def load(model_dir):
    return None

def predict(model, inputs, params):
    return inputs

def stream(model, input, params):
    return pieces(input)
"""
SAGEMAKER = """
def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    for piece in pieces(json.loads(body)):
        yield json.dumps(piece) + "\\n"
"""


def source(folder: Path, functions: str) -> str:
    """A model's folder."""
    made = folder / "model"
    made.mkdir()
    (made / "handler.py").write_text(PIECES + functions)
    return str(made)


def stepwise(pieces: Iterable[bytes], folder: Path) -> list[Any]:
    """The lines of a streamed answer; the next piece is allowed when one has come."""
    found: list[Any] = []
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            found.append(json.loads(line))
            assert not (folder / str(len(found))).exists()  # it has not been made yet
            (folder / str(len(found))).touch()
    assert rest == b""
    return found


def test_sagemaker_s_streams(emulated_aws: EmulatedCloud, tmp_path: Path) -> None:
    import boto3

    with contextlib.ExitStack() as stack, cloudai.Client("aws") as client:
        endpoint = client.endpoints.deploy(source(tmp_path, SAGEMAKER), name="streams")
        runtime = boto3.client("sagemaker-runtime")
        stack.callback(runtime.close)

        def ask(**about: Any) -> Iterator[bytes]:
            value = {"pieces": 4, "folder": str(tmp_path), **about}
            answer = runtime.invoke_endpoint_with_response_stream(
                EndpointName="streams",
                ContentType="application/json",
                Body=json.dumps(value),
            )
            with contextlib.closing(answer["Body"]) as body:
                for event in body:
                    yield event["PayloadPart"]["Bytes"]

        (tmp_path / "0").touch()
        assert stepwise(ask(), tmp_path) == [{"piece": number} for number in range(4)]
        with pytest.raises(runtime.exceptions.ModelError, match="it broke"):
            list(ask(breaks=0))
        from botocore.exceptions import EventStreamError

        with pytest.raises(EventStreamError, match="ModelStreamError"):
            list(ask(breaks=2))
        endpoint.delete()


def test_vertex_s_raw_streams(emulated_vertex: EmulatedCloud, tmp_path: Path) -> None:
    from cloudai.providers.vertex.endpoints.adapter import raw_predict, stream_raw_predict

    with cloudai.Client("vertex") as client:
        endpoint = client.endpoints.deploy(source(tmp_path, HANDLER), name="streams")

        def ask(**about: Any) -> Iterator[bytes]:
            value = {"pieces": 4, "folder": str(tmp_path), **about}
            body = json.dumps({"instances": [value], "stream": True}).encode()
            return stream_raw_predict(endpoint, body)

        (tmp_path / "0").touch()
        assert stepwise(ask(), tmp_path) == [{"piece": number} for number in range(4)]
        with pytest.raises(CloudAIError):
            list(ask(breaks=2))
        assert json.loads(raw_predict(endpoint, b'{"instances": [7]}')) == {"predictions": [7]}
        endpoint.delete()
