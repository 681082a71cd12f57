"""The default executor: answers that follow from the request, so that tests can tell them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

from cloudai.testing.emulators.azure._state import Deployed
from cloudai.types import ChatChunk


class ScriptedExecutor:
    """Answers from a script, else by rule: an echo of the last user message, a forced tool's
    call, an object of the asked schema; vectors from the text's hash.

    Parameters
    ----------
    replies: chat messages to be given first, in order; a text is a message's content.
    """

    def __init__(self) -> None:
        self.replies: list[str | dict[str, Any]] = []

    def chat(self, deployment: Deployed, body: dict[str, Any]) -> dict[str, Any]:
        """See ``Executor.chat``."""
        if self.replies:
            reply = self.replies.pop(0)
            return {"content": reply} if isinstance(reply, str) else reply
        schema = (body.get("response_format") or {}).get("json_schema")
        if schema:
            return {"content": json.dumps(_sample(schema["schema"], schema["schema"]))}
        tools = body.get("tools")
        choice = body.get("tool_choice", "auto")
        last = body["messages"][-1]
        if tools and choice != "none" and last["role"] != "tool":
            wanted = choice["function"]["name"] if isinstance(choice, dict) else None
            tool = next((t for t in tools if t["function"]["name"] == wanted), tools[0])
            function = tool["function"]
            arguments = json.dumps(_sample(function["parameters"], function["parameters"]))
            call = {"name": function["name"], "arguments": arguments}
            calls = [{"id": "call_1", "type": "function", "function": call}]
            return {"content": None, "tool_calls": calls}
        said = last["content"]
        if not isinstance(said, str):
            said = " ".join(part.get("text", f"<{part['type']}>") for part in said or ())
        return {"content": f"echo: {said}"}

    def stream(self, deployment: Deployed, body: dict[str, Any]) -> Iterator[ChatChunk] | None:
        """See ``Executor.stream``."""
        return None

    def embed(self, deployment: Deployed, text: str, dimensions: int) -> list[float]:
        """See ``Executor.embed``."""
        # The sum of a vector for each word: texts that share words are close to each other.
        values = [0.0] * dimensions
        for word in re.findall(r"\w+|\W", text.lower()):
            seed = hashlib.sha256(word.encode()).digest()
            raw = (seed * (dimensions * 2 // len(seed) + 1))[: dimensions * 2]
            weight = 1.0 if word.isalnum() and len(word) > 3 else 0.05
            for at, value in enumerate(struct.unpack(f"<{dimensions}h", raw)):
                values[at] += weight * value / 32768.0
        norm = sum(v * v for v in values) ** 0.5 or 1.0
        return [v / norm for v in values]

    def dimensions(self, deployment: Deployed) -> int:
        """See ``Executor.dimensions``."""
        return 16

    def train(self, job: Any) -> str:
        """See ``Executor.train``. A batch says its inputs again."""
        about = job.body["properties"].get("batch")
        for name, content in job.files(about["input"]).items() if about else ():
            rows = [json.loads(line) for line in content.splitlines()]
            said = [{"line": row["line"], "output": row["value"]} for row in rows]
            text = "".join(json.dumps(one) + "\n" for one in said)
            job.put(about["output"], name, text.encode())
        job.log(f"ran: {job.body['properties'].get('command', '')}\n")
        return "Completed"

    def serve(self, job: Any, endpoint: str, deployment: str) -> str | None:
        """See ``Executor.serve``."""
        return None

    def unserve(self, endpoint: str, deployment: str) -> None:
        """See ``Executor.unserve``."""
        return None

    def score(self, endpoint: str, deployment: str, body: str) -> Any:
        """See ``Executor.score``."""
        return {"outputs": json.loads(body)["inputs"]}


def _sample(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """The simplest value of a JSON Schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _sample(root["$defs"][name], root)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _sample(schema["anyOf"][0], root)
    kind = schema.get("type")
    if kind == "object":
        return {name: _sample(inner, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return []
    return {"string": "text", "integer": 1, "number": 1.5, "boolean": True}.get(str(kind))
