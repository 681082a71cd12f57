"""Answers put together: parts in their order, and what stays of one that cannot be given."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

import cloudai
from cloudai.client.streams import Gathered
from cloudai.errors import ContentFiltered, ProviderError, StreamTruncated
from cloudai.testing.fake import FakeScript
from cloudai.types import (
    ChatChunk,
    ChatReply,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolCallDelta,
    Usage,
)


@dataclass
class City:
    name: str


def gathered(*chunks: ChatChunk) -> ChatReply:
    made = Gathered()
    for chunk in (*chunks, ChatChunk(finish_reason="stop")):
        made.add(chunk)
    return made.reply("aws", None)


def test_t3_blocks_of_a_stream_keep_their_order_and_signatures() -> None:
    def thought(block: int, text: str = "", signature: str | None = None) -> ChatChunk:
        return ChatChunk(reasoning=text, reasoning_signature=signature, block=block, family="c")

    def call(index: int, id: str) -> ChatChunk:
        return ChatChunk(
            tool_calls=(ToolCallDelta(index=index, id=id, name="look", arguments="{}"),)
        )

    reply = gathered(
        thought(0, "A"),
        thought(0, "a"),
        thought(0, signature="sA"),
        call(0, "1"),
        ChatChunk(reasoning_redacted="eA==", block=2, family="c"),
        thought(3, "B", "sB"),
        call(1, "2"),
    )
    assert reply.parts == (
        Reasoning("Aa", "sA", None, "aws", "c"),
        ToolCall("1", "look", "{}"),
        Reasoning(redacted="eA==", provider="aws", family="c"),
        Reasoning("B", "sB", None, "aws", "c"),
        ToolCall("2", "look", "{}"),
    )
    assert reply.message == Message("assistant", reply.parts)
    assert [one.id for one in reply.tool_calls] == ["1", "2"]


def test_t6_parts_of_other_kinds_stay_between_the_texts() -> None:
    image = Image(data=b"x")
    reply = gathered(ChatChunk(text="Here:", block=0), ChatChunk(parts=(image,)),
                     ChatChunk(text="So.", block=1))  # fmt: skip
    assert reply.message.content == (Text("Here:"), image, Text("So."))
    assert reply.text == "Here:So."


def test_t3_a_text_alone_stays_a_text() -> None:
    reply = gathered(ChatChunk(text="a"), ChatChunk(text="b"))
    assert (reply.parts, reply.message) == ((), Message("assistant", "ab"))


def test_t4_reasoning_knows_who_made_it() -> None:
    thought = Reasoning("x", "s", provider="aws", family="anthropic.claude")
    assert thought.made_by("aws", "anthropic.claude")
    assert not thought.made_by("aws", "amazon.nova")
    assert not thought.made_by("vertex", "anthropic.claude")
    assert Reasoning("x").made_by("vertex", "gemini")  # where nobody said who made it


@pytest.mark.parametrize("stream", [False, True])
def test_a2_a_filtered_answer_stays_on_the_error(fake_cloudai: FakeScript, stream: bool) -> None:
    fake_cloudai.reply("I will not.", finish_reason="content_filter")
    with fake_cloudai.client() as client, pytest.raises(ContentFiltered) as caught:
        if stream:
            found = client.chat.stream("x", response_type=City)
            list(found)
            assert found.reply
        client.chat.create("x", response_type=City)
    reply = pickle.loads(pickle.dumps(caught.value)).reply
    assert (reply.text, reply.finish_reason) == ("I will not.", "content_filter")
    assert reply.usage.output_tokens == 3


def test_a2_an_answer_that_does_not_fit_stays_on_the_error(fake_cloudai: FakeScript) -> None:
    fake_cloudai.reply('{"town": 1}')
    with fake_cloudai.client() as client, pytest.raises(ProviderError, match="does not fit") as e:
        client.chat.create("x", response_type=City)
    assert e.value.reply.text == '{"town": 1}'
    assert e.value.reply.usage.input_tokens == 1


def test_a2_a_broken_stream_keeps_what_came_and_why() -> None:
    made = Gathered()
    made.add(ChatChunk(text="one ", request_id="r1"))
    made.add(ChatChunk(text="two", usage=Usage(input_tokens=1)))
    cause = cloudai.errors.RateLimited("slow", status=429, code="Throttled", retry_after=2.0)
    error = made.truncated("aws", cause)
    assert isinstance(error, StreamTruncated)
    assert (error.status, error.code, error.request_id) == (429, "Throttled", "r1")
    assert (error.reply.text, error.reply.finish_reason) == ("one two", "error")
