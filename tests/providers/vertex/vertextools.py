"""What several test modules of the vertex provider need."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cloudai.testing.emulators.vertex import VertexEmulator

GOLDEN = Path(__file__).parent / "golden"


def sent(cloud: VertexEmulator, ending: str) -> list[Any]:
    """The JSON bodies that were sent to paths with this ending."""
    return [one.json for one in cloud.requests if one.path.endswith(ending)]


def golden(name: str, value: Any) -> None:
    """Compares with the file; WRITE_GOLDEN=1 writes it."""
    path = GOLDEN / f"{name}.json"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    assert value == json.loads(path.read_text())
