"""The routes that five platforms ask, and hostile input: no answer of 5xx."""

from __future__ import annotations

import gzip
import io
import json
import socket
import struct
import time
from typing import Any

import httpx
import numpy as np
import pytest
from running_server import Running, Start

JSON = {"content-type": "application/json"}


def test_neutral_routes(echo: Running) -> None:
    answer = echo.predict(1, 2.5)
    assert answer.json() == {"outputs": [2, 5.0]}
    assert answer.headers["x-cloudai-variant"] == "main"
    assert len(answer.headers["x-cloudai-model-version"]) == 12
    assert echo.http.post("/predict", json={"instances": [3]}).json() == {"predictions": [6]}
    for path in ("/predict", "/batch_predict"):
        assert echo.http.post(path, json={"inputs": []}).json() == {"outputs": []}
    texts = echo.http.post("/batch_predict", json={"texts": ["a", "b"], "params": {"echo": True}})
    assert texts.json() == {"predictions": ["a", "b"]}
    one = echo.http.post("/predict", json={"text": "hi", "params": {"echo": True}})
    assert one.json() == {"prediction": "hi"}
    missing = echo.http.post("/predict", json={"other": 1})
    assert missing.status_code == 400
    assert "none of inputs, instances, text" in missing.json()["error"]["message"]
    large = echo.http.post("/predict", json={"inputs": list(range(300))})
    assert large.json()["outputs"] == [2 * n for n in range(300)]


