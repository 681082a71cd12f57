"""``--target``: a platform's own limits and routes, on this machine."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from running_server import Running, Start, launch, model

from cloudai.errors import ConfigError
from cloudai.server import __main__ as command
from cloudai.server.app import table
from cloudai.server.config import Limits, ModelConfig, ServerConfig, VariantConfig, made, port_from
from cloudai.server.gate import Gate, TargetLimit
from cloudai.server.http.errors import Broken, HTTPError
from cloudai.server.http.intake import Intake
from cloudai.server.http.messages import Request, Response
from cloudai.server.targets import NAMES, TARGETS, TargetName, scoped
from cloudai.server.workers.pool import DeadlinePassed

JSON = {"content-type": "application/json"}
MODELS = [{"name": "m", "variants": [{"path": "/models/m"}]}]
TOLD = {
    "sagemaker": (25 << 20, 25 << 20, 60.0, "/invocations"),
    "sagemaker-serverless": (4 << 20, 4 << 20, 60.0, "/invocations"),
    "vertex": (10_000_000, 10_000_000, 600.0, "/v1/models/model:predict"),
    "vertex-shared": (1_500_000, 1_500_000, 60.0, "/v1/models/model:predict"),
    "azureml": (None, None, 180.0, "/score"),
}

# A number is answered with as many letters, or as many pieces.
SIZES = """
import os, time

def load(model_dir):
    return None

def predict(model, inputs, params):
    if "until" in params:
        open(params["began"], "a").close()
        while not os.path.exists(params["until"]):
            time.sleep(0.01)
    return ["a" * size for size in inputs]

def stream(model, value, params):
    for number in range(value):
        yield number
        time.sleep(params.get("sleep", 0))
