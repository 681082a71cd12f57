"""Turns that go back to Bedrock, and answers whose parts keep their order.

What is sent is held to botocore's model; what the service refuses is refused by the emulator in
its words (see ``_turns`` there for the sources).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import botocore.session
import msgspec
import pytest

from cloudai import Client
from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.formats import botocore_limits as limits
from cloudai.providers.aws.chat import converse, converse_reply
from cloudai.testing.emulators.aws import AwsEmulator
from cloudai.types import (
    ChatReply,
    ChatRequest,
    Document,
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

CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
NEWER = "eu.anthropic.claude-opus-4-6-v1"
NOVA = "amazon.nova-lite-v1:0"
LLAMA = "meta.llama3-3-70b-instruct-v1:0"
TOOL = Tool(name="look", parameters={"type": "object", "properties": {}})
PNG = b"\x89PNG"
CALL = ToolCall("1", "look", "{}")
RESULT = Message("tool", (ToolResult("1", "sun"),))

_SHAPE = botocore.session.Session().get_service_model("bedrock-runtime")


def body(*turns: Message, model: str = CLAUDE, **about: Any) -> dict[str, Any]:
    """What is sent, held to botocore's model of it."""
    request = ChatRequest(model=model, messages=turns, **about)
    made = msgspec.json.decode(converse.encode(converse.body(request)))
    shape = _SHAPE.operation_model("Converse").input_shape
    assert not list(limits.check(shape, {**made, "modelId": model}))
    return made


def contents(*turns: Message, **about: Any) -> list[list[dict[str, Any]]]:
    return [turn["content"] for turn in body(*turns, **about)["messages"]]


def assistant(*parts: Part) -> Message:
    return Message("assistant", parts)


HI, MORE = Message("user", "Hi"), Message("user", "More?")


def test_t1_blank_texts_and_empty_turns_are_left_out() -> None:
    made = contents(
        HI,
        Message("assistant", ""),
        assistant(Text(" \n"), Text("")),
        Message("user", (Text("  "), Text("There"))),
        assistant(Text("\n\n"), CALL),
        Message("tool", (ToolResult("1", " "),)),
        tools=(TOOL,),
    )
    assert made == [
        [{"text": "Hi"}, {"text": "There"}],
        [{"toolUse": {"toolUseId": "1", "name": "look", "input": {}}}],
        [{"toolResult": {"toolUseId": "1", "content": [{"text": "(no output)"}]}}],
    ]
    assert "system" not in body(Message("system", " "), HI)
    with pytest.raises(InvalidRequest, match="not blank"):
        body(Message("user", "  "))


def test_t1_an_empty_answer_goes_back(aws: AwsEmulator, client: Client) -> None:
    aws.cloud_state.chat = lambda _: converse_answer()
    reply = client.chat.create("Hi", model=CLAUDE)
    aws.cloud_state.chat = None
    assert client.chat.create([HI, reply.message, MORE], model=CLAUDE).text


def converse_answer(*blocks: dict[str, Any], stop: str = "end_turn") -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": list(blocks)}},
        "stopReason": stop,
        "metrics": {"latencyMs": 1},
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    }


def test_t2_tool_history_without_tools_is_told_as_text(client: Client) -> None:
    talk = [HI, assistant(Reasoning("hm", "s"), CALL), RESULT, MORE]
    (_, turn, answer) = contents(*talk)
    assert turn == [{"text": "[I called the tool look with {}]"}]
    assert answer == [{"text": "[The tool answered: sun]"}, {"text": "More?"}]
    assert client.chat.create(talk, model=CLAUDE).text
    assert client.chat.create(talk, model=NOVA, tools=[TOOL], tool_choice="none").text


def test_t3_thoughts_and_calls_keep_their_order(aws: AwsEmulator, client: Client) -> None:
    blocks = [
        {"reasoningContent": {"reasoningText": {"text": "A", "signature": "sA"}}},
        {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"n": 1}}},
        {"reasoningContent": {"redactedContent": "eA=="}},
        {"reasoningContent": {"reasoningText": {"text": "B", "signature": "sB"}}},
        {"toolUse": {"toolUseId": "t2", "name": "look", "input": {"n": 2}}},
    ]
    aws.cloud_state.chat = lambda _: converse_answer(*blocks, stop="tool_use")
    whole = client.chat.create("x", model=CLAUDE, tools=[TOOL])
    stream = client.chat.stream("x", model=CLAUDE, tools=[TOOL])
    list(stream)
    for reply in (whole, stream.reply):
        assert [one.id for one in reply.tool_calls] == ["t1", "t2"]
        assert contents(HI, reply.message, RESULT, tools=(TOOL,))[1] == blocks
    aws.cloud_state.chat = None
    results = Message("tool", tuple(ToolResult(one.id, "sun") for one in whole.tool_calls))
    talk = [Message("user", "x"), stream.reply.message, results]
    assert client.chat.create(talk, model=CLAUDE, tools=[TOOL], reasoning="low", max_tokens=4000)


