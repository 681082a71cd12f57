"""OpenAI's chat format, both ways: what is sent, what is read, and dicts as programs hold them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cloudai
from cloudai.client._messages import messages
from cloudai.errors import (
    InvalidRequest,
    JobPartial,
    NotFound,
    ProviderError,
    UnsupportedByProvider,
)
from cloudai.formats import openai
from cloudai.types import (
    ChatReply,
    ChatRequest,
    Document,
    Image,
    Message,
    NativePart,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

SERVER = openai.Dialect(provider="aws")
SERVICE = openai.Service(provider="aws", model="m")
PNG = b"\x89PNG\r\n"


def sent(*turns: Message, dialect: openai.Dialect = SERVER, **about: Any) -> dict[str, Any]:
    request = ChatRequest(model="m", messages=turns, **about)
    return openai.body(request, "m", dialect, stream=about.pop("stream", False))


def read(**answer: Any) -> ChatReply:
    return openai.reply(msgspec.json.encode(answer), SERVICE)


def streamed(*events: dict[str, Any], service: openai.Service = SERVICE) -> ChatReply:
    """What the client makes of a stream of these choices' deltas."""
    from cloudai.client.streams import Gathered

    chunks, gathered = openai.Chunks(service), Gathered()
    for event in events:
        chunk = chunks.read(msgspec.json.encode({"choices": [event]}))
        if chunk is not None:
            gathered.add(chunk)
    last = chunks.read(b"[DONE]")
    if last is not None:
        gathered.add(last)
    return gathered.reply("aws", None)


# -- turns that go back ---------------------------------------------------------------------------


def test_t1_turns_that_say_nothing_are_left_out() -> None:
    made = sent(
        Message("user", "Hi"),
        Message("assistant", ""),
        Message("assistant", (Reasoning("hm"), NativePart("vertex", "gemini", {}))),
        Message("assistant", (Text(""), ToolCall("1", "look", "{}"))),
        Message("tool", (ToolResult("1", "sun"),)),
    )
    assert [turn["role"] for turn in made["messages"]] == ["user", "assistant", "tool"]


