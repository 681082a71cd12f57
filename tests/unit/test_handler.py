"""Handlers: found, loaded, called, and every way in which they can break their contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloudai._core.handlers.handler import (
    find_handler,
    load_handler,
    model_digest,
    siblings,
    travelling,
)
from cloudai._core.handlers.jsonable import jsonable
from cloudai.errors import HandlerError, InvalidRequest

GOOD = """
def load(model_dir):
    return {"dir": model_dir, "factor": 2}

def predict(model, inputs, params):
    return [x * model["factor"] + params.get("add", 0) for x in inputs]
"""


def write(folder: Path, source: str, name: str = "handler.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return file


def test_load_and_predict(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    handler = load_handler(tmp_path)
    assert handler.predict([1, 2], {"add": 1}) == [3, 5]
    assert handler.model["dir"] == tmp_path
    assert handler.predict([]) == []


def test_params_may_be_left_out_of_the_signature(tmp_path: Path) -> None:
    write(
        tmp_path, "def load(d): return 3\ndef predict(model, inputs): return [model] * len(inputs)"
    )
    assert load_handler(tmp_path).predict([0, 0], {"x": 1}) == [3, 3]


def test_an_explicit_file_goes_first_and_imports_its_siblings(tmp_path: Path) -> None:
    model = tmp_path / "model"
    write(model, GOOD)
    write(tmp_path / "code", "ANSWER = 7", "sibling_of_handler.py")
    file = write(
        tmp_path / "code",
        "from sibling_of_handler import ANSWER\n"
        "def load(d): return ANSWER\ndef predict(m, inputs, params): return [m for _ in inputs]",
    )
    assert load_handler(model, file).predict([1]) == [7]


def test_two_handlers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(
            tmp_path / name,
            f"WHO = {name!r}\ndef load(d): return None\n"
            "def predict(m, inputs, params): return [WHO for _ in inputs]",
        )
    first, second = load_handler(tmp_path / "a"), load_handler(tmp_path / "b")
    assert (first.predict([0]), second.predict([0])) == (["a"], ["b"])


def test_sagemakers_family_unchanged(tmp_path: Path) -> None:
    write(
        tmp_path,
        "import json\n"
        "def model_fn(model_dir): return 10\n"
        "def input_fn(body, content_type):\n"
        "    assert content_type == 'application/json' and isinstance(body, str)\n"
        "    return json.loads(body)\n"
        "def predict_fn(data, model): return [x * model for x in data]\n"
        "def output_fn(prediction, accept): return json.dumps(prediction)\n",
        "code/inference.py",
    )
    handler = load_handler(tmp_path)
    assert handler.raw
    assert handler.predict([1, 2]) == [10, 20]
    assert handler.transform(b"[3]", "application/json; charset=utf-8", "application/json") == (
        b"[30]",
        "application/json",
    )


def test_sagemakers_defaults_and_context(tmp_path: Path) -> None:
    write(
        tmp_path,
        "def model_fn(model_dir, context): return lambda data: data * 2\n",
        "code/inference.py",
    )
    handler = load_handler(tmp_path)
    assert handler.predict([[1, 2], [3, 4]]) == [[2, 4], [6, 8]]
    assert handler.transform(b"1,2\n3,4\n", "text/csv", "text/csv") == (
        b"2.0,4.0\r\n6.0,8.0\r\n",
        "text/csv",
    )
    with pytest.raises(InvalidRequest, match=r"content_type='image/png' is not read"):
        handler.transform(b"", "image/png", "application/json")


def test_transform_fn(tmp_path: Path) -> None:
    write(
        tmp_path,
        "def model_fn(d): return 1\n"
        "def transform_fn(model, data, content_type, accept): return data.upper(), 'text/plain'\n",
    )
    assert load_handler(tmp_path).transform(b"abc", "text/plain", "*/*") == (b"ABC", "text/plain")


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"model=.*nowhere.* is not a directory"):
        load_handler(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match=r"neither handler.py nor code/inference.py"):
        load_handler(tmp_path)
    with pytest.raises(InvalidRequest, match=r"absent.py' is not a file"):
        load_handler(tmp_path, tmp_path / "absent.py")
    write(tmp_path, "def load(d): return 1")
    with pytest.raises(InvalidRequest, match=r"does not define predict"):
        load_handler(tmp_path)
    write(tmp_path, "def load(d:\n")
    with pytest.raises(InvalidRequest, match=r"is not Python: .* in line 1"):
        find_handler(tmp_path)


LOAD = "def load(d): return 1\n"


@pytest.mark.parametrize(
    ("source", "message", "code"),
    [
        (
            "import not_a_module_at_all\n" + LOAD + "def predict(m, i): 1",
            r"the import raised ModuleNotFoundError",
            "ModuleNotFoundError",
        ),
        (
            "def load(d): raise OSError('weights are corrupt')\ndef predict(m, i): 1",
            r"load raised OSError: weights are corrupt",
            "OSError",
        ),
        (
            LOAD + "def predict(m, i): return [1]",
            r"predict gave 1 outputs for 2 inputs",
            "WrongLength",
        ),
        (
            LOAD + "def predict(m, i): return 5",
            r"predict gave int, not a list of 2 outputs",
            "BadOutput",
        ),
        (
            LOAD + "def predict(m, i): return [object()] * 2",
            r"outputs\[0\]=.* is a object",
            "BadOutput",
        ),
        (
            LOAD + "def predict(m, i): return [1.0, float('nan')]",
            r"outputs\[1\]=nan",
            "NotFinite",
        ),
        (
            LOAD + "def predict(m, i): return [{'a': float('inf')}] * 2",
            r"outputs\[0\]\.a=inf",
            "NotFinite",
        ),
        (
            LOAD + "def predict(m, i):\n    return i[5]",
            r"predict raised IndexError",
            "IndexError",
        ),
    ],
)
def test_broken_handlers_are_named(tmp_path: Path, source: str, message: str, code: str) -> None:
    file = write(tmp_path, source)
    with pytest.raises(HandlerError, match=message) as caught:
        load_handler(tmp_path).predict([1, 2])
    assert str(file) in str(caught.value)
    assert caught.value.code == code


def test_the_users_own_lines_are_shown_and_ours_are_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        LOAD + "def helper(x):\n    return 1 / x\ndef predict(m, i):\n    return [helper(0)]",
    )
    with pytest.raises(HandlerError) as caught:
        load_handler(tmp_path).predict([1])
    text = str(caught.value)
    assert "return 1 / x" in text
    assert "return [helper(0)]" in text
    assert "_guard" not in text


def test_jsonable() -> None:
    import torch

    value: Any = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        2: (np.bool_(True), None, "x"),
        "t": torch.tensor([[1.5]], dtype=torch.bfloat16),
    }
    assert jsonable(value) == {"a": 0.5, "b": [0, 1, 2], "2": [True, None, "x"], "t": [[1.5]]}
    with pytest.raises(InvalidRequest, match=r"value\[0\]\[1\]='nan or infinity'"):
        jsonable([np.array([1.0, np.nan])])
    with pytest.raises(InvalidRequest, match=r"complex128"):
        jsonable(np.array([1j]))


def test_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"abc")
    first = model_digest(tmp_path)
    assert first == model_digest(tmp_path)
    assert len(first) == 64
    (tmp_path / "sub" / "w.bin").write_bytes(b"abd")
    assert model_digest(tmp_path) != first
    (tmp_path / "sub" / "w.bin").rename(tmp_path / "w.bin")
    assert model_digest(tmp_path) != first


def test_a_torch_free_handler_loads_no_torch_or_numpy(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    code = (
        "import sys, pathlib\nfrom cloudai._core.handlers.handler import load_handler\n"
        f"print(load_handler(pathlib.Path({str(tmp_path)!r})).predict([4]))\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout.strip()) == (0, "[8]"), out.stderr


def test_m4_what_a_handler_imports_from_beside_it_travels(tmp_path: Path) -> None:
    write(tmp_path, "import two\nimport json", "one.py")
    write(tmp_path, "", "two.py")
    write(tmp_path, "", "unused.py")
    write(tmp_path, "from . import inner\nimport three", "package/__init__.py")
    write(tmp_path, "{}", "package/labels.json")
    write(tmp_path, "", "package/__pycache__/inner.pyc")
    write(tmp_path, "", "three.py")
    file = write(
        tmp_path,
        f"import os\n{GOOD}\ndef later():\n    import one\n    from package import inner\n",
    )
    assert set(siblings(file)) == {
        "one.py", "two.py", "three.py", "package/__init__.py", "package/labels.json",
    }  # fmt: skip
    found = travelling(file)
    assert found["cloudai_handler/cloudai_entry.py"] == file
    assert found["cloudai_handler/package/labels.json"].read_text() == "{}"
    assert found["cloudai_handlers.py"].name == "portable.py"


def test_m3_m13_the_travelling_file_needs_nothing_of_cloudai(tmp_path: Path) -> None:
    handler = write(
        tmp_path,
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Model:\n    by: int\n"
        "def load(d): return Model(2)\n"
        "def predict(m, inputs): return [{'y': x * m.by} for x in inputs]",
    )
    for name, path in travelling(handler).items():
        write(tmp_path / "there", path.read_text(), name)
    code = (
        "import cloudai_handlers as h, sys\n"
        "c = h.Container(h.__file__, '.')\n"
        "print(c.batch([1, 'a', None]))\n"
        "assert not [m for m in sys.modules if m.startswith(('cloudai.', 'msgspec'))]"
    )
    run = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, 'there')\n{code}"]
    out = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    first, second, third = eval(out.stdout.splitlines()[-1])
    assert (first, second) == ({"output": {"y": 2}}, {"output": {"y": "aa"}})
    assert third["error"]["type"] == "TypeError"
