"""KServe's v2 answers against the published description of the Open Inference Protocol, and its
binary tensor data extension decoded by numpy.

The description is not part of the project: it is looked for in ``shared/specs`` above it.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openapi_schema_validator import OAS30Validator
from running_server import Running, Start

SPEC = next(
    (
        file
        for parent in Path(__file__).parents
        if (file := parent / "shared" / "specs" / "open_inference_v2.json").is_file()
    ),
    None,
)
pytestmark = pytest.mark.skipif(SPEC is None, reason="no shared/specs above the project")

VERSIONED = "/v2/models/{MODEL_NAME}/versions/{MODEL_VERSION}"
INFER = f"{VERSIONED}/infer"

# The protocol's names of types, and numpy's; BYTES has lengths before its values.
TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


@cache
def described() -> dict[str, Any]:
    assert SPEC is not None
    return json.loads(SPEC.read_text())


def schema(path: str, method: str, status: int) -> OAS30Validator:
    answers = described()["paths"][path][method]["responses"]
    found = answers[str(status)]["content"]["application/json"]["schema"]
    return OAS30Validator({**found, "components": described()["components"]})


def named(name: str) -> OAS30Validator:
    return OAS30Validator(
        {"$ref": f"#/components/schemas/{name}", "components": described()["components"]}
    )


def check_answer(answer: httpx.Response) -> dict[str, Any]:
    """The body of an inference's answer, once it matches the description and itself."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    schema(INFER, "post", 200).validate(told)
    for tensor in told["outputs"]:
        check_tensor(tensor)
    return told


def check_tensor(tensor: dict[str, Any]) -> None:
    assert all(size >= 0 for size in tensor["shape"])
    assert len(tensor["data"]) == math.prod(tensor["shape"])
    kinds = {"BYTES": str, "BOOL": bool, "INT64": int, "UINT64": int, "FP64": (int, float)}
    assert all(isinstance(value, kinds[tensor["datatype"]]) for value in tensor["data"])


def check_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    # The description has 400 alone; the others have the same body here.
    schema(INFER, "post", 400).validate(told)
    schema("/v2/", "get", 400).validate(told)  # this one requires the text
    return told["error"]


def tensor(data: list[Any], datatype: str, *shape: int, name: str = "x") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data}


def infer(
    server: Running, *inputs: dict[str, Any], path: str = "/v2/models/m", **more: Any
) -> httpx.Response:
    body = {"inputs": list(inputs), **more}
    named("inference_request").validate(body)
    return server.http.post(f"{path}/infer", json=body)


def packed(*values: str) -> bytes:
    texts = [value.encode() for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def unpacked(told: dict[str, Any], blobs: bytes) -> None:
    """Puts the binary data of the outputs into them as the description's data."""
    for one in told["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        if size is None:
            continue
        assert "data" not in one
        blob, blobs = blobs[:size], blobs[size:]
        assert len(blob) == size
        if one["datatype"] != "BYTES":
            one["data"] = np.frombuffer(blob, TYPES[one["datatype"]]).tolist()
            continue
        one["data"] = []
        while blob:
            end = 4 + int.from_bytes(blob[:4], "little")
            one["data"].append(blob[4:end].decode())
            blob = blob[end:]
    assert not blobs


def binary(
    server: Running, head: dict[str, Any], blobs: bytes = b"", path: str = "/v2/models/m/infer"
) -> httpx.Response:
    sent = json.dumps(head).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(sent)),
    }
    return server.http.post(path, content=sent + blobs, headers=headers)


def check_binary(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:size])
    unpacked(told, answer.content[size:])
    schema(INFER, "post", 200).validate(told)
    for one in told["outputs"]:
        check_tensor(one)
    return told


def version(server: Running) -> str:
    return server.http.get("/v2/models/m").json()["versions"][0]


def test_every_route_of_the_description_is_answered(echo: Running) -> None:
    own = version(echo)
    asked: set[tuple[str, str]] = set()
    for path, methods in described()["paths"].items():
        for method in set(methods) - {"parameters"}:
            asked.add((path, method))
            place = path.format(MODEL_NAME="m", MODEL_VERSION=own)
            body = {"inputs": [tensor([1, 2], "INT64", 2)]} if method == "post" else None
            answer = echo.http.request(method, place, json=body)
            assert answer.status_code == 200, path
            content = methods[method]["responses"]["200"].get("content")
            if content:
                schema(path, method, 200).validate(answer.json())
    assert len(asked) == 6
    assert (INFER, "post") in asked


def test_metadata(echo: Running) -> None:
    server = echo.http.get("/v2").json()
    schema("/v2/", "get", 200).validate(server)
    assert server["extensions"] == ["binary_tensor_data"]
    for place in ("/v2/models/m", f"/v2/models/m/versions/{version(echo)}"):
        told = echo.http.get(place).json()
        schema(VERSIONED, "get", 200).validate(told)
        assert told["inputs"]
        assert told["outputs"]
        for one in (*told["inputs"], *told["outputs"]):
            assert one["datatype"] in {*TYPES, "BYTES"}
            assert all(size >= -1 for size in one["shape"])


