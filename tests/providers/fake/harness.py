"""The fake provider's harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cloudai.testing import FakeScript
from cloudai.testing.conformance import Harness, Work
from cloudai.types import BatchTransform, TrainingJob

SCRIPT = """
[chat]
models = ["fake-chat"]
[embeddings]
models = ["fake-embed"]
context = 500
"""


class FakeHarness(Harness):
    """Nothing runs in the fake: a job's fate says what the suite's script would have done."""

    provider = "fake"
    chat_model = "fake-chat"
    embedding_model = "fake-embed"
    patience = 20.0
    gaps = {
        "training:script": "the fake runs no script, so that none can report what it was given",
        "endpoints:trained_model": "a fake job trains nothing; its model says its inputs again",
        "batch:trained_model": "a fake job trains nothing; its model says its inputs again",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "script.toml").write_text(SCRIPT)
        self.script = FakeScript(folder / "home", folder / "script.toml")

    def keys(self) -> dict[str, Any]:
        return {"home": str(self.folder / "home"), "script": str(self.folder / "script.toml")}

    def faults(self) -> Injector:
        return Injector(self.script)

    def job(self, work: Work, **spec: Any) -> TrainingJob:
        fate: dict[str, Any] = {"running": work.seconds} if work.seconds else {}
        if work.exit_code:
            logs = ["training fails, as told"]
            fate |= {"state": "FAILED", "exit_code": work.exit_code, "logs": logs}
        return super().job(work, **{"native": {"fake": fate}, **spec})

    def slow(self, spec: BatchTransform) -> BatchTransform:
        return msgspec.structs.replace(spec, native={"fake": {"running": 3.0}})


class Injector:
    """The script's faults, by the suite's names."""

    def __init__(self, script: FakeScript) -> None:
        self._script = script

    def throttle(self, operation: str, *, times: int, retry_after: float) -> None:
        self._script.throttle(operation, times=times, retry_after=retry_after)

    def fail(self, operation: str, *, times: int) -> None:
        self._script.fail(operation, "ServiceUnavailable", times=times, status=503)

    def lose_reply(self, operation: str) -> None:
        self._script.lose_reply(operation)

    def cut_stream(self, chunks: int) -> None:
        self._script.cut_stream(chunks)


HARNESS = FakeHarness
