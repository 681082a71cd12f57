"""Work is bounded before it is done: depth, members, items and bytes of bodies."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from running_server import Blocker, Running, Start

from cloudai.errors import InvalidRequest
from cloudai.server.config import Limits
from cloudai.server.http.errors import HTTPError
from cloudai.server.http.intake import MOST_MEMBERS, Intake, unpacked
from cloudai.server.predictors.inputs import decode_inputs
from cloudai.server.routes.codecs import (
    CONTAINERS,
    FEW,
    check_depth,
    elements,
    parse_any,
    parse_object,
)
from cloudai.server.workers.wire import Item

JSON = {"content-type": "application/json"}
PACKED = {**JSON, "content-encoding": "gzip"}


def deepest(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = isinstance(value, (dict, list))
    return own + max(map(deepest, inner), default=0)


def made(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(4 if depth else 2)
    if kind == 0:
        return "".join(rng.choice('ab[]{}",\\\n\u00e9') for _ in range(rng.randrange(12)))
    if kind == 1:
        return rng.choice([1, -2.5, None, True, 10**22])
    count = rng.randrange(4)
    if kind == 2:
        return [made(rng, depth - 1) for _ in range(count)]
    return {str(at) + '"\\': made(rng, depth - 1) for at in range(count)}


def test_k11_depth_is_told_in_one_pass_as_a_parser_tells_it(monkeypatch: Any) -> None:
    monkeypatch.setattr("cloudai.server.routes.codecs._CHUNK", 7)  # texts and escapes are cut apart
    rng = random.Random(5)
    for _ in range(400):
        value = [made(rng, 6) for _ in range(4)]
        body = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
        depth = deepest(value)
        check_depth(body, depth)
        with pytest.raises(HTTPError, match="nested deeper"):
            check_depth(body, depth - 1)


@pytest.mark.parametrize(
    "body",
    [b"[" * (1 << 20), b'{"a":' * (1 << 18), b"[[" + b"[]," * CONTAINERS + b"[]]]",
     b'{"inputs":[[' + b"{}," * CONTAINERS + b"{}]]}"],
)  # fmt: skip
def test_k11_what_would_fill_the_memory_is_refused(body: bytes) -> None:
    with pytest.raises(HTTPError, match=r"nested deeper than 64|lists and objects") as caught:
        parse_any(body, Limits())
    assert caught.value.status == 400


def test_k11_brackets_in_texts_are_none() -> None:
    text = "{[" * 2_000_000 + '\\"' * 1000
    check_depth(json.dumps([text, text]).encode(), 2)


def test_k12_inputs_are_counted_before_there_is_an_object_for_each() -> None:
    values = b"[" + b"1," * (2 * FEW) + b"1]"
    for body in (values, b'{"inputs":' + values + b"}", b'{"input_data":' + values + b"}"):
        tracemalloc.start()
        with pytest.raises(HTTPError, match=r"524289 inputs are more than 10000"):
            parse_any(body, Limits())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 6 * len(body)
    nested = b"[" + b",".join([b"[" + b"7," * 999 + b"7]"] * 300) + b"]"  # no more than the limit
    assert nested.count(b",") > FEW
    assert len(elements(nested, 300, "inputs")) == 300
    assert len(parse_object(b'{"inputs":' + nested + b"}", Limits(), ("inputs",)).values) == 300


def test_l6_a_gzip_body_of_several_members_is_whole(echo: Running) -> None:
    parts = [gzip.compress(part) for part in (b'{"inputs":', b" [1,", b"", b" 2]}")]
    answer = echo.http.post("/predict", content=b"".join(parts), headers=PACKED)
    assert answer.json() == {"outputs": [2, 4]}
    alias = {**JSON, "content-encoding": "x-gzip"}
    assert echo.http.post("/predict", content=b"".join(parts), headers=alias).status_code == 200
    for broken in (parts[0] + parts[1][:-9], parts[0] + b"x", b""):
        refused = echo.http.post("/predict", content=broken, headers=PACKED)
        assert refused.status_code == 400, broken
    many = gzip.compress(b"") * (MOST_MEMBERS + 1)
    with pytest.raises(HTTPError, match="members"):
        unpacked(many, 100)
    data = random.Random(1).randbytes(3 << 20)
    assert unpacked(gzip.compress(data) + gzip.compress(data[::-1]), 6 << 20) == data + data[::-1]
    with pytest.raises(HTTPError) as caught:
        unpacked(gzip.compress(b" " * 1000) * 3, 2999)
    assert caught.value.status == 413


def test_k12_bodies_under_way_are_bounded_in_unpacked_bytes(start: Start, tmp_path: Any) -> None:
    config = {
        "models": [{"name": "m", "variants": [{"path": str(tmp_path / "m")}]}],
        "workers": 1,
        "limits": {"body": 1 << 20, "queue_bytes": 3 << 20},
    }
    (tmp_path / "m").mkdir()
    from running_server import ECHO

    (tmp_path / "m" / "handler.py").write_text(ECHO)
    (tmp_path / "server.json").write_text(json.dumps(config))
    server = start("--config", str(tmp_path / "server.json"))
    bomb = gzip.compress(b'{"inputs": ["' + b"a" * 900_000 + b'"], "params": {"echo": true}}')
    blocker = Blocker(server, tmp_path, 1)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(10) as threads:
        asked = [
            threads.submit(server.http.post, "/predict", content=bomb, headers=PACKED)
            for _ in range(10)
        ]
        blocker.let(3)
        refused = [one for one in asked if one.done()]
        blocker.release()
        statuses = sorted(one.result().status_code for one in asked)
    assert statuses == [200] * 3 + [429] * 7
    assert all(one.result().headers["retry-after"] for one in refused)
    # What was held is given back.
    for _ in range(5):
        assert server.http.post("/predict", content=bomb, headers=PACKED).status_code == 200


def test_k12_an_intake_counts_what_it_holds() -> None:
    intake = Intake(100)
    intake.take(60)
    with pytest.raises(HTTPError) as caught:
        intake.take(41)
    assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
    intake.give(60)
    intake.take(100)


def png(side: int) -> bytes:
    picture = io.BytesIO()
    Image.new("L", (side, side)).save(picture, "PNG")
    return picture.getvalue()


def test_k12_pixels_are_bounded_before_they_are_decoded() -> None:
    item = Item("image", png(5001))
    with pytest.raises(InvalidRequest, match="5001 × 5001 pixels are more than 25000000"):
        decode_inputs(item)
    (array,) = decode_inputs(Item("image", png(30)), 900)
    assert array.shape == (30, 30)
    with pytest.raises(InvalidRequest, match="more than 899"):
        decode_inputs(Item("image", png(30)), 899)


IMAGES = """
def load(model_dir): return None
def predict(model, inputs, params):
    return [[len(inputs), int(image.shape[0])] for image in inputs]
