"""Azure OpenAI's chat completions as server-sent events: an empty first ``choices``, the role, the
pieces, the usage in a chunk of its own, ``[DONE]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudai.errors import CloudAIError
from cloudai.formats.openai import completion as openai
from cloudai.types import ChatChunk, Usage


def cut(answer: dict[str, Any], usage: bool) -> Iterator[bytes]:
    """A whole answer, a piece a word, tool calls in pieces."""
    choice = answer["choices"][0]
    message = choice["message"]
    events = _Events(answer)
    yield from events.first()
    text = message.get("content") or ""
    for index, word in enumerate(text.split(" ") if text else []):
        yield events.piece({"content": word if index == 0 else f" {word}"})
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        parts = (function["arguments"][:3], function["arguments"][3:])
        yield from events.call(index, call["id"], function["name"], parts)
    yield events.piece({}, choice["finish_reason"])
    yield from events.last(answer["usage"] if usage else None)


def made(head: dict[str, Any], chunks: Iterator[ChatChunk], usage: bool) -> Iterator[bytes]:
    """The pieces of a local model's answer, as they come.

    Parameters
    ----------
    head: what each event begins with, and ``prompt_filter_results``.
    """
    events = _Events(head)
    yield from events.first()
    spent = Usage()
    try:
        for chunk in chunks:
            delta = openai.delta(chunk)
            if delta or chunk.finish_reason is not None:
                yield events.piece(delta, chunk.finish_reason)
            spent = chunk.usage or spent
    except CloudAIError as error:
        yield events.error(str(error))
        return
    yield from events.last(openai.usage(spent) if usage else None)


class _Events:
    def __init__(self, head: dict[str, Any]) -> None:
        self._filtered = head["prompt_filter_results"]
        self._base = {
            **{name: head[name] for name in ("id", "created", "model")},
            "object": "chat.completion.chunk",
        }

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return openai.event({**self._base, "choices": choices, **more})

    def piece(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self._event(openai.choices(delta, finish))

    def first(self) -> Iterator[bytes]:
        yield self._event([], prompt_filter_results=self._filtered)
        yield self.piece({"role": "assistant", "content": "", "refusal": None})

    def call(
        self, index: int, id: str | None, name: str | None, parts: tuple[str, ...]
    ) -> Iterator[bytes]:
        head = {"name": name, "arguments": ""}
        one = {"index": index, "id": id, "type": "function", "function": head}
        yield self.piece({"tool_calls": [one]})
        for part in parts:
            yield self.piece({"tool_calls": [{"index": index, "function": {"arguments": part}}]})

    def last(self, usage: Any) -> Iterator[bytes]:
        if usage is not None:
            yield self._event([], usage=usage)
        yield b"data: [DONE]\n\n"

    def error(self, message: str) -> bytes:
        return openai.event({"error": {"code": "InternalServerError", "message": message}})