def test_t5_neighbours_are_merged_for_servers_with_templates() -> None:
    turns = (
        Message("system", "Be brief."),
        Message("system", "Be kind."),
        Message("user", "One."),
        Message("user", (Text("Two."), Image(data=PNG))),
    )
    made = sent(*turns)["messages"]
    assert made[0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert [part["type"] for part in made[1]["content"]] == ["text", "text", "image_url"]
    plain = openai.Dialect(provider="azure", templated=False)
    assert len(sent(*turns, dialect=plain)["messages"]) == 4


def test_a4_a_failed_tool_is_told() -> None:
    made = sent(
        Message("assistant", (ToolCall("1", "look", "{}"),)),
        Message("tool", (ToolResult("1", {"why": "fog"}, error=True),)),
    )
    assert made["messages"][1]["content"] == 'Error: {"why":"fog"}'


def test_t8_an_image_in_a_result_is_refused_by_a_format_without_them() -> None:
    result = ToolResult("1", (Text("Here."), Image(data=PNG)))
    with pytest.raises(UnsupportedByProvider, match="user's message"):
        sent(Message("assistant", (ToolCall("1", "look", "{}"),)), Message("tool", (result,)))


def test_s9_a_choice_goes_with_tools_alone() -> None:
    assert "tool_choice" not in sent(Message("user", "x"), tool_choice="auto")
    with (
        cloudai.Client(provider="fake") as client,
        pytest.raises(InvalidRequest, match="tools is empty"),
    ):
        client.chat.create("x", tool_choice="required")


def test_s10_tools_of_native_are_added() -> None:
    theirs = {"type": "function", "function": {"name": "other", "parameters": {}}}
    made = sent(
        Message("user", "x"), tools=(Tool(name="look"),), native={"tools": [theirs], "top_k": 3}
    )
    assert [tool["function"]["name"] for tool in made["tools"]] == ["look", "other"]
    assert made["top_k"] == 3


def test_a5_more_than_one_answer_is_not_streamed() -> None:
    request = ChatRequest(model="m", messages=(Message("user", "x"),), native={"n": 2})
    with pytest.raises(InvalidRequest, match="native.n"):
        openai.body(request, "m", SERVER, stream=True)
    assert openai.body(request, "m", SERVER, stream=False)["n"] == 2


# -- answers --------------------------------------------------------------------------------------


def test_a1_a_choice_without_a_message_ends_with_the_filter() -> None:
    # As Azure writes a completion that its filter withheld.
    reply = read(choices=[{"index": 0, "finish_reason": "content_filter"}], model="gpt")
    assert (reply.text, reply.finish_reason) == ("", "content_filter")
    with pytest.raises(ProviderError, match="no message"):
        read(choices=[{"index": 0, "finish_reason": "stop"}])


def test_a1_an_error_with_status_200() -> None:
    with pytest.raises(ProviderError, match="overloaded") as caught:
        read(error={"message": "overloaded", "code": 503})
    assert caught.value.code == "503"
    service = openai.Service(provider="x", failed=lambda told: NotFound(told["message"]))
    with pytest.raises(NotFound, match="gone"):
        openai.reply(b'{"error": {"message": "gone"}}', service)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_a4_reasoning_by_either_name(field: str) -> None:
    reply = read(choices=[{"message": {"content": "4", field: "2+2"}, "finish_reason": "stop"}])
    assert [one.text for one in reply.reasoning] == ["2+2"]
    whole = streamed(
        {"delta": {field: "2+"}},
        {"delta": {field: "2"}},
        {"delta": {"content": "4"}},
        {"delta": {}, "finish_reason": "stop"},
    )
    assert ([one.text for one in whole.reasoning], whole.text) == (["2+2"], "4")


@pytest.mark.parametrize("index", [0, None])
def test_a4_parallel_calls_that_share_an_index_are_told_apart(index: int | None) -> None:
    def call(id: str, name: str, arguments: str) -> dict[str, Any]:
        return {"id": id, "index": index, "function": {"name": name, "arguments": arguments}}

    def rest(arguments: str) -> dict[str, Any]:
        return {"index": index, "function": {"arguments": arguments}}

    reply = streamed(
        {"delta": {"tool_calls": [call("a", "look", '{"x":')]}},
        {"delta": {"tool_calls": [rest("1}")]}},
        {"delta": {"tool_calls": [call("b", "look", "{}")]}},
        {"delta": {}, "finish_reason": "tool_calls"},
    )
    assert [(one.id, one.arguments) for one in reply.tool_calls] == [("a", '{"x":1}'), ("b", "{}")]


def test_a4_an_id_that_changes_in_the_middle_begins_no_call() -> None:
    # vLLM with Mistral's models (its issue 47734).
    reply = streamed(
        {"delta": {"tool_calls": [{"id": "a", "index": 0, "function": {"name": "look"}}]}},
        {"delta": {"tool_calls": [{"id": "b", "index": 0, "function": {"arguments": "{}"}}]}},
        {"delta": {}, "finish_reason": "stop"},
    )
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [("look", "{}")]
    assert reply.finish_reason == "tool_calls"


def test_a4_a_call_as_tgi_wrote_it() -> None:
    # One object for the list, arguments that are no text (its issues 2136 and 2794).
    call = {"id": "0", "function": {"name": "look", "arguments": {"x": 1}}}
    reply = read(choices=[{"message": {"tool_calls": call}, "finish_reason": "eos_token"}])
    assert [one.input for one in reply.tool_calls] == [{"x": 1}]


# -- OpenAI's dicts -------------------------------------------------------------------------------


def dicts(*given: dict[str, Any]) -> tuple[Message, ...]:
    return messages([{"role": "user", "content": "Hi"}, *given])[1:]


def test_t7_a_tool_message_with_a_list_of_parts() -> None:
    parts = [{"type": "text", "text": "sun"}, {"type": "text", "text": "ny"}]
    (made,) = dicts({"role": "tool", "tool_call_id": "1", "content": parts})
    assert made.content == (ToolResult("1", "sunny"),)
    with pytest.raises(InvalidRequest, match=r"messages\[1\].tool_call_id"):
        dicts({"role": "tool", "content": "x"})


def test_t7_a_refusal_in_place_of_content() -> None:
    (made,) = dicts({"role": "assistant", "content": None, "refusal": "No."})
    assert made.text == "No."
    (made,) = dicts({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]})
    assert made.text == "No."


def image(url: str, **about: Any) -> Any:
    part = {"type": "image_url", "image_url": {"url": url, **about}}
    (made,) = dicts({"role": "user", "content": [part]})
    return made.content[0]


def test_t7_images_as_openai_reads_them() -> None:
    data = base64.b64encode(PNG).decode()
    assert image(f"data:image/jpg;base64,{data}") == Image(PNG, "image/jpeg")
    assert image(f"data:image/png;charset=utf-8;base64,{data}") == Image(PNG, "image/png")
    detailed = image("https://x.example/a.png", detail="low")
    assert detailed == Image(url="https://x.example/a.png", detail="low")
    (turn,) = sent(Message("user", (detailed,)))["messages"]
    assert turn["content"][0]["image_url"] == {"url": "https://x.example/a.png", "detail": "low"}
    for bad in ("data:image/png;base64,%%%", "data:image/png;base64,abc", "data:image/png,raw"):
        with pytest.raises(InvalidRequest, match=r"messages\[1\].content\[0\].*base64"):
            image(bad)