def test_t4_reasoning_goes_back_to_its_maker_alone() -> None:
    thought = Reasoning("hm", "s", provider="aws", family="anthropic.claude")
    foreign = Reasoning("hm", "s", provider="vertex", family="gemini")
    for part, model, kept in (
        (thought, CLAUDE, True), (thought, NEWER, True), (thought, NOVA, False),
        (foreign, CLAUDE, False), (Reasoning("hm", "s"), CLAUDE, True),
    ):  # fmt: skip
        turn = contents(HI, assistant(part, Text("a")), MORE, model=model)[1]
        assert ("reasoningContent" in turn[0]) == kept


def test_t4_calls_of_another_model_are_gone_on_with(client: Client) -> None:
    talk = [HI, assistant(CALL), RESULT]
    asked: dict[str, Any] = {"tools": (TOOL,), "reasoning": "low", "max_tokens": 4000}
    # "Expected `thinking` or `redacted_thinking`, but found `tool_use`": so it thinks later.
    assert "additionalModelRequestFields" not in body(*talk, **asked)
    assert "additionalModelRequestFields" in body(*talk, assistant(Text("a")), MORE, **asked)
    assert "additionalModelRequestFields" in body(*talk, model=NEWER, **asked)  # adaptive
    assert client.chat.create(talk, model=CLAUDE, **asked).text


def test_t4_a_foreign_signature_is_refused_by_the_service(client: Client) -> None:
    talk = [HI, assistant(Reasoning("hm", "made up"), Text("a")), MORE]
    with pytest.raises(InvalidRequest, match="Invalid `signature` in `thinking` block"):
        client.chat.create(talk, model=CLAUDE)


def test_t8_an_image_in_a_result_is_an_image(client: Client) -> None:
    result = ToolResult("1", (Text("Here."), Image(data=PNG)))
    talk = [HI, assistant(CALL), Message("tool", (result,))]
    (_, _, turn) = contents(*talk, tools=(TOOL,))
    shown = [{"text": "Here."}, {"image": {"format": "png", "source": {"bytes": "iVBORw=="}}}]
    assert turn[0]["toolResult"]["content"] == shown
    assert contents(*talk)[2] == [{"text": "[The tool answered: Here.]"}, shown[1]]
    assert client.chat.create(talk, model=CLAUDE, tools=[TOOL]).text
    with pytest.raises(UnsupportedByProvider, match="user's message"):
        body(*talk, model="qwen.qwen3-32b-v1:0", tools=(TOOL,))


def test_t9_a_conversation_that_the_assistant_begins(client: Client) -> None:
    talk = [Message("assistant", "Welcome."), HI]
    assert len(contents(*talk)) == 2  # Claude takes it
    for model in (NOVA, LLAMA):
        with pytest.raises(InvalidRequest, match=r"messages\[0\].role"):
            client.chat.create(talk, model=model)


def test_s10_tools_of_native_are_added() -> None:
    system_tool = {"systemTool": {"name": "nova_code_interpreter"}}
    made = body(HI, model=NOVA, tools=(TOOL,), native={"toolConfig": {"tools": [system_tool]}})
    assert [next(iter(one)) for one in made["toolConfig"]["tools"]] == ["toolSpec", "systemTool"]


def test_e9_documents_have_names_of_their_own() -> None:
    given = ("document", "document", "Übung", "日本", "Document")
    pages = [Document(data=b"%PDF", name=name) for name in given]
    (turn, _, later) = contents(
        Message("user", (*pages[:2], Text("Read."))),
        Message("assistant", "Yes."),
        Message("user", (*pages[2:], Text("And these."))),
    )
    names = [block["document"]["name"] for block in (*turn, *later) if "document" in block]
    assert names == ["document", "document-2", "-bung", "document-3", "Document-4"]


