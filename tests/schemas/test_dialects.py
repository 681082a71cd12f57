"""48 types of users, written in each dialect, and put through each emulated cloud.

What is sent is looked at by checkers that know nothing of how it was written (``dialect_*``), and
taken by the emulators; the answer, which fits the type, has to come back as the type's value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from user_models import MODELS

pytest.importorskip("openai")
pytest.importorskip("google.genai")
pytest.importorskip("botocore")

import dialect_bedrock
import dialect_gemini
import dialect_grammar
import dialect_openai

from cloudai import Client
from cloudai._core.batches import transforms
from cloudai.client._schema import wanted
from cloudai.errors import InvalidRequest, ProviderError
from cloudai.formats.schemas import rewrite
from cloudai.formats.schemas.dialects import (
    BEDROCK_STRICT,
    GEMINI,
    GRAMMAR,
    OPENAI_STRICT,
    PLAIN,
    PLAIN_INLINE,
)
from cloudai.providers.aws.chat import converse
from cloudai.providers.azure.openai.wire import chat as azure_wire
from cloudai.providers.vertex.chat import wire as vertex_wire
from cloudai.testing.clouds import emulated
from cloudai.testing.emulators.aws import AwsEmulator
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import ChatRequest, Message, Tool

HI = (Message("user", "Hi"),)
CLAUDE = "anthropic.claude-sonnet-4-6"
NOVA = "amazon.nova-pro-v1:0"
LLAMA = "meta.llama3-3-70b-instruct-v1:0"
SONNET = "anthropic.claude-sonnet-5-5"
GEMINI_3 = "gemini-3.5-flash"

# What a dialect cannot say: no map of free names, nothing of any type, no recursion on Bedrock.
LOST = {
    "OpenAI's strict mode": {
        "nested more", "free dict", "free dicts", "anything", "recursive JSON", "dict of models",
    },
    "Bedrock's structured output": {
        "nested more", "free dict", "free dicts", "anything", "recursive JSON", "dict of models",
        "recursive at the root", "recursive, required", "linked list", "mutually recursive",
        "recursive below", "thirty optional fields",
    },
}  # fmt: skip


def _document(name: str) -> Any:
    """The answer to a type as the model writes it: what is no object stands in one."""
    kind, sample = MODELS[name]
    made = wanted(kind).schema.schema
    return {"value": sample} if set(made.get("properties", ())) == {"value"} else sample


def _nothing(schema: dict[str, Any]) -> None:
    return None


def test_there_are_48() -> None:
    assert len(MODELS) == 48


@pytest.mark.parametrize(
    ("dialect", "check"),
    [
        (OPENAI_STRICT, dialect_openai.check),
        (BEDROCK_STRICT, dialect_bedrock.check_held),
        (GEMINI, dialect_gemini.check),
        (GRAMMAR, dialect_grammar.check),
        (PLAIN, _nothing),
        (PLAIN_INLINE, lambda schema: dialect_bedrock.check_tool(NOVA, "t", schema)),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
@pytest.mark.parametrize("name", MODELS)
def test_s1_s2_s3_each_type_in_each_dialect(
    name: str, dialect: Any, check: Callable[[dict[str, Any]], None]
) -> None:
    schema = wanted(MODELS[name][0]).schema.schema
    fitted = rewrite.fit(schema, dialect)
    assert (fitted.loss is not None) == (name in LOST.get(dialect.name, ()))
    if fitted.loss is None:
        check(fitted.schema)
        jsonschema.Draft202012Validator.check_schema(fitted.schema)
        jsonschema.validate(_document(name), fitted.schema)


def _asked(model: str, name: str, *, tool: bool) -> ChatRequest:
    schema = wanted(MODELS[name][0]).schema
    if tool:
        made = Tool(name="record", parameters=schema.schema, strict=True)
        return ChatRequest(model=model, messages=HI, tools=(made,), tool_choice="auto")
    return ChatRequest(model=model, messages=HI, response_schema=schema)


def _in_batch(model: str, name: str) -> ChatRequest:
    schema = wanted(MODELS[name][0]).schema
    request = transforms.chat_request(
        model, {"response_schema": {"schema": schema.schema, "name": schema.name}}
    )
    return ChatRequest(**{**{f: getattr(request, f) for f in request.__struct_fields__},
                          "messages": HI})  # fmt: skip


@pytest.mark.parametrize("form", ["create", "tool", "batch"])
@pytest.mark.parametrize("name", MODELS)
def test_s1_what_azure_is_sent(name: str, form: str) -> None:
    asked = _in_batch("m", name) if form == "batch" else _asked("m", name, tool=form == "tool")
    body = json.loads(azure_wire.encode(asked))
    if form == "tool":
        function = body["tools"][0]["function"]
        strict, schema = function.get("strict", False), function["parameters"]
    else:
        strict, schema = (
            body["response_format"]["json_schema"][key] for key in ("strict", "schema")
        )
    assert strict == (name not in LOST["OpenAI's strict mode"])
    assert schema["type"] == "object"
    if strict:
        dialect_openai.check(schema)


@pytest.mark.parametrize("model", [CLAUDE, NOVA, LLAMA, SONNET, "openai.gpt-oss-120b-1:0"])
@pytest.mark.parametrize("form", ["create", "tool", "batch"])
@pytest.mark.parametrize("name", MODELS)
def test_s2_what_bedrock_is_sent(name: str, form: str, model: str) -> None:
    asked = _in_batch(model, name) if form == "batch" else _asked(model, name, tool=form == "tool")
    body = json.loads(converse.encode(converse.body(asked)))
    dialect_bedrock.check_request({**body, "modelId": model})
    held = "outputConfig" in body
    if form != "tool":
        lost = name in LOST["Bedrock's structured output"]
        assert held == (not lost and model not in {NOVA, LLAMA})
        assert held != ("toolConfig" in body)


@pytest.mark.parametrize("form", ["create", "tool", "batch"])
@pytest.mark.parametrize("name", MODELS)
def test_s3_what_gemini_is_sent(name: str, form: str) -> None:
    asked = (
        _in_batch(GEMINI_3, name)
        if form == "batch"
        else _asked(GEMINI_3, name, tool=form == "tool")
    )
    dialect_gemini.check_request(GEMINI_3, vertex_wire.encode(asked))


@pytest.mark.parametrize("name", MODELS)
def test_what_the_local_engine_compiles_for_a_tool(name: str) -> None:
    pytest.importorskip("torch")
    from cloudai.engine import calls

    tools = _asked("m", name, tool=True).tools
    dialect_grammar.check(calls.call_schema((*tools, Tool(name="other"))))


# ------------------------------------------------------------- through the emulated clouds


@pytest.fixture(scope="module")
def azure() -> Iterator[tuple[Client, Callable[[Any], None]]]:
    with AzureEmulator() as cloud, pytest.MonkeyPatch.context() as patch:
        cloud.deploy("smart")
        for name, value in cloud.env.items():
            patch.setenv(name, value)
        with Client(provider="azure", api_key=cloud.key) as client:
            replies = cloud.executor.replies
            yield client, lambda value: replies.append(json.dumps(value))


@pytest.fixture(scope="module")
def vertex() -> Iterator[tuple[Client, Callable[[Any], None]]]:
    with VertexEmulator() as cloud, Client(provider="vertex", **cloud.keys()) as client:

        def reply(value: Any) -> None:
            part = {"text": json.dumps(value)}
            content = {"role": "model", "parts": [part]}
            cloud.gemini.script({"candidates": [{"content": content, "finishReason": "STOP"}]})

        yield client, reply


@pytest.fixture(scope="module")
def aws() -> Iterator[tuple[Client, Callable[[Any], None]]]:
    emulator = AwsEmulator()
    said: list[Any] = []

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        value, tools = said.pop(0), body.get("toolConfig", {}).get("tools", ())
        content: dict[str, Any] = {"text": json.dumps(value)}
        if tools:
            name = tools[0]["toolSpec"]["name"]
            content = {"toolUse": {"toolUseId": "t1", "name": name, "input": value}}
        return {
            "output": {"message": {"role": "assistant", "content": [content]}},
            "stopReason": "tool_use" if tools else "end_turn",
            "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
            "metrics": {"latencyMs": 1},
        }

    with emulator as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.env.items():
            if name != "AWS_ENDPOINT_URL":
                patch.setenv(name, value)
        cloud.cloud_state.chat = answer
        with Client(provider="aws", region=cloud.region, endpoint_url=cloud.url) as client:
            yield client, said.append


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("cloud", "model"),
    [
        ("azure", "smart"),
        ("vertex", GEMINI_3),
        ("aws", CLAUDE),
        ("aws", NOVA),
        ("aws", SONNET),
    ],
)
def test_s8_each_type_comes_back_from(
    cloud: str, model: str, name: str, request: pytest.FixtureRequest
) -> None:
    client, reply = request.getfixturevalue(cloud)
    kind = MODELS[name][0]
    document = _document(name)
    expected = wanted(kind).load(json.dumps(document))
    reply(document)
    assert client.chat.create("Hi", model=model, response_type=kind).parsed == expected
    reply(document)
    with client.chat.stream("Hi", model=model, response_type=kind) as stream:
        for _ in stream:
            pass
        assert stream.reply.parsed == expected


@pytest.mark.parametrize("name", ["aws", "azure", "vertex"])
def test_answers_that_nobody_scripted_fit_the_types(name: str) -> None:
    """Bounds, formats and orders that a dialect has no word for are read in descriptions."""
    model = {"aws": CLAUDE, "azure": "gpt-5.1", "vertex": GEMINI_3}[name]
    unfit: list[str] = []
    with emulated(name) as cloud, cloud.applied(), cloud.client() as client:
        for title, (kind, *_) in MODELS.items():
            try:
                client.chat.create("Give one.", model=model, response_type=kind)
            except (InvalidRequest, ProviderError):
                unfit.append(title)
    # A text of a pattern is not made up; Gemini is told of a type in itself by its name alone.
    told_by_name = {"recursive, required", "mutually recursive"} if name == "vertex" else set[str]()
    assert set(unfit) <= {"lengths and patterns", *told_by_name}
