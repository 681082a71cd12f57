"""The script that SageMaker's containers call, as the Hugging Face toolkit calls it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from cloudai.providers.aws import package


def test_m1_an_answer_is_what_hugging_face_s_toolkit_hands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands the return value of ``transform_fn`` on as it is (1.3.1): a body, and no pair."""
    handler = tmp_path / "h.py"
    handler.write_text("def load(p): return 3\ndef predict(m, i, p): return [m * x for x in i]\n")
    code = tmp_path / "unpacked"
    for name, data in package.Code(str(handler), None).files(None).items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(data)
    monkeypatch.setattr(sys, "path", [str(code / "code"), *sys.path])
    about = importlib.util.spec_from_file_location("m1_inference", code / package.SCRIPT)
    assert about is not None
    assert about.loader is not None
    script = importlib.util.module_from_spec(about)
    about.loader.exec_module(script)
    model = script.model_fn(str(tmp_path))
    for inputs in ([7], [7, 8], [7, 8, 9]):
        body = json.dumps({"instances": inputs})
        answer = script.transform_fn(model, body, "application/json", "application/json")
        assert isinstance(answer, (bytes, str))
        told = json.loads(answer)
        assert told["predictions"] == [3 * x for x in inputs]