"""


def test_the_numbers() -> None:
    for name, (body, answer, timeout, _) in TOLD.items():
        target = TARGETS[name]
        assert (target.body, target.answer, target.timeout) == (body, answer, timeout)
        assert "read 2026-" in target.source
    assert set(TOLD) == set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_the_platforms_routes_and_sizes(start: Start, name: str) -> None:
    server = start("--target", name, source=SIZES)
    target, (body, answer, _, route) = TARGETS[name], TOLD[name]

    def ask(size: int, width: int, **headers: str) -> httpx.Response:
        sent = b'{"instances": [%d]}' % size
        return server.http.post(route, content=sent.ljust(width), headers={**JSON, **headers})

    assert ask(3, 0).json() == {"predictions": ["aaa"]}
    # What the platform's callers cannot come to, and what whoever runs the server needs.
    for method, path in (
        ("POST", "/v2/models/model/infer"), ("POST", "/batch_predict"), ("POST", "/feedback"),
        ("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/v2/models/model"),
        ("POST", "/score" if route != "/score" else "/invocations"),
    ):  # fmt: skip
        refused = server.http.request(method, path, content=b"{}", headers=JSON)
        assert refused.status_code == 404, path
        assert target.title in refused.text
        assert f"POST /{route[1:]}" in refused.text or f"or {route}" in refused.text
    for path in ("/metrics", "/health", "/models", "/ping"):
        assert server.http.get(path).status_code == 200
    assert server.http.get("/models").json()["target"]["name"] == name
    described = server.http.get("/openapi.json").json()["paths"]
    assert "/feedback" not in described
    assert route.replace("models/model", "models/{model}") in described
    if body is None or answer is None:
        return
    assert ask(3, body).status_code == 200
    large = ask(3, body + 1)
    assert large.status_code == 413
    error = large.json()["error"]
    assert error["type"] == "TargetLimit"
    assert str(body) in error["message"]
    assert target.title in error["message"]
    around = len('{"predictions":[""]}')
    assert len(ask(answer - around, 0).content) == answer
    long = ask(answer - around + 1, 0)
    assert long.status_code == 500
    assert f"the answer has {answer + 1} bytes" in long.json()["error"]["message"]
    assert target.title in long.text


def test_sagemaker_strips_headers(start: Start) -> None:
    server = start("--target", "sagemaker", source=SIZES)

    def invoke(body: bytes, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.http.post("/invocations", content=body, headers={**JSON, **sent})

    assert invoke(b"[1]", x_cloudai_timeout="nan").json() == ["a"]
    assert invoke(b"[1]", x_cloudai_variant="absent").json() == ["a"]
    assert invoke(gzip.compress(b"[1]"), content_encoding="gzip").status_code == 400
    assert invoke(b"[1]", accept="text/csv").text == "a\n"
    own = "x-amzn-sagemaker-custom-attributes"
    assert invoke(b"[1]", **{own: "a" * 1024}).json() == ["a"]
    refused = invoke(b"[1]", **{own: "a" * 1025})
    assert refused.status_code == 400
    assert "at most 1024" in refused.json()["error"]["message"]


def test_vertex_asks_the_routes_that_it_was_told(start: Start) -> None:
    env = {"AIP_HEALTH_ROUTE": "/alive", "AIP_PREDICT_ROUTE": "/ask"}
    server = start("--target", "vertex", source=SIZES, env=env)
    assert server.http.get("/alive").status_code == 200
    answer = server.http.post("/ask", json={"instances": [1, 2]})
    assert answer.json() == {"predictions": ["a", "aa"]}
    refused = server.http.post("/v1/models/model:predict", json={"instances": [1]})
    assert refused.status_code == 404
    assert "callers come to POST /ask" in refused.text
    # Another platform's variables mean nothing there.
    other = start("--target", "sagemaker", source=SIZES, env=env)
    assert other.http.get("/alive").status_code == 404


def test_azureml_refuses_what_is_more_than_twice_the_workers(start: Start, tmp_path: Path) -> None:
    server = start("--target", "azureml", "--max-batch", "1", source=SIZES)
    began, until = tmp_path / "began", tmp_path / "until"
    held = {"inputs": [1], "params": {"began": str(began), "until": str(until)}}

    def waiting() -> bool:
        return 'cloudai_queue_depth{model="model",variant="main"} 1' in (
            server.http.get("/metrics").text
        )

    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(server.http.post, "/score", json=held) for _ in range(2)]
        try:
            end = time.monotonic() + 60
            while not (began.exists() and waiting()):
                assert not any(one.done() for one in asked)
                assert time.monotonic() < end
            refused = server.http.post("/score", json={"inputs": [1]})
        finally:
            until.touch()
        answers = [one.result() for one in asked]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "take at most 2 at once" in refused.json()["error"]["message"]
    assert [answer.json() for answer in answers] == [{"outputs": ["a"]}] * 2
    assert server.http.post("/score", json={"inputs": [1]}).status_code == 200


def test_streams_count_while_they_last(start: Start) -> None:
    """Azure ML takes two requests at once; streams that were read, and those that were not."""
    server = start("--target", "azureml", source=SIZES)
    for _ in range(3):
        answer = server.http.post("/score", json={"inputs": [2], "stream": True})
        assert answer.text == "0\n1\n"
    slow = {"inputs": [1000], "params": {"sleep": 0.05}, "stream": True}
    for _ in range(2):
        with server.http.stream("POST", "/score", json=slow) as open_stream:
            assert next(open_stream.iter_lines()) == "0"
    # What nobody reads any more ends when it is noticed.
    end = time.monotonic() + 30
    while server.http.post("/score", json=[1]).status_code != 200:
        assert time.monotonic() < end


@pytest.mark.parametrize(
    ("name", "route", "header"),
    [
        ("sagemaker", "/invocations", "X-Amzn-SageMaker-Target-Variant"),
        ("azureml", "/score", "azureml-model-deployment"),
    ],
)
def test_the_platforms_way_to_ask_for_a_variant(
    start: Start, tmp_path: Path, name: str, route: str, header: str
) -> None:
    other = model(tmp_path / "b", SIZES)
    server = start("--target", name, "--variant", f"b:0={other}", source=SIZES)
    answers = [
        server.http.post(route, json=[1], headers={header: wanted} if wanted else {})
        for wanted in ("", "b", "main")
    ]
    assert [one.headers["x-cloudai-variant"] for one in answers] == ["main", "b", "main"]
    assert server.http.post(route, json=[1], headers={header: "absent"}).status_code == 400


def gated(name: TargetName, **limits: Any) -> tuple[Gate, ServerConfig]:
    fields = {"models": MODELS, "target": name, "limits": limits}
    config = made(fields)
    _, gate = table({}, config)
    assert gate is not None
    return gate, config


def guarded(gate: Gate, config: ServerConfig, route: Any, ago: float) -> Response:
    """The route's answer to a request that came ``ago`` seconds ago."""

    async def ask() -> Response:
        loop = asyncio.get_running_loop()
        link = SimpleNamespace(want_body=lambda: None, break_off=lambda: None)
        came, intake = loop.time() - ago, Intake(config.limits.held)
        request = Request("POST", gate.paths[-1], {}, link, config.limits, intake, came)
        gate.table.add("POST", gate.paths[-1], gate.target.posts[-1], route)
        _, found = gate.find(request)
        answer = await found(SimpleNamespace(limits=config.limits), request)
        if answer.stream is not None:
            answer.body = b"".join([piece async for piece in answer.stream])
        return answer

    return asyncio.run(ask())


