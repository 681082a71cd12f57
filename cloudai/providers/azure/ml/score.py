"""The scoring script that Azure ML's server runs: ``init`` once, ``run`` with each request.

Standard library only, and no import of cloudai: it travels alone, with the user's handler
beside it as ``_cloudai_handler.py``, or in the model's own directory as ``handler.py``. It
takes ``load`` and ``predict``, or SageMaker's ``model_fn`` and ``predict_fn``.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

_state: dict[str, Any] = {}


def model_dir() -> str:
    """The model's files: the service puts them one or more folders below the place it tells."""
    place = os.environ["AZUREML_MODEL_DIR"]
    while True:
        entries = [name for name in os.listdir(place) if not name.startswith(".")]
        inner = os.path.join(place, entries[0]) if len(entries) == 1 else ""
        if not os.path.isdir(inner):
            return place
        place = inner


def init() -> None:
    """Loads the model."""
    place = model_dir()
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_cloudai_handler.py")
    file = beside if os.path.isfile(beside) else os.path.join(place, "handler.py")
    if not os.path.isfile(file):
        raise RuntimeError(f"there is no handler: neither {beside} nor {file}")
    sys.path.insert(0, os.path.dirname(file))
    spec = importlib.util.spec_from_file_location("_cloudai_user_handler", file)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "load"):
        model = module.load(Path(place))
    elif hasattr(module, "model_fn"):
        model = module.model_fn(place)
    else:
        raise RuntimeError(f"{file} has neither load nor model_fn")
    _state["module"], _state["model"] = module, model


def predict(inputs: list[Any], params: dict[str, Any]) -> list[Any]:
    """One output for each input."""
    module, model = _state["module"], _state["model"]
    if hasattr(module, "predict"):
        # A handler may leave ``params`` out.
        given = (model, inputs, params) if _takes_params(module.predict) else (model, inputs)
        outputs = module.predict(*given)
    else:
        outputs = module.predict_fn(inputs, model)
    if hasattr(outputs, "tolist"):
        outputs = outputs.tolist()
    outputs = list(outputs)
    if len(outputs) != len(inputs):
        raise ValueError(f"predict gave {len(outputs)} outputs for {len(inputs)} inputs")
    return outputs


def _takes_params(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, [], {})
    except TypeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def run(data: Any) -> Any:
    """A request's body as text, for an online endpoint: the answer's. A list of files, for a
    batch endpoint: their names, once their outputs are written."""
    if isinstance(data, (list, tuple)):
        return [_file(str(path)) for path in data]
    try:
        body = json.loads(data)
        outputs = predict(body["inputs"], body.get("params") or {})
        return json.loads(json.dumps({"outputs": outputs}, default=_plain))
    except Exception as error:  # noqa: BLE001 - the user's own code; the caller is told
        return {"error": {"type": type(error).__name__, "message": str(error)}}


def _file(path: str) -> str:
    settings = json.loads(os.environ.get("CLOUDAI_BATCH", "{}"))
    params, size = settings.get("params") or {}, int(settings.get("batch_size", 64))
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    name = os.path.basename(path)
    target = os.path.join(os.environ["AZUREML_BI_OUTPUT_PATH"], name)
    with open(f"{target}.part", "w", encoding="utf-8") as out:
        for at in range(0, len(rows), size):
            for made in _rows(rows[at : at + size], params):
                out.write(json.dumps(made, default=_plain) + "\n")
    os.replace(f"{target}.part", target)
    return name


def _rows(rows: list[dict[str, Any]], params: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of some rows; when the handler refuses them, they are halved until the one
    that is to blame stands alone."""
    try:
        outputs = predict([row["value"] for row in rows], params)
        json.dumps(outputs, default=_plain)
    except Exception as error:  # noqa: BLE001 - as above
        if len(rows) == 1:
            told = {"type": type(error).__name__, "message": str(error)}
            return [{"line": rows[0]["line"], "error": told}]
        half = len(rows) // 2
        return [*_rows(rows[:half], params), *_rows(rows[half:], params)]
    return [{"line": r["line"], "output": o} for r, o in zip(rows, outputs, strict=True)]
