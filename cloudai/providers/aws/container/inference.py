"""Serves a handler with ``load`` and ``predict`` from SageMaker's inference containers.

Standard library only. The containers call ``model_fn`` and ``transform_fn``. A handler that fails
is told in the body, as ``{"cloudai_error": …}``, since the containers hide what was raised.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import traceback
from pathlib import Path
from typing import Any

HANDLER = "cloudai_handler.py"


def _module(model_dir: str) -> Any:
    file = Path(__file__).with_name(HANDLER)
    if not file.is_file():
        file = Path(model_dir) / "code" / HANDLER
    spec = importlib.util.spec_from_file_location("cloudai_handler", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_fn(model_dir: str, context: Any = None) -> Any:
    """The model, and the function that asks it."""
    module = _module(model_dir)
    predict = module.predict
    try:
        inspect.signature(predict).bind(None, [], {})
        ask = predict
    except TypeError:

        def ask(model: Any, inputs: list[Any], params: dict[str, Any]) -> Any:
            return predict(model, inputs)

    return module.load(Path(model_dir)), ask


def transform_fn(model: Any, body: Any, content_type: str, accept: str, context: Any = None) -> Any:
    """JSON ``{"instances": […], "parameters": {…}}`` → ``{"predictions": […]}``; JSON Lines line
    by line, with the parameters of ``CLOUDAI_PARAMS``."""
    text = body.decode("utf-8") if isinstance(body, (bytes, bytearray)) else body
    if content_type.startswith("application/jsonlines"):
        params = json.loads(os.environ.get("CLOUDAI_PARAMS") or "{}")
        inputs = [json.loads(line) for line in text.split("\n") if line.strip()]
        lines = [json.dumps(output) for output in _lines(model, inputs, params)]
        return "".join(line + "\n" for line in lines), "application/jsonlines"
    asked = json.loads(text)
    if isinstance(asked, dict) and "instances" in asked:
        inputs, params = asked["instances"], asked.get("parameters") or {}
    else:
        inputs, params = (asked if isinstance(asked, list) else [asked]), {}
    try:
        answer = {"predictions": _predict(model, inputs, params)}
        return json.dumps(answer, allow_nan=False), "application/json"
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        return json.dumps(_told(error)), "application/json"


def _lines(model: Any, inputs: list[Any], params: dict[str, Any]) -> list[Any]:
    size = int(os.environ.get("CLOUDAI_BATCH_SIZE") or 64)
    outputs: list[Any] = []
    for at in range(0, len(inputs), size):
        part = inputs[at : at + size]
        try:
            made = _predict(model, part, params)
            json.dumps(made, allow_nan=False)
            outputs.extend(made)
        except Exception:  # noqa: BLE001
            # One at a time, so that one bad line does not fail its neighbours.
            for one in part:
                try:
                    made = _predict(model, [one], params)
                    json.dumps(made, allow_nan=False)
                    outputs.extend(made)
                except Exception as error:  # noqa: BLE001
                    outputs.append(_told(error))
    return outputs


def _predict(model: Any, inputs: list[Any], params: dict[str, Any]) -> list[Any]:
    loaded, ask = model
    outputs = ask(loaded, inputs, params)
    outputs = outputs.tolist() if hasattr(outputs, "tolist") else list(outputs)
    if len(outputs) != len(inputs):
        raise ValueError(f"predict gave {len(outputs)} outputs for {len(inputs)} inputs")
    return [one.tolist() if hasattr(one, "tolist") else one for one in outputs]


def _told(error: Exception) -> dict[str, Any]:
    print(traceback.format_exc(), flush=True)  # noqa: T201 - into the endpoint's log
    return {"cloudai_error": {"type": type(error).__name__, "message": str(error)}}
