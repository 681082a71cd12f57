"""OpenAI's parameters and errors, as its own SDK's types read them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.shared import ErrorObject
from running_server import Running, Start

from cloudai.client._messages import messages
from cloudai.errors import InvalidRequest
from cloudai.formats import openai
from cloudai.formats.openai import completion
from cloudai.formats.openai.completion import Completion
from cloudai.formats.sse import Lines
from cloudai.server.predictors.completions import _NEUTRAL, request_of
from cloudai.server.routes.openai import EmbeddingsHead
from cloudai.types import ChatChunk, ChatReply, ToolCall, ToolCallDelta, ToolResult, Usage

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def read(**more: Any) -> Any:
    return request_of(completion.read(json.dumps({**PLAIN, **more}).encode()), "m", {})


def test_l7_every_parameter_of_the_sdk_is_known() -> None:
    own = {field.name for field in msgspec.structs.fields(Completion)}
    assert set(CompletionCreateParamsNonStreaming.__annotations__) <= own
    assert set(EmbeddingCreateParams.__annotations__) <= {
        field.name for field in msgspec.structs.fields(EmbeddingsHead)
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2), ("logprobs", True), ("presence_penalty", 0.5), ("frequency_penalty", -1),
        ("logit_bias", {"50256": -100}), ("top_logprobs", 3), ("function_call", "auto"),
        ("functions", [{"name": "f", "parameters": {}}]), ("parallel_tool_calls", False),
        ("modalities", ["text", "audio"]), ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}), ("verbosity", "low"), ("reasoning_effort", "extreme"),
        ("top_k", 3), ("repetition_penalty", 1.1), ("max_token", 5),
        ("max_tokens", 0), ("max_completion_tokens", 0), ("max_tokens", -1),
        ("temperature", "hot"), ("stop", 7),
    ],
)  # fmt: skip
def test_l7_what_would_have_no_effect_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        read(**{name: value})
    assert caught.value.field == name


def test_l7_what_asks_for_nothing_is_taken() -> None:
    plain = read()
    for name, values in _NEUTRAL.items():
        for value in (None, *values):
            assert read(**{name: value}) == plain, name
    told = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto",
            "safety_identifier": "s", "prompt_cache_key": "k"}  # fmt: skip
    assert read(**told) == plain
    assert read(max_completion_tokens=5).max_tokens == read(max_tokens=5).max_tokens == 5
    assert read(max_completion_tokens=5, max_tokens=9).max_tokens == 5


PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}


def test_t7_the_server_reads_messages_as_the_client_does() -> None:
    """By one reader: what programs hold in OpenAI's dicts is the same conversation here."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, PNG], "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "a"},
                                                          {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "Why?"},
    ]  # fmt: skip
    made = read(messages=turns).messages
    assert made == messages(turns)
    assert made[3].content == (ToolResult(id="1", content="ab"),)
    assert made[4].text == "No."
    # Back in OpenAI's words they say the same (but for empty texts).
    again = openai.body(
        read(messages=turns), "m", openai.Dialect(provider="p", templated=False), stream=False
    )
    assert read(messages=again["messages"]).messages[2].content == (ToolCall("1", "f", "{}"),)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": [{"type": "image", "url": "file:///etc/passwd"}]}, "type"),
        ({"role": "user", "content": [{"type": "native", "provider": "p"}]}, "type"),
        ({"role": "user", "content": [{"type": ["text"], "text": "x"}]}, "type"),
        ({"role": "user", "content": "x", "name": 7}, "name"),
        ({"role": "assistant", "content": None, "tool_calls": 7}, "tool_calls"),
        ({"role": ["user"], "content": "x"}, "role"),
        ({"role": "user", "content": 7}, "content"),
        ({"role": "user", "content": [{**PNG, "image_url": {"url": "https://a/b.png"}}]}, "url"),
    ],
)  # fmt: skip
def test_t7_parts_that_no_client_of_openai_writes_are_refused(message: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(messages=[message])
    told = str(caught.value.field)
    assert told.startswith("messages[0]"), told
    assert told.endswith(field), told


def test_the_bodies_are_openais_own_types() -> None:
    """Answers and the events of streams, read by the SDK's models."""
    spent = Usage(input_tokens=3, output_tokens=2)
    called = (ToolCall("1", "f", "{}"),)
    reply = ChatReply(
        text="", finish_reason="tool_calls", usage=spent, model="m", provider="p", tool_calls=called
    )
    made = ChatCompletion.model_validate(completion.completion("m", reply), strict=True)
    assert made.choices[0].message.content is None
    assert made.usage is not None
    assert made.usage.total_tokens == 5
    piece = ChatChunk(text="a", tool_calls=(ToolCallDelta(index=0, id="1", name="f"),))
    event = {
        **completion.head("chat.completion.chunk", "m"),
        "choices": completion.choices(completion.delta(piece), "stop"),
        "usage": completion.usage(spent),
    }
    (line,) = Lines().feed(completion.event(event))
    assert ChatCompletionChunk.model_validate_json(line, strict=True).choices[0].delta.tool_calls


def error(answer: Any, status: int) -> ErrorObject:
    assert answer.status_code == status, answer.text
    return ErrorObject.model_validate(answer.json()["error"], strict=True)


def test_l7_errors_are_openais(echo: Running, start: Start) -> None:
    def ask(path: str, **body: Any) -> Any:
        return echo.http.post(path, json=body)

    for path, body in (
        ("/v1/chat/completions", {"messages": PLAIN["messages"]}),
        ("/v1/embeddings", {"input": "x"}),
    ):
        absent = error(ask(path, model="absent", **body), 404)
        assert (absent.type, absent.code) == ("invalid_request_error", "model_not_found")
        wrong = error(ask(path, model=7, **body), 400)
        assert (wrong.type, wrong.param, wrong.code) == (
            "invalid_request_error", "model", "invalid_value",
        )  # fmt: skip
        assert error(ask(path, model="m", **body), 400).type == "invalid_request_error"
    empty = error(ask("/v1/chat/completions", model="m", messages=[]), 400)
    assert empty.param == "messages"
    unknown = error(ask("/v1/embeddings", model="m", input="x", truncate=True), 400)
    assert "truncate" in unknown.message
    assert error(ask("/v1/embeddings", model="m", input=[[1]]), 400).param == "input"
    # Elsewhere the type is the error's class, which cloudai's own client reads.
    own = error(ask("/predict", inputs=["x"]), 422)
    assert (own.type, own.code, own.param) == ("HandlerError", "invalid_value", None)
    locked = start(env={"CLOUDAI_SERVER_TOKEN": "t0ken"})
    refused = error(locked.http.post("/v1/chat/completions", json=PLAIN), 401)
    assert (refused.type, refused.code) == ("authentication_error", "invalid_api_key")