def test_readiness_before_and_after_loading(start: Start, tmp_path: Path) -> None:
    go = tmp_path / "go"
    source = (
        "import os, time\n"
        "def load(model_dir):\n"
        f"    while not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
        "def predict(model, inputs, params): return inputs\n"
    )
    server = start(source=source, ready=False)
    server.wait("/v2/health/live")
    try:
        assert server.http.get("/v2/health/ready").status_code == 503
        for method, path in (
            ("GET", "/v2/models/model"), ("GET", "/v2/models/model/ready"),
            ("GET", "/v2/models/model/versions/1/ready"), ("POST", "/v2/models/model/infer"),
        ):  # fmt: skip
            body = {"inputs": [tensor([1], "INT64", 1)]} if method == "POST" else None
            check_error(server.http.request(method, path, json=body), 503)
    finally:
        go.touch()
    server.wait("/v2/health/ready")
    assert server.http.get("/v2/models/model/ready").status_code == 200
    about = server.http.get("/v2/models/model").json()
    schema(VERSIONED, "get", 200).validate(about)  # of a handler without schemas too
    check_answer(infer(server, tensor([1], "INT64", 1), path="/v2/models/model"))


@pytest.mark.parametrize(
    ("sent", "datatype", "shape", "data"),
    [
        (tensor([1, 2, 3], "INT64", 3), "INT64", [3], [1, 2, 3]),
        (tensor([[1.5, 2], [3, 4]], "FP32", 2, 2), "FP64", [2, 2], [1.5, 2, 3, 4]),
        (tensor([1, 2, 3, 4], "UINT8", 1, 2, 2), "INT64", [1, 2, 2], [1, 2, 3, 4]),
        (tensor([True, False], "BOOL", 2), "BOOL", [2], [True, False]),
        (tensor(["a", "é\n"], "BYTES", 2), "BYTES", [2], ["a", "é\n"]),
        (tensor([2**64 - 1, 0], "UINT64", 2), "UINT64", [2], [2**64 - 1, 0]),
        (tensor([2**63, -1], "FP64", 2), "FP64", [2], [float(2**63), -1.0]),
        (tensor([1, "a"], "BYTES", 2), "BYTES", [2], ["1", "a"]),
        (tensor([], "FP32", 0), "FP64", [0], []),
    ],
)
def test_tensors_out(
    echo: Running, sent: dict[str, Any], datatype: str, shape: list[int], data: list[Any]
) -> None:
    told = check_answer(infer(echo, sent, id="42", parameters={"echo": True}))
    assert (told["id"], told["model_name"]) == ("42", "m")
    (found,) = told["outputs"]
    assert (found["datatype"], found["shape"], found["data"]) == (datatype, shape, data)


def test_several_outputs_and_those_that_are_wanted(echo: Running) -> None:
    columns = (tensor([1, 2], "INT64", 2, name="a"), tensor(["x", "y"], "BYTES", 2, name="b"))
    told = check_answer(infer(echo, *columns, parameters={"echo": True}))
    assert [one["name"] for one in told["outputs"]] == ["a", "b"]
    told = check_answer(infer(echo, *columns, parameters={"echo": True}, outputs=[{"name": "b"}]))
    assert [one["data"] for one in told["outputs"]] == [["x", "y"]]
    refused = infer(echo, *columns, parameters={"echo": True}, outputs=[{"name": "c"}])
    assert check_error(refused, 400) == "there is no output c"


@pytest.mark.parametrize("datatype", TYPES)
def test_binary_tensors_in_and_out(echo: Running, datatype: str) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]], TYPES[datatype])
    if datatype != "BOOL":
        limits = np.iinfo if values.dtype.kind in "iu" else np.finfo
        values[0, 0], values[1, 1] = limits(values.dtype).min, limits(values.dtype).max
    about = {"name": "x", "shape": [2, 3], "datatype": datatype,
             "parameters": {"binary_data_size": values.nbytes}}  # fmt: skip
    head = {"inputs": [about], "parameters": {"echo": True, "binary_data_output": True}}
    told = check_binary(binary(echo, head, values.tobytes()))
    (found,) = told["outputs"]
    assert found["shape"] == [2, 3]
    assert found["data"] == values.ravel().tolist()


