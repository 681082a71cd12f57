"""A register of model versions: a JSON Lines file that is only ever appended to."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import cloudai


def version_of(code: list[Path], data: Path, hyperparameters: dict[str, Any]) -> str:
    """What a model follows from: SHA-256 over its code, its data and its hyperparameters. The
    same three give the same version, on every machine."""
    whole = hashlib.sha256()
    files = [*code, *sorted(path for path in data.rglob("*") if path.is_file())]
    for file in files:
        content = file.read_bytes()
        whole.update(f"{file.name}:{len(content)}:".encode() + content)
    whole.update(json.dumps(hyperparameters, sort_keys=True).encode())
    return whole.hexdigest()[:12]


class Registry:
    """Versions with their models, and what became of them.

    Parameters
    ----------
    file: the register; it is made by the first entry.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def record(self, version: str, event: str, **about: Any) -> None:
        """Appends an event: ``trained``, ``promoted`` or ``rolled back``."""
        line = {"time": time.time(), "version": version, "event": event, **about}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def events(self) -> list[dict[str, Any]]:
        """All events, the oldest first."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def model(self, version: str) -> cloudai.Model | None:
        """The model of a version that was trained; None for an unknown one."""
        for event in self.events():
            if event["version"] == version and event["event"] == "trained":
                return cloudai.Model(uri=event["uri"], version=version, job=event["job"])
        return None

    def champion(self) -> str | None:
        """The version that was promoted last."""
        promoted = [one["version"] for one in self.events() if one["event"] == "promoted"]
        return promoted[-1] if promoted else None
