"""The suite, adopted: a harness, and one line that makes the test classes.

The server is the emulated Azure OpenAI, whose v1 API is OpenAI's own.
"""

from __future__ import annotations

import atexit
from functools import cache
from typing import Any

from cloudai.testing.clouds import EmulatedCloud, emulated
from cloudai.testing.conformance import Harness, suites


@cache
def server() -> EmulatedCloud:
    """One for all tests."""
    made = emulated("azure").start()
    atexit.register(made.stop)
    return made


class CompatHarness(Harness):
    """What the suite is told of the provider."""

    provider = "compat"
    chat_model = "gpt-5.1"
    embedding_model = "text-embedding-3-small"
    gaps = {"embeddings:truncate": "OpenAI's API refuses overlong texts, and cuts none"}

    def keys(self) -> dict[str, Any]:
        return {"endpoint": f"{server().url}/openai/v1", "api_key": server().emulator.key}

    def prepare(self, capability: str) -> None:
        server().faults.clear()

    def faults(self) -> Any:
        return server().faults  # throttle, fail, lose_reply, cut_stream: just what is wanted


globals().update(suites(CompatHarness))