def test_binary_texts_and_one_output_of_two(echo: Running) -> None:
    blob = packed("a", "", "é" * 300)
    inputs = [
        {"name": "t", "shape": [3], "datatype": "BYTES",
         "parameters": {"binary_data_size": len(blob)}},
        tensor([1, 2, 3], "INT64", 3, name="n"),
    ]  # fmt: skip
    wanted = [{"name": "n"}, {"name": "t", "parameters": {"binary_data": True}}]
    head = {"inputs": inputs, "parameters": {"echo": True}, "outputs": wanted}
    answer = binary(echo, head, blob)
    told = check_binary(answer)
    assert blob in answer.content
    assert {one["name"]: one["data"] for one in told["outputs"]} == {
        "t": ["a", "", "é" * 300], "n": [1, 2, 3],
    }  # fmt: skip
    # A request in JSON may ask for binary data too, and one with binary data for JSON.
    asked = infer(
        echo, tensor([1.5], "FP32", 1), parameters={"echo": True, "binary_data_output": True}
    )
    assert check_binary(asked)["outputs"][0]["data"] == [1.5]
    sized = {**inputs[0], "name": "x"}
    plain = binary(echo, {"inputs": [sized], "parameters": {"echo": True}}, blob)
    assert check_answer(plain)["outputs"][0]["data"][0] == "a"


GOOD = tensor([1, 2, 3], "INT64", 3)
BINARY = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs is empty"),
        ({"inputs": {}}, "Expected `array`"),
        ({"inputs": [{"name": "x"}]}, "shape"),
        ({"inputs": [{**GOOD, "data": None}]}, "data"),
        ({"inputs": [{**GOOD, "shape": [4]}]}, "3 values for shape"),
        ({"inputs": [{**GOOD, "shape": [-3]}]}, "shape"),
        ({"inputs": [{**GOOD, "shape": []}]}, "shape"),
        ({"inputs": [{**GOOD, "datatype": "COMPLEX"}]}, "'COMPLEX' is not one"),
        ({"inputs": [GOOD, GOOD]}, "comes twice"),
        ({"inputs": [GOOD, tensor([1], "INT64", 1, name="y")]}, "different numbers of rows"),
        ({"inputs": [{**GOOD, "data": [{}, 1, 2]}]}, "numbers, texts and booleans"),
        ({"inputs": [tensor([1] * 1001, "INT64", 1001)]}, "1001 inputs are more than 1000"),
        ({"inputs": [BINARY]}, "not within the body"),
    ],
)
def test_bad_requests(echo: Running, body: dict[str, Any], words: str) -> None:
    assert words in check_error(echo.http.post("/v2/models/m/infer", json=body), 400)
    assert words in check_error(binary(echo, body), 400)


def test_bad_binary_data(echo: Running) -> None:
    def head(**about: Any) -> dict[str, Any]:
        return {"inputs": [{**BINARY, **about}]}

    nan = np.array([1, math.nan], "<f4").tobytes()
    for told, blobs, words in (
        (head(), b"1234567", "not within the body"),
        (head(), b"123456789", "belong to no tensor"),
        (head(shape=[3]), b"\0" * 8, "2 values for shape"),
        (head(parameters={"binary_data_size": -1}), b"", "not within the body"),
        (head(parameters={"binary_data_size": 7}), b"1234567", "is not FP32"),
        (head(datatype="BYTES"), b"\xff\0\0\0aaaa", "is cut short"),
        (head(datatype="BYTES", shape=[1]), b"\x04\0\0\0\xff\xfe\xfd\xfc", "not UTF-8"),
        (head(datatype="NONE"), b"\0" * 8, "NONE"),
        (head(), nan, "NaN or infinity"),
    ):
        assert words in check_error(binary(echo, told, blobs), 400), words


def test_other_errors_have_the_same_body(echo: Running, start: Start) -> None:
    post, get = echo.http.post, echo.http.get
    json_type = {"content-type": "application/json"}
    for place in ("/v2/models/absent", "/v2/models/absent/ready", "/v2/models/m/versions/9"):
        check_error(get(place), 404)
    check_error(post("/v2/models/absent/infer", json={"inputs": [GOOD]}), 404)
    check_error(post("/v2/models/m/versions/9/infer", json={"inputs": [GOOD]}), 404)
    check_error(get("/v2/no/such/route"), 404)
    check_error(get("/v2/models/m/infer"), 405)
    check_error(post("/v2/models/m/infer", content=b"{", headers=json_type), 400)
    check_error(post("/v2/models/m/infer", content=b"\xff", headers=json_type), 400)
    check_error(post("/v2/models/m/infer", content=b" " * 100_001, headers=json_type), 413)
    check_error(post("/v2/models/m/infer", content=b"x", headers={"content-type": "text/csv"}), 415)
    check_error(infer(echo, tensor(["a"], "BYTES", 1)), 422)  # the handler takes numbers
    headers = {"x-cloudai-timeout": "0.2"}
    late = {"inputs": [GOOD], "parameters": {"sleep": 1.0}}
    check_error(post("/v2/models/m/infer", json=late, headers=headers), 504)
    guarded = start(env={"CLOUDAI_SERVER_TOKEN": "t"})
    check_error(guarded.http.get("/v2/models/model"), 401)
    check_error(infer(guarded, GOOD, path="/v2/models/model"), 401)
