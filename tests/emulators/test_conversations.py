"""Long conversations between two emulated clouds, at random with a seed: tools, reasoning, images,
streams, empty answers, and a profile whose cloud fails now and then, so that its fallback answers.
None is refused.

``CLOUDAI_CONVERSATIONS=500`` runs as many; the suite runs a few.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudai import Client
from cloudai.testing.clouds import EmulatedCloud, emulated
from cloudai.types import ChatReply, Image, Message, Text, Tool, ToolResult

COUNT = int(os.environ.get("CLOUDAI_CONVERSATIONS", "30"))
TURNS = 20
MODELS = {"aws": "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "vertex": "gemini-3-flash"}
TOOL = Tool(name="look", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})
PNG = Image(data=b"\x89PNG")


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EmulatedCloud]]:
    aws, vertex = emulated("aws").start(), emulated("vertex").start()
    vertex.emulator.gemini.models.add(MODELS["vertex"])
    vertex.emulator.gemini.script(gemini(random.Random(0)))  # each answer queues the next
    with aws.applied():
        yield {"aws": aws, "vertex": vertex}
    aws.stop()
    vertex.stop()


def profiles(clouds: dict[str, EmulatedCloud], folder: Path) -> Path:
    """A profile a cloud; each falls back to the other."""
    lines: list[str] = []
    for name, other in (("aws", "vertex"), ("vertex", "aws")):
        keys = {key: value for key, value in clouds[name].keys.items() if key != "home"}
        about = {"provider": name, "fallback": [other], "retries": 0, **keys}
        lines += [f"[profiles.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in about.items())]
        lines.append(f'models = {{ default = "{MODELS[name]}" }}')
    file = folder / "cloudai.toml"
    file.write_text("\n".join(lines))
    return file


def bedrock(draw: random.Random) -> dict[str, Any]:
    """An answer as Claude gives it: thoughts between calls, blank texts, nothing at all."""
    blocks: list[dict[str, Any]] = []
    calls = draw.choice((0, 0, 1, 2)) if draw.random() < 0.9 else -1
    for _ in range(draw.choice((0, 1, 2)) if calls >= 0 else 0):
        text = {"text": "hm", "signature": f"s{draw.random()}"}
        blocks.append({"reasoningContent": {"reasoningText": text}})
        if draw.random() < 0.3:
            blocks.append({"reasoningContent": {"redactedContent": "eA=="}})
    if calls >= 0:
        blocks.append({"text": draw.choice(("It is.", " \n"))})
    for _ in range(calls):
        use = {"toolUseId": f"t{draw.randrange(10**9)}", "name": "look", "input": {"n": 1}}
        blocks.append({"toolUse": use})
    return {
        "output": {"message": {"role": "assistant", "content": blocks}},
        "stopReason": "tool_use" if calls > 0 else "end_turn",
        "metrics": {"latencyMs": 1},
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    }


def gemini(draw: random.Random) -> dict[str, Any]:
    """An answer as Gemini gives it: signed texts, images, code, calls."""
    parts: list[dict[str, Any]] = []
    if draw.random() < 0.5:
        parts.append({"text": "hm", "thought": True})
    if draw.random() < 0.3:
        parts.append({"executableCode": {"language": "PYTHON", "code": "1"}})
        parts.append({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}})
    if draw.random() < 0.2:
        parts.append({"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}})
    parts.append({"text": draw.choice(("It is.", ""))})
    if draw.random() < 0.5:
        parts[-1]["thoughtSignature"] = "YWJj"
    for at in range(draw.choice((0, 0, 1, 2))):
        parts.append({"functionCall": {"name": "look", "args": {"n": at}}})
        if at == 0:
            parts[-1]["thoughtSignature"] = "ZGVm"
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    return {"candidates": [candidate]}


def ask(client: Client, draw: random.Random, talk: list[Message], **about: Any) -> ChatReply:
    if draw.random() < 0.5:
        return client.chat.create(talk, **about)
    stream = client.chat.stream(talk, **about)
    list(stream)
    return stream.reply


@pytest.mark.parametrize("seed", range(COUNT))
def test_t1_t2_t3_t4_t6_conversations_across_two_clouds(
    clouds: dict[str, EmulatedCloud], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("cloudai._core.calls.breaker.COOL", 0.0)  # it is asked again at once
    draw = random.Random(seed)
    first = draw.choice(("aws", "vertex"))
    vertex = clouds["vertex"].emulator
    clouds["aws"].emulator.cloud_state.chat = lambda _: bedrock(draw)
    talk, answered = [Message("user", "Begin.")], list[str]()
    with Client(first, config=profiles(clouds, tmp_path), home=str(tmp_path)) as client:
        for turn in range(TURNS):
            if failing := draw.random() < 0.4:
                kind = draw.choice((clouds[first].faults.fail, clouds[first].faults.reset))
                kind("chat.*")
            about: dict[str, Any] = {"max_tokens": 4000}
            if draw.random() < 0.7:
                about["tools"] = [TOOL]
            if draw.random() < 0.5:
                about["reasoning"] = "low"
            reply = ask(client, draw, talk, **about)
            answered.append(reply.provider)
            assert (reply.provider != first) == failing
            if reply.provider == "vertex":
                vertex.gemini.script(gemini(draw))  # the next one
            talk.append(reply.message)
            if reply.tool_calls:
                shown: Any = draw.choice(("sun", "", {"sky": "grey"}, (Text("Look."), PNG)))
                results = [
                    ToolResult(one.id, shown, draw.random() < 0.2) for one in reply.tool_calls
                ]
                talk.append(Message("tool", tuple(results)))
            if not reply.tool_calls or draw.random() < 0.3:
                asked: Any = f"And {turn}?" if draw.random() < 0.8 else (Text("See."), PNG)
                talk.append(Message("user", asked))
    assert sum(message.role == "assistant" for message in talk) == TURNS
    assert len(set(answered)) == 2  # both clouds took part
