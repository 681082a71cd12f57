"""The suite of chat."""

# ruff: noqa: S101 - asserting is what a suite does
from __future__ import annotations

import dataclasses
from typing import Any, Final

import pytest

from cloudai.errors import (
    CallTimeout,
    ConfigError,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServiceUnavailable,
    StreamTruncated,
)
from cloudai.testing.conformance.base import Api, Conformance, feature
from cloudai.types import ChatChunk, ChatReply, Message, Tool, ToolResult

WEATHER: Final = Tool(
    name="weather",
    description="Tells the weather of a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)


@dataclasses.dataclass
class Person:
    """What structured answers are read into."""

    name: str
    age: int


class ChatConformance(Conformance):
    """What every chat model does."""

    capability = "chat"

    def _ask(self, api: Api, messages: Any = None, **about: Any) -> ChatReply:
        about.setdefault("temperature", 0.0)
        about.setdefault("max_tokens", 16)
        given = api.harness.prompt if messages is None else messages
        return api.do(api.client.chat.create(given, model=api.harness.chat_model, **about))

    def _stream(self, api: Api, messages: Any = None, **about: Any) -> Any:
        about.setdefault("temperature", 0.0)
        about.setdefault("max_tokens", 16)
        given = api.harness.prompt if messages is None else messages
        return api.client.chat.stream(given, model=api.harness.chat_model, **about)

    def test_text(self, api: Api) -> None:
        reply = self._ask(api)
        assert reply.text.strip()
        assert reply.finish_reason in {"stop", "length"}
        assert reply.usage.input_tokens > 0
        assert reply.usage.output_tokens > 0
        assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
        assert reply.provider == api.harness.provider
        assert reply.model
        assert reply.cost is None or reply.cost >= 0
        assert reply.parsed is None
        assert not reply.tool_calls

    @feature("deterministic")
    def test_forms_of_messages(self, api: Api) -> None:
        text = api.harness.prompt
        answers = {
            self._ask(api, given, max_tokens=4).text
            for given in (
                Message("user", text),
                [{"role": "user", "content": text}],
                [{"role": "user", "content": [{"type": "text", "text": text}]}],
            )
        }
        assert len(answers) == 1

    def test_max_tokens(self, api: Api) -> None:
        for most in (1, 4):
            reply = self._ask(api, max_tokens=most)
            assert reply.finish_reason == "length"
            assert 0 < reply.usage.output_tokens <= most

    @feature("deterministic")
    def test_stop(self, api: Api) -> None:
        whole = self._ask(api).text
        words = whole.split()
        assert len(words) > 4, f"the harness's prompt gave too short an answer: {whole!r}"
        stop = words[3]
        reply = self._ask(api, stop=stop)
        assert reply.finish_reason == "stop"
        assert stop not in reply.text
        assert whole[: whole.index(stop)].rstrip() == reply.text.rstrip()
        assert self._ask(api, stop=["never said", stop]).text == reply.text

    @feature("seed")
    def test_seed(self, api: Api) -> None:
        first, second = (
            self._ask(api, temperature=1.0, seed=7, max_tokens=8).text for _ in range(2)
        )
        assert first == second

    def test_system_prompt(self, api: Api) -> None:
        short = self._ask(api, system="Be brief.", max_tokens=4)
        long = self._ask(api, system="Be brief. " * 20, max_tokens=4)
        assert long.usage.input_tokens > short.usage.input_tokens

    def test_several_turns(self, api: Api) -> None:
        first = self._ask(api, max_tokens=4)
        turns = [
            Message("user", api.harness.prompt),
            first.message,
            Message("user", "And now backwards."),
        ]
        second = self._ask(api, turns, max_tokens=4)
        assert second.text.strip()
        assert second.usage.input_tokens > first.usage.input_tokens

    def test_stream(self, api: Api) -> None:
        stream = self._stream(api)
        chunks: list[ChatChunk] = api.every(stream)
        text = "".join(chunk.text for chunk in chunks)
        assert text.strip()
        assert sum(bool(chunk.text) for chunk in chunks) > 1, "it came in one piece"
        ends = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
        assert len(ends) == 1
        assert ends[0] in {"stop", "length"}
        usages = [chunk.usage for chunk in chunks if chunk.usage]
        assert usages, "no usage came"
        reply = stream.reply
        assert (reply.text, reply.finish_reason) == (text, ends[0])
        assert reply.usage.input_tokens > 0
        assert reply.usage.output_tokens > 0
        assert reply.provider == api.harness.provider

    @feature("deterministic")
    def test_stream_says_what_create_says(self, api: Api) -> None:
        reply = self._ask(api)
        stream = self._stream(api)
        text = "".join(chunk.text for chunk in api.every(stream))
        assert text == reply.text
        assert stream.reply.finish_reason == reply.finish_reason
        assert stream.reply.usage.output_tokens == reply.usage.output_tokens
        assert stream.reply.cost == pytest.approx(reply.cost)

    def test_stream_max_tokens(self, api: Api) -> None:
        stream = self._stream(api, max_tokens=3)
        api.every(stream)
        assert stream.reply.finish_reason == "length"
        assert 0 < stream.reply.usage.output_tokens <= 3

    def test_stream_closed_early(self, api: Api) -> None:
        stream = self._stream(api)
        assert len(api.every(stream, limit=2)) == 2
        api.do(stream.close())
        api.do(stream.close())
        assert api.every(stream) == []
        with pytest.raises(StreamTruncated):
            _ = stream.reply
        assert self._ask(api, max_tokens=4).text

    def test_several_at_once(self, api: Api) -> None:
        def ask() -> Any:
            return api.client.chat.create(
                api.harness.prompt, model=api.harness.chat_model, max_tokens=2, temperature=0.0
            )

        replies: list[ChatReply] = api.together([ask] * 6)
        assert all(reply.text.strip() for reply in replies)

    @feature("tools")
    def test_tool_round_trip(self, api: Api) -> None:
        question = "What will the weather be in Rome for the next 2 days?"
        asked = self._ask(api, question, tools=[WEATHER], tool_choice="required", max_tokens=128)
        assert asked.finish_reason == "tool_calls"
        (call, *_) = asked.tool_calls
        assert call.name == "weather"
        assert call.id
        assert isinstance(call.input["city"], str)
        assert call.input["days"] >= 1
        results = tuple(ToolResult(one.id, {"sky": "clear"}) for one in asked.tool_calls)
        turns = [Message("user", question), asked.message, Message("tool", results)]
        told = self._ask(api, turns, tools=[WEATHER], tool_choice="none")
        assert told.text.strip()
        assert told.finish_reason in {"stop", "length"}

    @feature("tools")
    def test_tool_by_name(self, api: Api) -> None:
        nothing = {"type": "object", "properties": {}, "additionalProperties": False}
        clock = Tool(name="clock", description="Tells the time.", parameters=nothing)
        reply = self._ask(
            api, "Hello!", tools=[WEATHER, clock], tool_choice="clock", max_tokens=128
        )
        assert [call.name for call in reply.tool_calls] == ["clock"]

    def test_tools_of_its_own_choice(self, api: Api) -> None:
        reply = self._ask(api, "Say hello.", tools=[WEATHER], tool_choice="auto", max_tokens=64)
        assert reply.text.strip() or reply.tool_calls
        assert (reply.finish_reason == "tool_calls") == bool(reply.tool_calls)

    def test_tools_are_off(self, api: Api) -> None:
        reply = self._ask(api, tools=[WEATHER], tool_choice="none")
        assert not reply.tool_calls
        assert reply.text.strip()

    @feature("tools")
    def test_tools_in_a_stream(self, api: Api) -> None:
        question = "What will the weather be in Rome for the next 2 days?"
        stream = self._stream(
            api, question, tools=[WEATHER], tool_choice="required", max_tokens=128
        )
        api.every(stream)
        reply = stream.reply
        assert reply.finish_reason == "tool_calls"
        assert reply.tool_calls[0].name == "weather"
        assert reply.tool_calls[0].input["days"] >= 1

    @feature("structured_output")
    def test_response_type(self, api: Api) -> None:
        reply = self._ask(api, "Ada Lovelace, 36 years old", response_type=Person, max_tokens=128)
        assert isinstance(reply.parsed, Person)
        assert isinstance(reply.parsed.name, str)
        assert isinstance(reply.parsed.age, int)

    @feature("structured_output")
    def test_response_schema(self, api: Api) -> None:
        schema = {
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
            "required": ["colour"],
            "additionalProperties": False,
        }
        reply = self._ask(api, "Red or blue?", response_type=schema, max_tokens=64)
        assert reply.parsed["colour"] in {"red", "blue"}

    @pytest.mark.parametrize(
        ("about", "field"),
        [
            ({"messages": []}, "messages"),
            ({"messages": ""}, "messages"),
            ({"messages": [{"role": "robot", "content": "hello"}]}, "role"),
            ({"temperature": 3.0}, "temperature"),
            ({"top_p": 0.0}, "top_p"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"tools": [WEATHER], "tool_choice": "no-such-tool"}, "tool_choice"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
    )
    def test_bad_requests(self, api: Api, about: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            self._ask(
                api, about.get("messages"), **{k: v for k, v in about.items() if k != "messages"}
            )
        assert field in str(caught.value)
        with pytest.raises(InvalidRequest):
            api.every(
                self._stream(
                    api,
                    about.get("messages"),
                    **{k: v for k, v in about.items() if k != "messages"},
                )
            )

    def test_unknown_model(self, api: Api) -> None:
        with pytest.raises((NotFound, InvalidRequest, ConfigError)):
            api.do(api.client.chat.create("Hello!", model=api.harness.unknown_model))

    def test_throttled_calls_go_through(self, api: Api) -> None:
        api.faults().throttle("chat.create", times=2, retry_after=0.02)
        assert self._ask(api, max_tokens=4).text

    def test_unavailable_service_is_tried_again(self, api: Api) -> None:
        api.faults().fail("chat.create", times=1)
        assert self._ask(api, max_tokens=4).text

    def test_unavailable_service_in_the_end(self, api: Api) -> None:
        api.faults().fail("chat.create", times=100)
        for _ in range(3):
            with pytest.raises((ServiceUnavailable, CallTimeout)) as caught:
                self._ask(api, max_tokens=4, timeout=1.0)
            assert caught.value.provider == api.harness.provider
            if isinstance(caught.value, ServiceUnavailable):
                return
            # Its last attempt began just before the deadline, on a busy machine.
        raise AssertionError("each time it ended in CallTimeout")

    def test_throttled_past_the_deadline(self, api: Api) -> None:
        api.faults().throttle("chat.create", times=100, retry_after=60.0)
        with pytest.raises(RateLimited) as caught:
            self._ask(api, max_tokens=4, timeout=30.0)
        assert caught.value.retry_after == pytest.approx(60.0, abs=1.0)

    def test_stream_is_tried_again_before_its_first_chunk(self, api: Api) -> None:
        api.faults().throttle("chat.stream", times=1, retry_after=0.02)
        stream = self._stream(api, max_tokens=4)
        api.every(stream)
        assert stream.reply.text

    def test_cut_stream(self, api: Api) -> None:
        api.faults().cut_stream(2)
        stream = self._stream(api)
        with pytest.raises(StreamTruncated) as caught:
            api.every(stream)
        assert caught.value.text == stream.text
        assert caught.value.text
        with pytest.raises(StreamTruncated):
            _ = stream.reply