def test_t7_files_and_parts_that_are_no_parts() -> None:
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    (made,) = dicts({"role": "user", "content": [{"type": "file", "file": file}]})
    assert made.content == (Document(b"%PDF", "application/pdf", "a.pdf"),)
    for bad in ({"type": "input_audio"}, {"type": "text"}, 7, {"type": "image_url"}):
        with pytest.raises(InvalidRequest, match=r"messages\[1\].content\[0\]"):
            dicts({"role": "user", "content": [bad]})
    with pytest.raises(InvalidRequest, match=r"tool_calls\[0\].function.arguments"):
        dicts({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "x"}}]})


@pytest.mark.parametrize(
    "content",
    ["\ud83d", (Text("a \ud83d"),), (ToolCall("1", "x", '"\ud83d"'),),
     (ToolResult("1", {"a": ["\ud83d"]}),)],
)  # fmt: skip
def test_e11_half_a_character_is_told_by_its_field(content: Any) -> None:
    role = "tool" if isinstance(content[0], ToolResult) else "user"
    with (
        cloudai.Client(provider="fake") as client,
        pytest.raises(InvalidRequest, match=r"messages\[0\].content.*half of a character"),
    ):
        client.chat.create([Message(role, content), Message("user", "?")])


HALF = "caf\u00e9 \ud83d"


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"tools": [Tool(name="x", description=HALF)]}, r"tools\[0\]\.description"),
        (
            {"tools": [Tool(name="x", parameters={"properties": {"a": {"enum": [HALF]}}})]},
            r"tools\[0\]\.parameters\.properties\.a\.enum\[0\]",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "description": HALF}}]},
            r"tools\[0\]\.description",
        ),
        ({"response_type": {"type": "object", "title": HALF}}, r"response_type\.schema"),
        ({"stop": ["a", HALF]}, r"stop\[1\]"),
        ({"native": {"user": HALF}}, r"native\.user"),
        ({"model": HALF}, "model"),
        ({"system": HALF}, r"messages\[0\]\.content"),
        ({"messages": [Message("user", "a", name=HALF)]}, r"messages\[0\]\.name"),
        (
            {"messages": [Message("user", (Image(url=f"https://x/{HALF}"),))]},
            r"messages\[0\]\.content\[0\]\.url",
        ),
        (
            {"messages": [Message("user", (Document(b"%PDF", "application/pdf", HALF),))]},
            r"messages\[0\]\.content\[0\]\.name",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
            r"messages\[0\]\.content\[0\]\.text",
        ),
        (
            {"messages": [Message("user", "a"), Message("tool", (ToolResult(HALF, "x"),))]},
            r"messages\[1\]\.content\[0\]\.id",
        ),
    ],
)
@pytest.mark.parametrize("way", ["create", "stream"])
def test_e11_half_a_character_anywhere_in_a_call(
    about: dict[str, Any], field: str, way: str
) -> None:
    given = {"messages": "a", **about}
    with (
        cloudai.Client(provider="fake") as client,
        pytest.raises(InvalidRequest, match=rf"^{field}.*half of a character"),
    ):
        getattr(client.chat, way)(given.pop("messages"), **given)


async def test_e11_half_a_character_in_embeddings_batches_and_jobs() -> None:
    half = r"half of a character"
    async with cloudai.AsyncClient("fake", provider="fake") as other:
        with pytest.raises(InvalidRequest, match=rf"^texts\[1\].*{half}"):
            await other.embeddings.create(["a", HALF])
    with cloudai.Client(provider="fake") as client:
        with pytest.raises(InvalidRequest, match=rf"^texts\[1\].*{half}"):
            client.embeddings.create(["a", HALF])
        with pytest.raises(InvalidRequest, match=rf"^native\.x.*{half}"):
            client.embeddings.create("a", native={"x": HALF})
        batch = cloudai.BatchTransform(
            input="in.jsonl", output="out.jsonl", chat="m", params={"stop": [HALF]}
        )
        with pytest.raises(InvalidRequest, match=rf"^params\.stop\[0\].*{half}"):
            client.batch.submit(batch)
        job = cloudai.TrainingJob(source=".", entry="t.py", hyperparameters={"name": HALF})
        with pytest.raises(InvalidRequest, match=rf"^hyperparameters\.name.*{half}"):
            client.training.submit(job)


def test_e11_a_line_of_a_batch_with_half_a_character_fails_alone(tmp_path: Path) -> None:
    given = tmp_path / "in.jsonl"
    given.write_text('"a"\n{"prompt": "b \\ud83d"}\n"c"\n')
    with cloudai.Client(provider="fake", home=str(tmp_path / "home")) as client:
        job = client.batch.submit(
            cloudai.BatchTransform(
                input=str(given),
                output=str(tmp_path / "out.jsonl"),
                chat="any",
                on_error="dead_letter",
            )
        )
        with pytest.raises(JobPartial):
            job.wait(10)
        assert job.status.errors == 1
    first, second, third = (tmp_path / "out.jsonl").read_text().splitlines()
    assert second == "null"
    assert first != "null" != third
