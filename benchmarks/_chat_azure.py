"""What ``chat.py`` measures on azure: cloudai beside the openai SDK as its manual shows it."""

from __future__ import annotations

import base64
import json
import struct
from functools import cache
from typing import Any

from _canned import chunked, json_body, whole

TARGETS = {"chat": 0.6, "concurrent": 0.4, "stream": 0.5, "embed": 0.8, "rss": 1.1}
"""The most that cloudai may cost, as a part of what the SDK costs."""

CHUNKS = 500
DIMENSIONS = 384
MESSAGES = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Say something about foxes, please."},
]
TEXT = "The quick brown fox jumps over the lazy dog."
TEXTS = [f"document number {index} about machine learning" for index in range(2048)]
_USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 9,
    "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def respond(path: str, body: bytes) -> bytes:
    """Chat, streams and embeddings of the v1 API."""
    if path.endswith("/embeddings"):
        asked = json.loads(body)
        return _embeddings(len(asked["input"]))
    return _stream() if b'"stream":true' in body.replace(b" ", b"") else _chat()


@cache
def _chat() -> bytes:
    message = {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return whole(json_body({**_base("chat.completion"), "choices": [choice], "usage": _USAGE}))


def _base(kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-canned",
        "object": kind,
        "created": 1700000000,
        "model": "gpt-5.1-2025-11-13",
        "system_fingerprint": "fp_canned",
    }


@cache
def _stream() -> bytes:
    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        made = {**_base("chat.completion.chunk"), "choices": [choice]}
        return b"data: " + json_body(made) + b"\n\n"

    last = {**_base("chat.completion.chunk"), "choices": [], "usage": _USAGE}
    return chunked(
        [
            event({"role": "assistant", "content": "", "refusal": None}),
            *(event({"content": f"word{index} "}) for index in range(CHUNKS)),
            event({}, "stop"),
            b"data: " + json_body(last) + b"\n\n",
            b"data: [DONE]\n\n",
        ],
        "text/event-stream; charset=utf-8",
    )


@cache
def _embeddings(count: int) -> bytes:
    vector = struct.pack(
        f"<{DIMENSIONS}f", *((i * 37 % 100) / 100 - 0.5 for i in range(DIMENSIONS))
    )
    packed = base64.b64encode(vector).decode()
    data = [{"object": "embedding", "index": index, "embedding": packed} for index in range(count)]
    usage = {"prompt_tokens": 3 * count, "total_tokens": 3 * count}
    return whole(json_body({"object": "list", "data": data, "model": "embed", "usage": usage}))


class Raw:
    """The SDK."""

    def __init__(self, base: str) -> None:
        from openai import AsyncOpenAI, OpenAI

        url = f"{base}/openai/v1/"
        self._client = OpenAI(base_url=url, api_key="k", max_retries=0)
        self._async = AsyncOpenAI(base_url=url, api_key="k", max_retries=0)

    def chat(self) -> str:
        answer = self._client.chat.completions.create(model="gpt-5.1", messages=MESSAGES)
        return answer.choices[0].message.content

    async def achat(self) -> str:
        answer = await self._async.chat.completions.create(model="gpt-5.1", messages=MESSAGES)
        return answer.choices[0].message.content

    def stream(self) -> str:
        pieces = []
        for chunk in self._client.chat.completions.create(
            model="gpt-5.1",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        ):
            if chunk.choices:
                pieces.append(chunk.choices[0].delta.content or "")
        return "".join(pieces)

    def embed(self) -> tuple[int, int]:
        data = self._client.embeddings.create(model="embed", input=TEXTS).data
        return len(data), len(data[0].embedding)


class Ours:
    """cloudai."""

    def __init__(self, base: str) -> None:
        import cloudai

        keys: dict[str, Any] = {"provider": "azure", "endpoint": base, "api_key": "k"}
        self._client = cloudai.Client(**keys)
        self._async = cloudai.AsyncClient(**keys)

    def chat(self) -> str:
        return self._client.chat.create(MESSAGES, model="gpt-5.1").text

    async def achat(self) -> str:
        return (await self._async.chat.create(MESSAGES, model="gpt-5.1")).text

    def stream(self) -> str:
        return "".join(chunk.text for chunk in self._client.chat.stream(MESSAGES, model="gpt-5.1"))

    def embed(self) -> tuple[int, int]:
        return self._client.embeddings.create(TEXTS, model="embed").array.shape