def test_e9_a_document_without_a_text() -> None:
    with pytest.raises(InvalidRequest, match="without a text beside it"):
        body(Message("user", (Document(data=b"%PDF"),)))


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([("user", [{"text": " "}])], "is blank"),
        ([("user", [{"text": "a"}]), ("assistant", [])], "is empty"),
        ([("user", [{"text": "a"}]), ("assistant", [{"toolUse": {"toolUseId": "1", "name": "x",
          "input": {}}}])], "toolConfig field must be defined"),
        ([("user", [{"document": {"name": "a.b", "format": "pdf", "source": {"bytes": "eA=="}}},
                    {"text": "a"}])], "can only contain alphanumeric"),
        ([("user", [{"document": {"name": "a", "format": "pdf", "source": {"bytes": "eA=="}}}])],
         "text block must be included"),
        ([("user", [{"document": {"name": "a", "format": "pdf", "source": {"bytes": "eA=="}}},
                    {"document": {"name": "a", "format": "pdf", "source": {"bytes": "eA=="}}},
                    {"text": "a"}])], "duplicate document names"),
    ],
)  # fmt: skip
def test_t1_t2_e9_the_emulator_refuses_what_the_service_refuses(
    aws: AwsEmulator, turns: list[Any], words: str
) -> None:
    import boto3
    from botocore.exceptions import ClientError

    messages = [{"role": role, "content": content} for role, content in turns]
    runtime = boto3.client("bedrock-runtime", region_name=aws.region, endpoint_url=aws.url)
    with pytest.raises(ClientError, match=words):
        runtime.converse(modelId=CLAUDE, messages=messages)


# -- answers --------------------------------------------------------------------------------------


@dataclass
class Person:
    name: str


def test_a3_a_model_that_speaks_before_its_answer(aws: AwsEmulator, client: Client) -> None:
    aws.cloud_state.chat = lambda _: converse_answer(
        {"text": "Surely. "},
        {"toolUse": {"toolUseId": "1", "name": "Person", "input": {"name": "Ada"}}},
        {"text": "There."},
        stop="tool_use",
    )
    whole = client.chat.create("x", model=NOVA, response_type=Person)
    stream = client.chat.stream("x", model=NOVA, response_type=Person)
    texts = [chunk.text for chunk in stream]
    for reply in (whole, stream.reply):
        assert (reply.parsed, reply.text) == (Person("Ada"), '{"name":"Ada"}')
        assert reply.finish_reason == "stop"
    assert "".join(texts) == '{"name":"Ada"}'


def test_a3_what_was_said_is_the_answer_where_no_call_came(
    aws: AwsEmulator, client: Client
) -> None:
    aws.cloud_state.chat = lambda _: converse_answer({"text": '{"name": "Ada"}'})
    stream = client.chat.stream("x", model=NOVA, response_type=Person)
    list(stream)
    assert stream.reply.parsed == Person("Ada")


def test_a9_tools_of_the_service_are_no_calls_of_the_users(
    aws: AwsEmulator, client: Client
) -> None:
    use = {"toolUseId": "c1", "name": "nova_code_interpreter", "input": {"snippet": "1+1"},
           "type": "server_tool_use"}  # fmt: skip
    result = {"toolUseId": "c1", "content": [{"json": {"stdOut": "2"}}],
              "type": "nova_code_interpreter_result", "status": "success"}  # fmt: skip
    blocks = [{"toolUse": use}, {"toolResult": result}, {"text": "2"}]
    aws.cloud_state.chat = lambda _: converse_answer(*blocks)
    native = {"toolConfig": {"tools": [{"systemTool": {"name": "nova_code_interpreter"}}]}}
    whole = client.chat.create("1+1", model=NOVA, native=native)
    stream = client.chat.stream("1+1", model=NOVA, native=native)
    list(stream)
    for reply in (whole, stream.reply):
        assert (reply.text, reply.tool_calls, reply.finish_reason) == ("2", (), "stop")
        assert reply.parts[0] == NativePart("aws", "amazon.nova", {"toolUse": use})
        back = contents(HI, reply.message, MORE, model=NOVA, native=native)
        assert back[1] == blocks
        assert contents(HI, reply.message, MORE)[1] == [{"text": "2"}]  # Claude knows none of it


def pieces(*events: tuple[str, dict[str, Any]]) -> Iterator[bytes]:
    from cloudai.formats import eventstream

    return (eventstream.event(kind, msgspec.json.encode(value)) for kind, value in events)


def test_t3_blocks_are_told_apart_by_their_index() -> None:
    def thought(index: int, **delta: Any) -> tuple[str, dict[str, Any]]:
        about = {"contentBlockIndex": index, "delta": {"reasoningContent": delta}}
        return "contentBlockDelta", about

    sent = pieces(
        thought(0, text="A"), thought(0, signature="sA"), thought(2, text="B"),
        ("messageStop", {"stopReason": "end_turn"}),
    )  # fmt: skip
    made = converse_reply.Chunks(CLAUDE, "r", None, lambda: None).feed(b"".join(sent))
    assert [chunk.block for chunk in itertools.islice(made, 3)] == [0, 0, 2]


def test_a9_what_was_drawn_is_an_image_of_the_message() -> None:
    block = {"image": {"format": "png", "source": {"bytes": "iVBORw=="}}}
    reply: ChatReply = converse_reply.reply(
        msgspec.json.encode(converse_answer({"text": "Here."}, block)), NOVA, "r", None
    )
    assert reply.parts == (Text("Here."), Image(data=PNG))
