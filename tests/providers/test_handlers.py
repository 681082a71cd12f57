"""One handler, here and on three emulated clouds that run the containers' own scripts: the same
answers, pieces and errors. AWS's toolkits and Azure ML's server are asked in tests/witnesses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.clients import client_of

from cloudai import HandlerError, InvalidRequest

PLACES = ("local", "aws", "azure", "vertex")

PLAIN = """
from __future__ import annotations

from dataclasses import dataclass

from beside import FACTOR
from package.inner import ADDED


@dataclass
class Model:
    factor: int


def load(model_dir):
    return Model(FACTOR)


def predict(model, inputs, params):
    if params.get("as") == "numpy":
        import numpy as np

        return [{"y": np.float32(x), "all": np.arange(2)} for x in inputs]
    if params.get("as") == "nan":
        return [float("nan") for _ in inputs]
    if params.get("as") == "text":
        return "ab"[: len(inputs)]
    return [x * model.factor + ADDED for x in inputs]


def stream(model, value, params):
    for number in range(value):
        yield number * model.factor
"""
FAMILY = """
import json

from beside import FACTOR


def model_fn(model_dir):
    return FACTOR


def input_fn(body, content_type):
    return [{"x": x} for x in json.loads(body)]


def predict_fn(data, model):
    return [row["x"] * model for row in data]


def output_fn(prediction, accept):
    return json.dumps([{"y": y} for y in prediction])
"""


def written(folder: Path, source: str) -> tuple[Path, Path]:
    """A model's directory and its handler, with what the handler imports beside it."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.txt").write_text("none")
    code = folder / "code"
    (code / "package").mkdir(parents=True)
    (code / "beside.py").write_text("FACTOR = 2\n")
    (code / "package" / "__init__.py").write_text("")
    (code / "package" / "inner.py").write_text("ADDED = 1\n")
    (code / "serve.py").write_text(source)
    return folder / "model", code / "serve.py"


def failed(endpoint: Any, inputs: list[Any], how: str) -> str:
    with pytest.raises(HandlerError) as caught:
        endpoint.predict(inputs, params={"as": how})
    return str(caught.value)


@pytest.mark.parametrize("place", PLACES)
def test_m3_m4_m13_z6_l2_l3_one_handler_everywhere(place: str, tmp_path: Path) -> None:
    with client_of(place, tmp_path) as client:
        model, handler = written(tmp_path / "plain", PLAIN)
        endpoint = client.endpoints.deploy(model, handler=handler, name="plain")
        assert endpoint.predict([1, 10**22]) == [3, 2 * 10**22 + 1]
        assert endpoint.predict([4], params={"as": "numpy"}) == [{"y": 4.0, "all": [0, 1]}]
        assert "JSON cannot hold" in failed(endpoint, [1, 2], "nan")
        assert "gave str, not a list" in failed(endpoint, [1, 2], "text")
        for bad in (float("nan"), {"a": [float("inf")]}):
            with pytest.raises(InvalidRequest, match="is a number that JSON cannot hold"):
                endpoint.predict([bad])
        # A handler's own stream, and one whole answer where it is asked for several inputs.
        assert [json.loads(x) for x in b"".join(endpoint.stream([3])).splitlines()] == [0, 2, 4]
        whole = json.loads(b"".join(endpoint.stream([1, 2])))
        assert list(whole.values()) == [[3, 5]]
        endpoint.delete()
        model, handler = written(tmp_path / "family", FAMILY)
        endpoint = client.endpoints.deploy(model, handler=handler, name="family")
        assert endpoint.predict([7]) == [{"y": 14}]
        assert endpoint.predict([7, 8]) == [{"y": 14}, {"y": 16}]
        endpoint.delete()
