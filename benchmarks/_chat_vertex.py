"""What ``chat.py`` measures on vertex: cloudai beside google-genai as its manual shows it.

``python benchmarks/_chat_vertex.py [--check]`` measures the first chat of a cold process instead:
imports, credentials, connection and call.
"""

from __future__ import annotations

import atexit
import json
import statistics
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from _canned import chunked, json_body, whole

TARGETS = {"chat": 1.0, "concurrent": 1.0, "stream": 1.0, "embed": 1.0, "rss": 1.2}
"""The most that cloudai may cost, as a part of what the SDK costs."""
COLD_TARGET = 1.2

CHUNKS = 500
DIMENSIONS = 384
MODEL = "gemini-3.5-flash"
SYSTEM = "You are terse."
PROMPT = "Say something about foxes, please."
TEXT = "The quick brown fox jumps over the lazy dog."
TEXTS = [f"document number {index} about machine learning" for index in range(2048)]
_USAGE = {"promptTokenCount": 12, "candidatesTokenCount": 9, "totalTokenCount": 21}


def respond(path: str, body: bytes) -> bytes:
    """Tokens, chat, streams and embeddings of Vertex AI."""
    if path.startswith("/token"):
        token = {"access_token": "ya29.canned", "expires_in": 3600, "token_type": "Bearer"}
        return whole(json_body(token))
    if ":predict" in path:
        return _embeddings(len(json.loads(body)["instances"]))
    return _stream() if "stream" in path else _chat()


def _answer(text: str, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, **more}
    return {
        "candidates": [candidate],
        "usageMetadata": _USAGE,
        "modelVersion": MODEL,
        "createTime": "2026-11-22T12:00:00.000000Z",
        "responseId": "canned",
    }


@cache
def _chat() -> bytes:
    return whole(json_body(_answer(TEXT, finishReason="STOP")))


@cache
def _stream() -> bytes:
    answers = [_answer(f"word{index} ") for index in range(CHUNKS - 1)]
    answers.append(_answer(f"word{CHUNKS - 1}", finishReason="STOP"))
    parts = [b"data: " + json_body(answer) + b"\r\n\r\n" for answer in answers]
    return chunked(parts, "text/event-stream")


@cache
def _embeddings(count: int) -> bytes:
    values = [(i * 37 % 100) / 100 - 0.5 for i in range(DIMENSIONS)]
    one = {"embeddings": {"values": values, "statistics": {"truncated": False, "token_count": 6}}}
    return whole(json_body({"predictions": [one] * count}))


@cache
def credentials(base: str) -> str:
    """A service account's file whose tokens come from the canned server."""
    from cloudai.testing.emulators.vertex._identity import service_account

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "account.json"
    path.write_text(service_account("p", base))
    return str(path)


class Raw:
    """The SDK."""

    def __init__(self, base: str, account: str | None = None) -> None:
        from google import genai
        from google.oauth2 import service_account

        self._types = genai.types
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        self._client = genai.Client(
            vertexai=True,
            project="p",
            location="us-central1",
            credentials=service_account.Credentials.from_service_account_file(
                account or credentials(base), scopes=scopes
            ),
            http_options=genai.types.HttpOptions(base_url=base),
        )
        self._config = genai.types.GenerateContentConfig(system_instruction=SYSTEM)

    def chat(self) -> str:
        models = self._client.models
        return models.generate_content(model=MODEL, contents=PROMPT, config=self._config).text

    async def achat(self) -> str:
        models = self._client.aio.models
        answer = await models.generate_content(model=MODEL, contents=PROMPT, config=self._config)
        return answer.text

    def stream(self) -> str:
        pieces = self._client.models.generate_content_stream(
            model=MODEL, contents=PROMPT, config=self._config
        )
        return "".join(piece.text or "" for piece in pieces)

    def embed(self) -> tuple[int, int]:
        answer = self._client.models.embed_content(model="text-embedding-005", contents=TEXTS)
        return len(answer.embeddings), len(answer.embeddings[0].values)


class Ours:
    """cloudai."""

    def __init__(self, base: str, account: str | None = None) -> None:
        import cloudai

        keys: dict[str, Any] = {
            "provider": "vertex",
            "project": "p",
            "location": "us-central1",
            "endpoint": base,
            "credentials": account or credentials(base),
        }
        self._client = cloudai.Client(**keys)
        self._async = cloudai.AsyncClient(**keys)

    def chat(self) -> str:
        return self._client.chat.create(PROMPT, system=SYSTEM, model=MODEL).text

    async def achat(self) -> str:
        return (await self._async.chat.create(PROMPT, system=SYSTEM, model=MODEL)).text

    def stream(self) -> str:
        chunks = self._client.chat.stream(PROMPT, system=SYSTEM, model=MODEL)
        return "".join(chunk.text for chunk in chunks)

    def embed(self) -> tuple[int, int]:
        return self._client.embeddings.create(TEXTS, model="text-embedding-005").array.shape


_COLD = """
import sys, time
began = time.perf_counter()
sys.path.insert(0, {here!r})
import _chat_vertex
peer = _chat_vertex.{side}({base!r}, {account!r})
assert peer.chat() == _chat_vertex.TEXT
print(time.perf_counter() - began)
"""


def cold(rounds: int = 7) -> dict[str, float]:
    """Seconds until the first answer in a new process, the median of some, both sides in turns."""
    here = str(Path(__file__).parent)
    server = subprocess.Popen(
        [sys.executable, str(Path(here) / "_canned.py"), "_chat_vertex"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    spent: dict[str, list[float]] = {"Raw": [], "Ours": []}
    try:
        base = f"http://127.0.0.1:{int(server.stdout.readline())}"
        account = credentials(base)
        for _ in range(rounds):
            for side, found in spent.items():
                code = _COLD.format(here=here, side=side, base=base, account=account)
                done = subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True
                )
                found.append(float(done.stdout))
    finally:
        server.stdin.close()
        server.wait(10)
        server.stdout.close()
    return {side: statistics.median(found) for side, found in spent.items()}


def main() -> int:
    found = cold()
    ratio = found["Ours"] / found["Raw"]
    print(
        f"first chat, cold: google-genai {found['Raw']:.2f} s, cloudai {found['Ours']:.2f} s, "
        f"ratio {ratio:.2f} (target {COLD_TARGET})"
    )
    return 1 if "--check" in sys.argv and ratio > COLD_TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
