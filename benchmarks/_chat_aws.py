"""What ``chat.py`` measures on aws: cloudai beside boto3's bedrock-runtime client, which under
concurrency runs in threads."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from _canned import chunked, json_body, whole

TARGETS = {"chat": 1.0, "concurrent": 1.0, "stream": 1.0, "embed": 1.0, "rss": 1.2}
"""The most that cloudai may cost, as a part of what boto3 costs."""

CHUNKS = 500
DIMENSIONS = 384
MODEL = "anthropic.claude-sonnet-4-5-20250929-v1:0"
EMBED = "cohere.embed-v4:0"
SYSTEM = "You are terse."
PROMPT = "Say something about foxes, please."
TEXT = "The quick brown fox jumps over the lazy dog."
TEXTS = [f"document number {index} about machine learning" for index in range(2048)]
COHERE = 96
"""Texts in one request."""
_USAGE = {"inputTokens": 12, "outputTokens": 9, "totalTokens": 21}

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIACANNED0000000000",
    "AWS_SECRET_ACCESS_KEY": "canned",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def respond(path: str, body: bytes) -> bytes:
    """Converse, ConverseStream and InvokeModel."""
    if path.endswith("/converse-stream"):
        return _stream()
    if path.endswith("/converse"):
        return _chat()
    return _embeddings(len(json.loads(body)["texts"]))


@cache
def _chat() -> bytes:
    message = {"role": "assistant", "content": [{"text": TEXT}]}
    return whole(
        json_body(
            {
                "metrics": {"latencyMs": 1},
                "output": {"message": message},
                "stopReason": "end_turn",
                "usage": _USAGE,
            }
        )
    )


def _event(kind: str, value: dict[str, Any]) -> bytes:
    """A message of AWS's event stream encoding, written from its specification."""
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack("!H", len(text)) + text
        for name, text in (
            (b":event-type", kind.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    payload = json_body(value)
    head = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = head + struct.pack("!I", zlib.crc32(head)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


@cache
def _stream() -> bytes:
    def delta(text: str) -> bytes:
        return _event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})

    parts = [_event("messageStart", {"role": "assistant"})]
    parts += [delta(f"word{index} ") for index in range(CHUNKS)]
    parts.append(_event("contentBlockStop", {"contentBlockIndex": 0}))
    parts.append(_event("messageStop", {"stopReason": "end_turn"}))
    parts.append(_event("metadata", {"usage": _USAGE, "metrics": {"latencyMs": 1}}))
    return chunked(parts, "application/vnd.amazon.eventstream")


@cache
def _embeddings(count: int) -> bytes:
    row = [(i * 37 % 100) / 100 - 0.5 for i in range(DIMENSIONS)]
    return whole(json_body({"id": "x", "embeddings": {"float": [row] * count}}))


class Raw:
    """boto3 as its manual shows it."""

    def __init__(self, base: str) -> None:
        os.environ.update(KEYS)
        import boto3
        from botocore.config import Config

        config = Config(max_pool_connections=64)
        self._client = boto3.client(
            "bedrock-runtime", region_name="us-east-1", endpoint_url=base, config=config
        )
        self._messages = [{"role": "user", "content": [{"text": PROMPT}]}]
        self._system = [{"text": SYSTEM}]
        self._threads = ThreadPoolExecutor(64)

    def chat(self) -> None:
        found = self._client.converse(modelId=MODEL, messages=self._messages, system=self._system)
        assert found["output"]["message"]["content"][0]["text"] == TEXT

    async def achat(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self.chat)

    def stream(self) -> None:
        found = self._client.converse_stream(
            modelId=MODEL, messages=self._messages, system=self._system
        )
        pieces = [
            event["contentBlockDelta"]["delta"]["text"]
            for event in found["stream"]
            if "contentBlockDelta" in event
        ]
        assert len(pieces) == CHUNKS

    def embed(self) -> None:
        import numpy as np

        rows: list[list[float]] = []
        for at in range(0, len(TEXTS), COHERE):
            body = {"texts": TEXTS[at : at + COHERE], "input_type": "search_document"}
            found = self._client.invoke_model(modelId=EMBED, body=json.dumps(body))
            rows += json.loads(found["body"].read())["embeddings"]["float"]
        assert np.array(rows, dtype=np.float32).shape == (len(TEXTS), DIMENSIONS)

    def close(self) -> None:
        self._client.close()
        self._threads.shutdown()


class Ours:
    """cloudai."""

    def __init__(self, base: str) -> None:
        os.environ.update(KEYS)
        import cloudai

        keys = {"provider": "aws", "region": "us-east-1", "endpoint_url": base}
        self._client = cloudai.Client(**keys)
        self._async = cloudai.AsyncClient(**keys)

    def chat(self) -> None:
        assert self._client.chat.create(PROMPT, model=MODEL, system=SYSTEM).text == TEXT

    async def achat(self) -> None:
        reply = await self._async.chat.create(PROMPT, model=MODEL, system=SYSTEM)
        assert reply.text == TEXT

    def stream(self) -> None:
        chunks = self._client.chat.stream(PROMPT, model=MODEL, system=SYSTEM)
        pieces = [chunk.text for chunk in chunks if chunk.text]
        assert len(pieces) == CHUNKS

    def embed(self) -> None:
        reply = self._client.embeddings.create(TEXTS, model=EMBED)
        assert reply.array.shape == (len(TEXTS), DIMENSIONS)

    def close(self) -> None:
        self._client.close()
