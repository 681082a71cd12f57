"""The vertex provider's harness: the emulator, running jobs and models on this machine."""

from __future__ import annotations

import atexit
import json
from pathlib import Path
from typing import Any

from cloudai.testing.conformance import Harness
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.vertex import VertexEmulator

_running: list[VertexEmulator] = []

PATHS = {
    "chat.create": r"POST .*:generateContent",
    "chat.stream": r"POST .*:streamGenerateContent",
    "embeddings.create": r"POST .*/models/.*:(predict|embedContent)",
    "training.submit": r"POST .*/customJobs$",
    "endpoints.deploy": r"POST .*/endpoints$",
    "endpoints.predict": r"POST .*/endpoints/.*:predict",
    "batch.submit": r"POST .*/batchPredictionJobs$",
}


def stop() -> None:
    while _running:
        _running.pop().stop()


atexit.register(stop)


class VertexHarness(Harness):
    """One emulator a test: the next test's, or the end, stops it."""

    provider = "vertex"
    requires = ("google.cloud.aiplatform_v1", "google.cloud.storage", "aiohttp")
    chat_model = "gemini-3.5-flash"
    embedding_model = "text-embedding-005"
    patience = 60.0
    gaps = {
        "endpoints:variants": "Vertex AI chooses a variant by the weights; none can be asked for",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        stop()
        self.cloud = VertexEmulator(execute=True).start()
        _running.append(self.cloud)

    def keys(self) -> dict[str, Any]:
        return self.cloud.keys()

    def faults(self) -> Injector:
        return Injector(self.cloud)

    def place(self, name: str) -> str:
        return f"gs://{self.cloud.bucket}/suite/{name}"

    def put(self, name: str, text: str) -> str:
        super().put(name, text)
        return self.cloud.storage.put(self.place(name), text)

    def read(self, uri: str) -> str | None:
        if not uri.startswith("gs://"):
            return super().read(uri)
        found = self.cloud.storage.get(uri)
        return None if found is None else found.decode()

    def model(self, scale: int = 2, handler: str | None = None) -> str:
        base = self.place(f"model-{scale}-{len(self.cloud.storage.names(self.place('')))}")
        self.cloud.storage.put(f"{base}/model.json", json.dumps({"scale": scale}))
        text = (ASSETS / "handler.py").read_text() if handler is None else handler
        self.cloud.storage.put(f"{base}/handler.py", text)
        return base


class Injector:
    """The emulator's faults, by the suite's names."""

    def __init__(self, cloud: VertexEmulator) -> None:
        self._faults = cloud.faults

    def throttle(self, operation: str, *, times: int, retry_after: float) -> None:
        self._faults.add("throttle", PATHS[operation], times=times, retry_after=retry_after)

    def fail(self, operation: str, *, times: int) -> None:
        self._faults.add("unavailable", PATHS[operation], times=times)

    def lose_reply(self, operation: str) -> None:
        self._faults.add("lose_reply", PATHS[operation])

    def cut_stream(self, chunks: int) -> None:
        self._faults.add("cut", PATHS["chat.stream"], after=190 * chunks + 20)


HARNESS = VertexHarness
