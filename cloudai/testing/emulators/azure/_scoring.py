"""An Azure ML scoring script as a handler of the endpoint server: ``init`` once, then ``run`` with
the text of each request. It is run by the server, or by itself with the files of a batch; the
emulator imports no code of a user's."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any, Final

WHOLE_BODIES: Final = True
"""The script reads our own bodies itself."""
SCRIPT: Final = "CLOUDAI_EMULATED_SCORE"
"""The variable that names the script."""


def model_fn(model_dir: str) -> Any:
    """The script, once its ``init`` has run."""
    path = os.environ[SCRIPT]
    sys.path.insert(0, os.path.dirname(path))
    spec = importlib.util.spec_from_file_location("_cloudai_scoring_script", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.init()
    return module


def transform_fn(module: Any, body: Any, content_type: str, accept: str) -> tuple[str | bytes, str]:
    """What ``run`` gives, as JSON."""
    text = body.decode("utf-8") if isinstance(body, (bytes, bytearray)) else body
    answer = module.run(text)
    if hasattr(answer, "iter_encoded"):  # one of Flask's, which the server gives on as it is
        return b"".join(answer.iter_encoded()), answer.content_type
    return json.dumps(answer), "application/json"


def main(files: list[str]) -> None:
    """Runs a batch: ``init`` once, then ``run`` with each file."""
    module = model_fn("")
    for file in files:
        module.run([file])
        sys.stdout.write(f"{os.path.basename(file)}: {os.path.getsize(file)} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
