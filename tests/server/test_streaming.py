"""Answers in pieces: a handler's generator, SageMaker's functions, a client that leaves."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from running_server import Running, Start

STREAMS = """
import os, time

def load(model_dir):
    return 2

def predict(model, inputs, params):
    return [{"alive": os.path.exists(os.path.join(os.path.dirname(__file__), "closed"))}]

def stream(model, value, params):
    try:
        for number in range(params.get("count", 3)):
            # Each piece but the first waits until the one before has been read.
            while number and "read" in params and not os.path.exists(params["read"] + str(number)):
                time.sleep(0.005)
            if number == params.get("fail"):
                raise RuntimeError("no more")
            yield {"n": number * model, "of": value}
            time.sleep(params.get("sleep", 0))
    finally:
        open(os.path.join(os.path.dirname(__file__), "closed"), "w").close()
"""


def ask(server: Running, accept: str = "*/*", path: str = "/invocations", **params: object) -> str:
    body = {"inputs": ["é"], "params": params, "stream": True}
    answer = server.http.post(path, json=body, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_handlers_generator(start: Start, tmp_path: Path) -> None:
    server = start(source=STREAMS)
    wanted = [{"n": 0, "of": "é"}, {"n": 2, "of": "é"}, {"n": 4, "of": "é"}]
    for path in ("/invocations", "/predict", "/score", "/v1/models/model:predict"):
        body = {"instances": ["é"], "stream": True}
        answer = server.http.post(path, json=body)
        assert answer.headers["content-type"] == "application/jsonlines"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert [json.loads(line) for line in answer.text.splitlines()] == wanted
    events = ask(server, "text/event-stream").split("\n\n")
    assert [json.loads(event.removeprefix("data: ")) for event in events[:3]] == wanted
    assert events[3:] == ["data: [DONE]", ""]
    assert ask(server, count=0) == ""
    # The pieces come as they are made, not when all are.
    params = {"read": str(tmp_path / "read")}
    with server.http.stream(
        "POST", "/invocations", json={"inputs": [1], "params": params, "stream": True}
    ) as answer:
        for count, _ in enumerate(answer.iter_lines(), 1):
            (tmp_path / f"read{count}").touch()
    assert count == 3
    assert 'cloudai_predictions_total{model="model"' in server.http.get("/metrics").text


def test_an_error_is_a_status_before_the_first_piece_and_no_end_after_it(start: Start) -> None:
    server = start(source=STREAMS)
    body = {"inputs": [1], "stream": True, "params": {"fail": 0}}
    early = server.http.post("/invocations", json=body)
    assert early.status_code == 500
    assert "no more" in early.json()["error"]["message"]
    events = ask(server, "text/event-stream", fail=1)
    assert "no more" in events
    assert "[DONE]" not in events
    with pytest.raises(httpx.RemoteProtocolError):
        ask(server, fail=1)
    several = server.http.post("/invocations", json={"inputs": [1, 2], "stream": True})
    assert several.status_code == 400
    assert "one input, not 2" in several.json()["error"]["message"]


def test_the_generator_is_closed_when_the_client_leaves(start: Start) -> None:
    server = start(source=STREAMS)
    body = {"inputs": [1], "params": {"count": 100_000, "sleep": 0.02}, "stream": True}
    with server.http.stream("POST", "/invocations", json=body) as answer:
        next(answer.iter_lines())
    # One worker: this is answered once the generator was closed, far before its end.
    assert server.predict(1).json() == {"outputs": [{"alive": True}]}


def test_what_does_not_stream_says_so(echo: Running) -> None:
    refused = echo.http.post("/predict", json={"inputs": [1], "stream": True})
    assert refused.status_code == 400
    assert "does not stream" in refused.json()["error"]["message"]
    accepts = echo.http.post(
        "/predict", json={"inputs": [1]}, headers={"accept": "text/event-stream"}
    )
    assert accepts.status_code == 406


@pytest.mark.parametrize("kind", ["transform", "predict"])
def test_sagemakers_functions_as_generators(start: Start, kind: str) -> None:
    source = "def model_fn(d): return 'ab'\n" + (
        "def transform_fn(model, body, content_type, accept):\n"
        "    for letter in model:\n        yield body + letter\n"
        if kind == "transform"
        else "def input_fn(body, content_type): return body\n"
        "def predict_fn(data, model):\n"
        "    for letter in model:\n        yield (data + letter).encode()\n"
    )
    server = start(source=source)
    headers = {"content-type": "text/plain", "accept": "text/plain"}
    answer = server.http.post("/invocations", content="x", headers=headers)
    assert (answer.text, answer.headers["content-type"]) == ("xaxb", "text/plain")
    assert answer.headers["transfer-encoding"] == "chunked"
