"""The scoring script that Azure ML's server runs: ``init`` once, ``run`` with each request.

Standard library only, and no import of cloudai: it travels with ``cloudai_handlers.py`` and a
handler that was named beside it; else the model's own handler is taken.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cloudai_handlers as handlers  # pyright: ignore[reportMissingImports]

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
    _state["container"] = handlers.Container(__file__, model_dir())


def run(data: Any) -> Any:
    """A request's body as text, for an online endpoint: the answer's. A list of files, for a
    batch endpoint: their names, once their outputs are written."""
    container = _state["container"]
    if isinstance(data, (list, tuple)):
        return [_file(container, str(path)) for path in data]
    try:
        body = json.loads(data)
        pieces = container.pieces(body, body["inputs"])
        if pieces is not None:
            return _streamed(pieces)
        return {"outputs": container.handler.predict(body["inputs"], body.get("params") or {})}
    except Exception as error:  # noqa: BLE001 - the user's own code; the caller is told
        return {"error": container.told(error)}


def _streamed(pieces: Any) -> Any:
    # The server gives Flask's responses on as they are (azureml-inference-server-http, 2026-11).
    from flask import Response  # pyright: ignore[reportMissingImports]

    first = next(pieces, b"")  # which may raise, while the answer can still say so

    def rest() -> Any:
        yield first
        yield from pieces

    return Response(rest(), content_type="application/jsonlines")


def _file(container: Any, path: str) -> str:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    name = os.path.basename(path)
    target = os.path.join(os.environ["AZUREML_BI_OUTPUT_PATH"], name)
    made = container.batch([row["value"] for row in rows])
    with open(f"{target}.part", "wb") as out:
        for row, one in zip(rows, made, strict=True):
            out.write(handlers.dumps({"line": row["line"], **one}) + b"\n")
    os.replace(f"{target}.part", target)
    return name
