"""What SageMaker's inference containers run: the user's handler, through the file beside this one.

Standard library only. The containers call ``model_fn`` and ``transform_fn``: TorchServe with a
context, multi-model-server without one (sagemaker-pytorch-inference 2.0.25,
sagemaker-huggingface-inference-toolkit 1.3.1, read 2026-11). Bodies of ours, and the JSON Lines
of our transform jobs, are answered line by line; a handler that fails is told in the answer, as
``{"cloudai_error": …}``, since the containers hide what was raised. All other bodies go to the
handler as they came.
"""

from __future__ import annotations

import json
import os
from typing import Any

import cloudai_handlers as handlers  # pyright: ignore[reportMissingImports] - beside it, there

WHOLE_BODIES = True
"""An endpoint server that stands in for the container leaves our own bodies to this script."""


def model_fn(model_dir: str, context: Any = None) -> Any:
    """The handler, with its model."""
    return handlers.Container(__file__, model_dir)


def transform_fn(model: Any, body: Any, content_type: str, accept: str, context: Any = None) -> Any:
    """The answer; with its content type where the container takes one."""
    data = body.encode() if isinstance(body, str) else bytes(body)
    content_type = content_type or handlers.JSON_TYPE
    plain = content_type.partition(";")[0].strip().lower()
    if plain == "application/jsonlines" and (
        "CLOUDAI_BATCH" in os.environ or not model.handler.raw
    ):
        made = model.batch([json.loads(line) for line in data.split(b"\n") if line.strip()])
        return b"".join(handlers.dumps(_line(one)) + b"\n" for one in made)
    ours = data.startswith(handlers.MARK)
    if model.handler.raw and not ours:
        if model.streams:
            return _streamed(model.handler.stream_body(data, content_type, accept), context)
        answer, kind = model.handler.transform(data, content_type, accept)
        return answer if context is None else (answer, kind)
    try:
        return _answer(model, json.loads(data), context)
    except Exception as error:
        if not ours:
            raise
        return handlers.dumps({"cloudai_error": model.told(error)})


def stream_fn(model: Any, body: Any, content_type: str, accept: str) -> Any:
    """The pieces of an answer, for an endpoint server that stands in for the container."""
    data = body.encode() if isinstance(body, str) else bytes(body)
    if model.handler.raw and not data.startswith(handlers.MARK):
        yield from model.handler.stream_body(data, content_type, accept)
        return
    asked = json.loads(data)
    told = isinstance(asked, dict) and "instances" in asked
    pieces = model.pieces(asked, asked["instances"]) if told else None
    yield from [transform_fn(model, body, content_type, accept)] if pieces is None else pieces


def _line(made: Any) -> Any:
    return made["output"] if "output" in made else {"cloudai_error": made["error"]}


def _answer(model: Any, asked: Any, context: Any) -> Any:
    """``{"instances": […], "parameters": {…}}`` → ``{"predictions": […]}``."""
    if not isinstance(asked, dict) or "instances" not in asked:
        asked = {"instances": asked if isinstance(asked, list) else [asked]}
    inputs = asked["instances"]
    pieces = model.pieces(asked, inputs)
    if pieces is not None:
        return _streamed(pieces, context)
    outputs = model.handler.predict(inputs, asked.get("parameters") or {})
    return handlers.dumps({"predictions": outputs})


def _streamed(pieces: Any, context: Any) -> bytes:
    """Piece by piece where the container can, else all at once."""
    if getattr(context, "cl_socket", None) is None:
        return b"".join(pieces)
    from ts.handler_utils.utils import (  # pyright: ignore[reportMissingImports]
        send_intermediate_predict_response,
    )

    last = next(pieces, b"")
    for piece in pieces:
        send_intermediate_predict_response([last], context.request_ids, "", 200, context)
        last = piece
    return last