@pytest.mark.parametrize("name", NAMES)
def test_time_limits_name_the_platform(name: TargetName) -> None:
    gate, config = gated(name)
    timeout = TOLD[name][2]
    assert config.limits.timeout == timeout

    async def late(app: Any, request: Request) -> Response:
        raise DeadlinePassed("no answer came within the request's time")

    async def late_stream(app: Any, request: Request) -> Response:
        raise HTTPError(504, "no answer came within the request's time")

    for route in (late, late_stream):
        with pytest.raises(TargetLimit, match=f"within {timeout:g} seconds") as raised:
            guarded(gate, config, route, timeout)
        assert raised.value.status == 504
        assert TARGETS[name].title in str(raised.value)
    # Its own caller's or server's shorter limit is not the platform's.
    with pytest.raises(DeadlinePassed):
        guarded(gate, config, late, 1.0)
    gate, config = gated(name, timeout=5.0)
    with pytest.raises(DeadlinePassed):
        guarded(gate, config, late, 5.0)


def test_a_stream_ends_when_the_platform_hangs_up(capfd: pytest.CaptureFixture[str]) -> None:
    gate, config = gated("sagemaker")

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b"b"
        await asyncio.Event().wait()

    async def whole() -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b"b"

    async def endless(app: Any, request: Request) -> Response:
        return Response(stream=pieces())

    async def ends(app: Any, request: Request) -> Response:
        return Response(stream=whole())

    assert guarded(gate, config, ends, 100.0).body == b"ab"  # within eight minutes
    with pytest.raises(Broken):
        guarded(gate, config, endless, 479.9)
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "target_limit"
    assert "480 seconds" in line


def test_limits_in_a_configuration() -> None:
    plain = made({"models": MODELS})
    assert plain.limits == Limits()
    assert plain.target is None
    for name, (body, _, timeout, _) in TOLD.items():
        config = made({"models": MODELS, "target": name})
        assert config.limits.body == (body or Limits().body)
        assert config.limits.timeout == timeout
    small = made({"models": MODELS, "target": "vertex", "limits": {"body": 1000, "timeout": 2}})
    assert (small.limits.body, small.limits.timeout) == (1000, 2.0)
    longer = made({"models": MODELS, "target": "vertex", "limits": {"timeout": 3600}})
    assert longer.limits.timeout == 3600
    for limits, words in (
        ({"timeout": 61}, r"limits\.timeout=61 is more than SageMaker AI's .* allow: 60"),
        ({"body": 30 << 20}, r"limits\.body=31457280 is more than .*26214400"),
    ):
        with pytest.raises(ConfigError, match=words):
            made({"models": MODELS, "target": "sagemaker", "limits": limits})
    with pytest.raises(ConfigError, match="target='mars' is no target.*sagemaker"):
        made({"models": MODELS, "target": "mars"})
    # Made by hand, where nothing tells what was said: never above the platform's.
    variant = VariantConfig(path="/models/m")
    hand = ServerConfig(
        models=(ModelConfig(name="m", variants=(variant,)),), target="vertex-shared"
    )
    assert hand.limits.body == 1_500_000


def test_arguments_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(*arguments: str) -> ServerConfig:
        return command.config_from(command.parser().parse_args(arguments))

    file = tmp_path / "server.json"
    file.write_text(json.dumps({"models": MODELS, "target": "azureml"}))
    assert config("--config", str(file)).limits.timeout == 180
    over = config("--config", str(file), "--target", "sagemaker", "--timeout", "10")
    assert (over.target, over.limits.timeout, over.limits.body) == ("sagemaker", 10, 25 << 20)
    monkeypatch.setenv("CLOUDAI_TARGET", "vertex")
    monkeypatch.setenv("AIP_HTTP_PORT", "8123")
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "8124")
    assert config("--model", "m").target == "vertex"
    assert config("--model", "m").port == 8123
    assert config("--model", "m", "--target", "sagemaker").port == 8124
    assert config("--model", "m", "--target", "azureml").port == 8080
    monkeypatch.setenv("CLOUDAI_TARGET", "mars")
    with pytest.raises(ConfigError, match="CLOUDAI_TARGET='mars' is no target"):
        config("--model", "m")
    assert port_from(scoped({"AIP_HTTP_PORT": "1"}, "sagemaker")) == 8080
    assert scoped({"AIP_HTTP_PORT": "1"}, None) == {"AIP_HTTP_PORT": "1"}


def test_a_token_that_no_caller_could_send(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    env = {"CLOUDAI_SERVER_TOKEN": "t"}
    running: Running = launch(
        tmp_path / "log", "--model", str(folder), "--target", "sagemaker", env=env
    )
    assert running.process.wait(60) == 2
    running.http.close()
    assert "no caller could send the token" in running.log.read_text()
