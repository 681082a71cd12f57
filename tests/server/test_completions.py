"""OpenAI's parameters and errors, as its own SDK's types read them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.shared import ErrorObject
from running_server import Running, Start

from cloudai.errors import InvalidRequest
from cloudai.server.predictors.completions import (
    _NEUTRAL,
    Completion,
    decode_completion,
    request_of,
)
from cloudai.server.routes.openai import EmbeddingsHead

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def read(**more: Any) -> Any:
    return request_of(decode_completion(json.dumps({**PLAIN, **more}).encode()), "m", {})


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
        ("web_search_options", {}), ("verbosity", "low"), ("reasoning_effort", "high"),
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
