"""The default executor: answers that follow from the request, so that tests can tell them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from cloudai.testing.emulators.azure._asked import asked
from cloudai.testing.emulators.azure._state import Deployed
from cloudai.testing.emulators.common.answers import Reply, by_rule, vector
from cloudai.types import ChatChunk

DIMENSIONS: Final = {
    "text-embedding-ada-002": 1536,
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
}
"""The models' own (Azure OpenAI's page of models, embeddings, read 2026-11)."""


class ScriptedExecutor:
    """Answers from a script, else by the rules that all emulated clouds share.

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
        return message_of(by_rule(asked(body, deployment.model)))

    def stream(self, deployment: Deployed, body: dict[str, Any]) -> Iterator[ChatChunk] | None:
        """See ``Executor.stream``."""
        return None

    def embed(self, deployment: Deployed, text: str, dimensions: int) -> list[float]:
        """See ``Executor.embed``."""
        return vector(text, dimensions)

    def dimensions(self, deployment: Deployed) -> int:
        """See ``Executor.dimensions``."""
        return DIMENSIONS.get(deployment.model, 1536)

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

    def log(self, endpoint: str, deployment: str) -> str:
        """See ``Executor.log``."""
        return "server started\n"

    def score(self, endpoint: str, deployment: str, body: str) -> Any:
        """See ``Executor.score``."""
        return {"outputs": json.loads(body)["inputs"]}


def message_of(reply: Reply) -> dict[str, Any]:
    """The message of a chat completion, with its ``finish_reason`` beside it."""
    message: dict[str, Any] = {"content": reply.text or None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": one.name, "arguments": json.dumps(one.arguments)},
            }
            for index, one in enumerate(reply.tool_calls, start=1)
        ]
    if reply.finish_reason is not None:
        message["finish_reason"] = reply.finish_reason
    return message
