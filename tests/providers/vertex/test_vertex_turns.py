"""Turns that go back to Gemini, whole and streamed; the emulator holds them to the protos."""

from __future__ import annotations

from typing import Any

import pytest
from vertextools import sent

from cloudai import Client
from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.providers.vertex.chat import wire
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import (
    ChatReply,
    ChatRequest,
    Image,
    Message,
    NativePart,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

MODEL = "gemini-3-pro-preview"
OLDER = "gemini-2.5-flash"
TOOL = Tool(name="look", parameters={"type": "object", "properties": {}})
HI, MORE = Message("user", "Hi"), Message("user", "More?")
CALL = ToolCall("1", "look", "{}")


def assistant(*parts: Part) -> Message:
    return Message("assistant", parts)


def contents(*turns: Message, model: str = MODEL, **about: Any) -> list[dict[str, Any]]:
    return wire.encode(ChatRequest(model=model, messages=turns, **about))["contents"]


def test_t1_texts_and_turns_that_say_nothing_are_left_out(client: Client) -> None:
    made = contents(HI, Message("assistant", ""), assistant(Text("")), MORE)
    assert made == [{"role": "user", "parts": [{"text": "Hi"}, {"text": "More?"}]}]
    encoded = wire.encode(ChatRequest(model=MODEL, messages=(Message("system", " "), HI)))
    assert "systemInstruction" not in encoded
    assert client.chat.create([HI, Message("assistant", ""), MORE], model=MODEL).text
    with pytest.raises(InvalidRequest, match="say nothing"):
        contents(Message("user", " "))


def test_t4_reasoning_goes_back_to_its_maker_alone(client: Client) -> None:
    foreign = Reasoning("hm", "c2lnbmVkIQ==", provider="aws", family="anthropic.claude")
    talk = [HI, assistant(foreign, Text("a"), CALL), Message("tool", (ToolResult("1", "sun"),))]
    assert contents(*talk)[1]["parts"] == [
        {"text": "a"},
        {
            "functionCall": {"name": "look", "args": {}},
            "thoughtSignature": "skip_thought_signature_validator",
        },
    ]
    assert client.chat.create(talk, model=MODEL, tools=[TOOL]).text
    with pytest.raises(InvalidRequest, match="Corrupted thought signature"):
        client.chat.create([HI, assistant(Reasoning("", "eA=="), Text("a")), MORE], model=MODEL)


PARTS: list[dict[str, Any]] = [
    {"text": "Drawn by code.", "thoughtSignature": "YQ=="},
    {"executableCode": {"language": "PYTHON", "code": "print(2)"}},
    {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}},
    {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}, "thoughtSignature": "Yg=="},
    {"text": "There."},
    {"text": "", "thoughtSignature": "Yw=="},
]


def answer(cloud: VertexEmulator, client: Client, *, stream: bool) -> ChatReply:
    def candidate(*parts: dict[str, Any], **about: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [*parts]}, **about}]}

    last = candidate(PARTS[-1], finishReason="STOP")
    pieces = [*(candidate(part) for part in PARTS[:-1]), last]
    cloud.gemini.script({"stream": pieces} if stream else candidate(*PARTS, finishReason="STOP"))
    if not stream:
        return client.chat.create("Draw.", model=MODEL)
    made = client.chat.stream("Draw.", model=MODEL)
    list(made)
    return made.reply


@pytest.mark.parametrize("stream", [False, True])
def test_t6_all_parts_of_an_answer_go_back(
    cloud: VertexEmulator, client: Client, stream: bool
) -> None:
    reply = answer(cloud, client, stream=stream)
    assert reply.text == "Drawn by code.There."
    assert Image(data=b"\x89PNG") in reply.parts
    assert [part for part in reply.parts if isinstance(part, NativePart)] == [
        NativePart("vertex", "gemini", PARTS[1]), NativePart("vertex", "gemini", PARTS[2]),
    ]  # fmt: skip
    client.chat.create([HI, reply.message, MORE], model=MODEL)
    # A whole answer has the last signature on its last text.
    whole = [*PARTS[:-2], {"text": "There.", "thoughtSignature": "Yw=="}]
    back = sent(cloud, ":generateContent")[-1]["contents"][1]["parts"]
    assert back == (PARTS if stream else whole)


def test_t8_an_image_in_a_result_is_an_image(client: Client) -> None:
    result = ToolResult("1", (Text("Here."), Image(data=b"\x89PNG")))
    talk = [HI, assistant(CALL), Message("tool", (result,))]
    (part,) = contents(*talk)[2]["parts"]
    assert part["functionResponse"] == {
        "name": "look",
        "response": {"result": "Here."},
        "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}],
    }
    assert client.chat.create(talk, model=MODEL, tools=[TOOL]).text
    with pytest.raises(UnsupportedByProvider, match="before Gemini 3"):
        contents(*talk, model=OLDER)


def test_t9_a_conversation_that_begins_with_a_call() -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\].role"):
        contents(assistant(CALL), Message("tool", (ToolResult("1", "sun"),)))


def test_s9_s10_tools_of_native_are_added_and_a_choice_goes_with_them() -> None:
    asked = ChatRequest(
        model=MODEL, messages=(HI,), tools=(TOOL,), native={"tools": [{"googleSearch": {}}]}
    )
    assert [next(iter(one)) for one in wire.encode(asked)["tools"]] == [
        "functionDeclarations", "googleSearch",
    ]  # fmt: skip
    bare = ChatRequest(model=MODEL, messages=(HI,), tool_choice="auto")
    assert "toolConfig" not in wire.encode(bare)


def test_a5_more_than_one_candidate_is_not_streamed() -> None:
    native = {"generationConfig": {"candidateCount": 2}}
    asked = ChatRequest(model=MODEL, messages=(HI,), native=native)
    with pytest.raises(InvalidRequest, match="candidateCount"):
        wire.encode(asked, stream=True)
    assert wire.encode(asked)["generationConfig"]["candidateCount"] == 2