"""


def test_k12_images_of_one_call_are_bounded_in_bytes(tmp_path: Any) -> None:
    """Sixteen requests in one batch: each call of predict has what 64 MiB hold."""
    from cloudai._core.handlers.handler import load_handler
    from cloudai.server.predictors.handler import HandlerPredictor
    from cloudai.server.workers.wire import Options

    (tmp_path / "handler.py").write_text(IMAGES)
    predictor = HandlerPredictor(load_handler(tmp_path), Options(path=str(tmp_path)))
    results = predictor.run([Item("image", png(3000))] * 5 + [Item("image", png(10))])
    assert [json.loads(one.outputs[0]) for one in results] == [
        [2, 3000], [2, 3000], [2, 3000], [2, 3000], [2, 3000], [2, 10],
    ]  # fmt: skip


def test_k12_a_request_of_many_inputs_is_predicted_in_calls_of_a_batch(start: Start) -> None:
    server = start("--max-batch", "10")
    rows = "\n".join("1" for _ in range(25))
    answer = server.http.post("/predict", content=rows, headers={"content-type": "text/csv"})
    assert answer.status_code == 422  # a row is a list, which is no number
    lines = {"content-type": "application/jsonlines"}
    assert server.http.post("/predict", content=rows, headers=lines).text == "2\n" * 25
    tensor = {"name": "x", "shape": [25], "datatype": "INT64", "data": [1] * 25}
    told = {"inputs": [tensor], "parameters": {"count": True}}
    outputs = server.http.post("/v2/models/model/infer", json=told).json()["outputs"]
    assert outputs[0]["data"] == [10] * 20 + [5] * 5


def test_k11_binary_tensors_are_left_to_the_worker(echo: Running) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    head = {"inputs": [{"name": "x", "shape": [2, 3, 4], "datatype": "UINT8",
                        "parameters": {"binary_data_size": 24}}],
            "parameters": {"echo": True}}  # fmt: skip
    said = msgspec.json.encode(head)
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(said)),
    }
    answer = echo.http.post("/v2/models/m/infer", content=said + array.tobytes(), headers=headers)
    (out,) = answer.json()["outputs"]
    assert (out["shape"], out["data"]) == ([2, 3, 4], list(range(24)))


def test_feedback_is_bounded(start: Start) -> None:
    server = start()
    body = b'{"feedback": [{"label": 1, "prediction": [' + b"[]," * 400_000 + b"1]}]}"
    assert server.http.post("/feedback", content=body, headers=JSON).status_code == 413


def test_l6_a_csv_begins_with_its_first_cell_and_keeps_long_ids() -> None:
    body = b"\xef\xbb\xbfid,n\n12345678901234567890123,1.5\n9007199254740993,-2\n"
    told = decode_inputs(Item("csv", body, content_type="text/csv; header=present"))
    assert told == [
        {"id": 12345678901234567890123, "n": 1.5}, {"id": 9007199254740993, "n": -2},
    ]  # fmt: skip
    assert decode_inputs(Item("csv", b"\xef\xbb\xbf7,a\n")) == [[7, "a"]]
    quoted = decode_inputs(Item("csv", '"a\nb","é",1e400,inf\r\n'.encode()))
    assert quoted == [["a\nb", "é", "1e400", "inf"]]
    assert decode_inputs(Item("lines", b"12345678901234567890123")) == [12345678901234567890123]