def test_request_ids(echo: Running) -> None:
    assert echo.predict(1, headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = {echo.predict(1).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert echo.predict(1, headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_sagemaker(echo: Running) -> None:
    assert echo.http.get("/ping").status_code == 200
    parameters = echo.http.get("/execution-parameters").json()
    assert set(parameters) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}

    def invoke(body: bytes, kind: str, accept: str = "*/*") -> httpx.Response:
        headers = {"content-type": kind, "accept": accept}
        return echo.http.post("/invocations", content=body, headers=headers)

    assert invoke(b'{"instances": [1]}', "application/json").json() == {"predictions": [2]}
    assert invoke(b"[1, 2]", "application/json; charset=utf-8").json() == [2, 4]
    assert invoke(b"7", "application/json").json() == 14
    lines = invoke(b"1\n2\n\n3", "application/jsonlines")
    assert (lines.text, lines.headers["content-type"]) == ("2\n4\n6\n", "application/jsonlines")
    wanted = invoke(b"1\n2", "application/jsonlines", "application/json")
    assert wanted.json() == {"predictions": [2, 4]}
    split = invoke(b'{"input_data": {"columns": ["a"], "data": [[1]]}}', "application/json")
    assert split.status_code == 422  # an object is not a number
    assert invoke(b"", "application/json").status_code == 400


def test_content_types(start: Start) -> None:
    source = (
        "import numpy as np\n"
        "def load(d): return None\n"
        "def predict(m, inputs, params):\n"
        "    return [[type(x).__name__, getattr(x, 'shape', None) and list(x.shape),\n"
        "             x if not hasattr(x, 'shape') else float(x.sum())] for x in inputs]\n"
    )
    server = start(source=source)

    def post(body: bytes, kind: str, **headers: str) -> httpx.Response:
        return server.http.post("/predict", content=body, headers={"content-type": kind, **headers})

    assert post(b"1,a\n2.5,b\n", "text/csv", accept="application/json").json()["outputs"] == [
        ["list", None, [1, "a"]],
        ["list", None, [2.5, "b"]],
    ]
    with_names = post(b"x,y\n1,2\n", "text/csv; header=present", accept="application/json")
    assert with_names.json()["outputs"] == [["dict", None, {"x": 1, "y": 2}]]
    array = io.BytesIO()
    np.save(array, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert post(array.getvalue(), "application/x-npy").json()["outputs"] == [
        ["ndarray", [3], 3.0],
        ["ndarray", [3], 12.0],
    ]
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (4, 2), (1, 0, 0)).save(picture, "PNG")
    assert post(picture.getvalue(), "image/png").json()["outputs"] == [["ndarray", [2, 4, 3], 8.0]]
    assert post(b"x", "application/x-python-pickle").status_code == 415
    assert post(b"not a picture", "image/png").status_code == 400
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused = post(pickled.getvalue(), "application/x-npy")
    assert refused.status_code == 400
    assert "plain numbers" in refused.json()["error"]["message"]
    assert post(array.getvalue()[:-1], "application/x-npy").status_code == 400
    packed = gzip.compress(b'{"inputs": [1]}')
    assert post(packed, "application/json", **{"content-encoding": "gzip"}).status_code == 200
    bomb = gzip.compress(b" " * (20 << 20))
    assert post(bomb, "application/json", **{"content-encoding": "gzip"}).status_code == 413
    assert post(b"{}", "application/json", **{"content-encoding": "br"}).status_code == 415
    assert server.stop() == 0


def test_npy_out(echo: Running) -> None:
    headers = {"accept": "application/x-npy"}
    answer = echo.http.post("/predict", json={"inputs": [1, 2]}, headers=headers)
    assert np.load(io.BytesIO(answer.content), allow_pickle=False).tolist() == [2, 4]


def test_kserve_v1(echo: Running) -> None:
    found = echo.http.get("/v1/models").json()
    assert found["models"] == ["m"]
    assert found["data"][0]["id"] == "m"
    assert echo.http.get("/v1/models/m").json()["ready"] is True
    answer = echo.http.post("/v1/models/m:predict", json={"instances": [4]})
    assert answer.json() == {"predictions": [8]}
    assert echo.http.post("/v1/models/absent:predict", json={"instances": []}).status_code == 404
    assert echo.http.get("/v1/models/absent").status_code == 404


def test_tensors_told_from_schemas() -> None:
    from cloudai.server.routes.open_inference import _described

    picture = {"type": "array", "minItems": 8, "maxItems": 8,
               "items": {"type": "array", "items": {"type": "number"}}}  # fmt: skip
    columns = {"age": "integer", "name": "string", "more": "object"}
    table = {"type": "object", "properties": {k: {"type": v} for k, v in columns.items()}}
    assert _described("input", picture) == [
        {"name": "input", "datatype": "FP64", "shape": [-1, 8, -1]}
    ]
    assert [(one["name"], one["datatype"], one["shape"]) for one in _described("x", table)] == [
        ("age", "INT64", [-1]), ("name", "BYTES", [-1]), ("more", "BYTES", [-1]),
    ]  # fmt: skip
    assert _described("x", None) == _described("x", {}) == []


def test_kserve_v2(echo: Running) -> None:
    assert echo.http.get("/v2").json()["name"] == "cloudai"
    assert echo.http.get("/v2/health/live").json() == {"live": True}
    assert echo.http.get("/v2/health/ready").json() == {"ready": True}
    about = echo.http.get("/v2/models/m").json()
    assert about["name"] == "m"
    assert about["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1]}]
    version = about["versions"][0]
    assert echo.http.get(f"/v2/models/m/versions/{version}/ready").json()["ready"] is True
    assert echo.http.get("/v2/models/m/versions/9/ready").status_code == 404
    tensor = {"name": "x", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]}
    answer = echo.http.post("/v2/models/m/infer", json={"id": "7", "inputs": [tensor]}).json()
    assert answer == {
        "model_name": "m",
        "model_version": version,
        "id": "7",
        "outputs": [{"name": "output", "datatype": "INT64", "shape": [3], "data": [2, 4, 6]}],
    }
    # The binary tensor data extension, both ways.
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [2], "datatype": "FP32",
                 "parameters": {"binary_data_size": 8}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()  # fmt: skip
    binary = echo.http.post(
        "/v2/models/m/infer",
        content=head + struct.pack("<2f", 1.5, 2.0),
        headers={
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        },
    )
    size = int(binary.headers["inference-header-content-length"])
    assert json.loads(binary.content[:size])["outputs"][0]["shape"] == [2]
    assert struct.unpack("<2d", binary.content[size:]) == (3.0, 4.0)
    for bad in (
        {"inputs": []},
        {"inputs": [{**tensor, "shape": [4]}]},
        {"inputs": [{**tensor, "shape": [-3]}]},
        {"inputs": [{**tensor, "datatype": "COMPLEX"}]},
        {"inputs": [tensor, tensor]},
        {"inputs": [{**tensor, "data": [{}, 1, 2]}]},
    ):
        refused = echo.http.post("/v2/models/m/infer", json=bad)
        assert refused.status_code == 400, bad
        assert isinstance(refused.json()["error"], str)


HOSTILE: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "not JSON": ("/predict", b"{", JSON),
    "empty": ("/predict", b"", JSON),
    "NaN": ("/predict", b'{"inputs": [NaN]}', JSON),
    "infinity": ("/predict", b'{"inputs": [Infinity]}', JSON),
    "too large a number": ("/predict", b'{"inputs": [1e999]}', JSON),
    "an endless integer": ("/predict", b'{"inputs": [' + b"9" * 20_000 + b"]}", JSON),
    "deep lists": ("/predict", b'{"inputs": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", JSON),
    "deep objects": ("/invocations", b'{"a":' * 15_000 + b"1" + b"}" * 15_000, JSON),
    "open brackets": ("/predict", b"[" * 90_000, JSON),
    "bad UTF-8": ("/predict", b'{"inputs": ["\xff\xfe"]}', JSON),
    "a lone surrogate": ("/predict", b'{"inputs": ["\\ud800"]}', JSON),
    "UTF-16": ("/predict", '{"inputs": [1]}'.encode("utf-16"), JSON),
    "inputs no list": ("/predict", b'{"inputs": {"a": 1}}', JSON),
    "params no object": ("/predict", b'{"inputs": [1], "params": 3}', JSON),
    "wrong types": ("/predict", b'{"inputs": [null, {}, [], "x", true]}', JSON),
    "too many inputs": ("/predict", b'{"inputs": [' + b"1," * 1000 + b"1]}", JSON),
    "a huge body": ("/predict", b" " * 100_001, JSON),
    "no such type": ("/predict", b"x", {"content-type": "application/x-nothing"}),
    "pickle": ("/invocations", b"\x80\x04.", {"content-type": "application/octet-stream"}),
    "npy of objects": ("/predict", b"\x93NUMPY\x01\x00", {"content-type": "application/x-npy"}),
    "npy with code": (
        "/predict",
        b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').getpid()".ljust(32),
        {"content-type": "application/x-npy"},
    ),
    "not gzip": ("/predict", b"x", {**JSON, "content-encoding": "gzip"}),
    "csv with a null": ("/invocations", b"1,\x00\n\xff", {"content-type": "text/csv"}),
    "csv quotes": ("/invocations", b'"1,2\n', {"content-type": "text/csv"}),
    "an absent variant": ("/predict", b'{"inputs": [1]}', {**JSON, "x-cloudai-variant": "\xe9"}),
    "a bad timeout": ("/predict", b'{"inputs": [1]}', {**JSON, "x-cloudai-timeout": "nan"}),
    "a path trick": ("/v1/models/..%2f..%2fetc%2fpasswd:predict", b"{}", JSON),
    "a path trick in v2": ("/v2/models/..%2f..%2fetc/infer", b"{}", JSON),
    "a null in a path": ("/v1/models/m%00:predict", b"{}", JSON),
    "no such route": ("/../../etc/passwd", b"{}", JSON),
    "chat without a chat model": (
        "/v1/chat/completions",
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}',
        JSON,
    ),
    "embeddings without such a model": ("/v1/embeddings", b'{"model": "m", "input": "x"}', JSON),
    "a stray content length": (
        "/v2/models/m/infer",
        b"{}",
        {"content-type": "application/octet-stream", "inference-header-content-length": "99"},
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_answered_with_4xx(echo: Running, name: str) -> None:
    path, body, headers = HOSTILE[name]
    raw = {key: value.encode("latin-1") for key, value in headers.items()}
    answer = echo.http.post(path, content=body, headers=raw)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]
    assert "/etc" not in answer.text
    assert echo.predict(1).json() == {"outputs": [2]}


ROUTES = (
    "/predict", "/batch_predict", "/invocations", "/score", "/v1/models/m:predict",
    "/v2/models/m/infer", "/v1/embeddings", "/v1/chat/completions", "/feedback",
)  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_no_hostile_body_gets_5xx_on_any_route(echo: Running, route: str) -> None:
    for name, (_, body, headers) in HOSTILE.items():
        raw = {key: value.encode("latin-1") for key, value in headers.items()}
        answer = echo.http.post(route, content=body, headers=raw)
        assert answer.status_code < 500, f"{name}: {answer.text}"
    assert echo.predict(1).json() == {"outputs": [2]}


def test_tricks_with_paths(echo: Running) -> None:
    """Raw request lines, as no client library would send them."""
    names = (
        "/v1/models/../../etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd", "/v2/models/../../etc",
        "/v2/models/%2e%2e/%2e%2e/etc/passwd/infer", "//etc/passwd", "/%00", "/v1/models/m%00",
        "/v1/models/%ff%fe", "/v2/models//versions//ready", "/v2/models/m/versions/../ready",
        "/models/../handler.py", "/handler.py", "/v1/models/m:predict:predict", "/..\\..\\etc",
        "/v1/models/" + "a" * 20_000, "http://other.example/etc/passwd", "*", "/?" + "&" * 5000,
    )  # fmt: skip
    for name in names:
        for method in ("GET", "POST"):
            head = f"{method} {name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            answer = _raw(echo.port, head.encode() + b"Content-Length: 2\r\n\r\n{}")
            status = int(answer.split(b" ", 2)[1])
            # /? is the page's own place.
            assert status < 500, (name, answer)
            assert status >= 400 or name.startswith("/?"), (name, answer)
            assert b"root:" not in answer
            assert b"def predict" not in answer
    assert echo.predict(1).json() == {"outputs": [2]}


def test_methods(echo: Running) -> None:
    refused = echo.http.get("/predict")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert echo.http.request("TRACE", "/predict").status_code == 405
    head = echo.http.head("/health")
    assert (head.status_code, head.content) == (200, b"")


def _raw(port: int, data: bytes, seconds: float = 10.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        sock.sendall(data)
        answer = b""
        try:
            while part := sock.recv(65536):
                answer += part
        except TimeoutError:
            pass
    return answer


def test_broken_and_slow_clients(echo: Running) -> None:
    assert b" 400 " in _raw(echo.port, b"NOT HTTP AT ALL\r\n\r\n")
    long = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * (80 << 10)
    assert b" 431 " in _raw(echo.port, long)
    begun = time.monotonic()
    slow = _raw(
        echo.port,
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{",
    )
    assert b" 408 " in slow  # fmt: skip
    assert time.monotonic() - begun < 30
    chunked = _raw(
        echo.port,
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'7\r\n{"input\r\n8\r\ns": [1]}\r\n0\r\n\r\n',
    )
    assert chunked.endswith(b'{"outputs":[2]}')
    endless = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(8))
    large = _raw(
        echo.port,
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + endless,
    )
    assert b" 413 " in large
    assert echo.predict(1).json() == {"outputs": [2]}


def test_the_description_names_the_schema(echo: Running) -> None:
    told: dict[str, Any] = echo.http.get("/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    v1 = told["paths"]["/v1/models/{model}:predict"]["post"]
    schema = v1["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["instances"]["items"] == {"type": "number"}
    assert told["paths"]["/v1/models/{model}"]["parameters"][0]["schema"]["enum"] == ["m"]


def test_the_page_is_for_people_only(echo: Running) -> None:
    page = echo.http.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    alive = {"status": "alive", "ready": True, "models": ["m"]}
    assert echo.http.get("/").json() == alive


def test_platform_variables(start: Start, tmp_path: Any) -> None:
    from running_server import model

    env = {
        "AIP_STORAGE_URI": str(model(tmp_path / "aip")),
        "AIP_HEALTH_ROUTE": "/aip/health",
        "AIP_PREDICT_ROUTE": "/aip/predict",
        "AIP_HTTP_PORT": "1",  # the argument goes before it
    }
    server = start("serve", source="", env=env)
    assert server.http.get("/aip/health").status_code == 200
    answer = server.http.post("/aip/predict", json={"instances": [1], "parameters": {}})
    assert answer.json() == {"predictions": [2]}


def test_a_sagemaker_handler_gets_the_body_as_it_is(start: Start) -> None:
    source = (
        "def model_fn(d): return 3\n"
        "def input_fn(body, content_type): return [float(x) for x in body.split('|')]\n"
        "def predict_fn(data, model): return [x * model for x in data]\n"
        "def output_fn(out, accept): return '|'.join(map(str, out)), 'text/pipes'\n"
    )
    server = start(source=source)
    answer = server.http.post("/invocations", content="1|2", headers={"content-type": "text/x"})
    assert (answer.text, answer.headers["content-type"]) == ("3.0|6.0", "text/pipes")
    refused = server.http.post("/invocations", content="a", headers={"content-type": "text/x"})
    assert refused.status_code == 422
