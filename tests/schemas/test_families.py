"""What a family of models refuses: refused here beforehand, and by the emulators in the
service's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("botocore")
pytest.importorskip("google.auth")

import boto3
import botocore.exceptions

from cloudai import Client
from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.providers.aws.chat import converse
from cloudai.providers.azure.openai.wire import chat as azure_wire
from cloudai.providers.vertex.chat import wire
from cloudai.testing.emulators.aws import AwsEmulator
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import ChatRequest, Message, ResponseSchema, Tool

HI = (Message("user", "Hi"),)
TOOL = Tool(name="look", parameters={"type": "object", "properties": {"a": {"type": "string"}}})
SCHEMA = ResponseSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}})
RECURSIVE = ResponseSchema(
    schema={
        "type": "object",
        "properties": {"next": {"$ref": "#"}, "a": {"type": "integer", "minimum": 1}},
    }
)
LLAMA = "us.meta.llama3-3-70b-instruct-v1:0"
NOVA = "amazon.nova-pro-v1:0"
OPUS = "anthropic.claude-opus-4-7"
SONNET = "anthropic.claude-sonnet-5-5"
FABLE = "anthropic.claude-fable-5-1"


def _converse(model: str, *, stream: bool = False, **about: Any) -> dict[str, Any]:
    return converse.body(ChatRequest(model=model, messages=HI, **about), stream=stream)


def _gemini(model: str, **about: Any) -> dict[str, Any]:
    return wire.encode(ChatRequest(model=model, messages=HI, **about))


@pytest.mark.parametrize(
    ("model", "about", "field"),
    [
        (LLAMA, {"tools": (TOOL,), "tool_choice": "required"}, "tool_choice"),
        (LLAMA, {"tools": (TOOL,), "tool_choice": "look"}, "tool_choice"),
        (LLAMA, {"tools": (TOOL,), "stream": True}, "tools"),
        (LLAMA, {"response_schema": SCHEMA, "stream": True}, "response_type"),
        ("deepseek.r1-v1:0", {"tools": (TOOL,)}, "tools"),
        ("deepseek.r1-v1:0", {"response_schema": SCHEMA}, "response_type"),
        ("amazon.titan-text-express-v1", {"tools": (TOOL,)}, "tools"),
        ("mistral.mistral-7b-instruct-v0:2", {"tools": (TOOL,), "tool_choice": "look"},
         "tool_choice"),
        ("qwen.qwen3-32b-v1:0", {"tools": (TOOL,), "tool_choice": "required"}, "tool_choice"),
    ],
)  # fmt: skip
def test_s6_bedrock_families(model: str, about: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedByProvider) as caught:
        _converse(model, **about)
    assert caught.value.field == field


def test_s6_a_model_that_cannot_be_forced_is_told_to_call_the_tool() -> None:
    body = _converse(LLAMA, response_schema=SCHEMA)
    assert "toolChoice" not in body["toolConfig"]
    assert "calling the tool answer" in body["system"][-1]["text"]
    forced = _converse("mistral.mistral-large-2407-v1:0", response_schema=SCHEMA)
    assert forced["toolConfig"]["toolChoice"] == {"any": {}}


@pytest.mark.parametrize(
    ("model", "about", "field"),
    [
        (OPUS, {"temperature": 0.5}, "temperature"),
        (SONNET, {"top_p": 0.5}, "top_p"),
        ("openai.gpt-6-sol", {"temperature": 0.5}, "temperature"),
        (SONNET, {"tools": (TOOL,), "tool_choice": "required"}, "tool_choice"),
        (FABLE, {"reasoning": "none"}, "reasoning"),
        (NOVA, {"tools": (Tool(name="look-up"),)}, "tools[0].name"),
    ],
)
def test_e16_bedrock_families(model: str, about: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _converse(model, **about)
    assert caught.value.field == field


def test_e16_what_newer_models_are_sent() -> None:
    extra = "additionalModelRequestFields"
    assert _converse(OPUS, reasoning="high")[extra]["thinking"] == {"type": "adaptive"}
    assert _converse(SONNET, reasoning="none")[extra] == {"thinking": {"type": "between_tools"}}
    assert _converse("anthropic.claude-haiku-5-5", reasoning="none")[extra] == {
        "thinking": {"type": "disabled"}
    }
    assert extra not in _converse("anthropic.claude-sonnet-4-6", reasoning="none")
    assert _converse("openai.gpt-6-sol", reasoning="low")[extra] == {"reasoning": {"effort": "low"}}
    with_defs = Tool(name="t", parameters=RECURSIVE.schema)
    spec = _converse(NOVA, tools=(with_defs,))["toolConfig"]["tools"][0]["toolSpec"]
    assert "$defs" not in spec["inputSchema"]["json"]
    # An answer that Bedrock's dialect cannot say comes by a tool.
    assert "outputConfig" not in _converse("anthropic.claude-sonnet-4-6", response_schema=RECURSIVE)


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-3.1-pro", "medium", {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        ("gemini-3-pro-preview", "medium", {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-3.7-flash", "minimal", {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("gemini-3.5-flash", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-flash-lite", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-4-argon", "high", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
    ],
)
def test_e4_levels_that_the_model_has(model: str, effort: Any, config: dict[str, Any]) -> None:
    assert _gemini(model, reasoning=effort)["generationConfig"]["thinkingConfig"] == config


@pytest.mark.parametrize("model", ["gemini-3.7-flash", "gemini-3.1-pro", "gemini-2.5-pro"])
def test_e4_a_model_that_always_thinks(model: str) -> None:
    with pytest.raises(UnsupportedByProvider, match="reasoning='none'"):
        _gemini(model, reasoning="none")


def test_s5_tools_beside_a_response_type() -> None:
    with pytest.raises(UnsupportedByProvider, match="tools beside response_type"):
        _gemini("gemini-2.5-flash", tools=(TOOL,), response_schema=SCHEMA)
    with pytest.raises(UnsupportedByProvider, match="tool_choice='required'"):
        _gemini("gemini-3.5-flash", tools=(TOOL,), tool_choice="required", response_schema=SCHEMA)
    body = _gemini("gemini-3.5-flash", tools=(TOOL,), response_schema=SCHEMA)
    assert "tools" in body
    assert "responseJsonSchema" in body["generationConfig"]


# ------------------------------------------------------------- what the emulators refuse


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Any]:
    with AwsEmulator() as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.env.items():
            patch.setenv(name, value)
        yield boto3.client("bedrock-runtime", endpoint_url=cloud.url, region_name=cloud.region)


def _tool(name: str = "t", schema: Any = None, **choice: Any) -> dict[str, Any]:
    spec = {"name": name, "inputSchema": {"json": schema or {"type": "object"}}}
    return {"tools": [{"toolSpec": spec}], **({"toolChoice": choice} if choice else {})}


def _form(**schema: Any) -> dict[str, Any]:
    text = json.dumps(schema)
    about = {"type": "json_schema", "structure": {"jsonSchema": {"schema": text, "name": "a"}}}
    return {"textFormat": about}


_SHUT = {"type": "object", "additionalProperties": False}


@pytest.mark.parametrize(
    ("model", "about", "words"),
    [
        (
            "anthropic.claude-sonnet-4-6",
            {"outputConfig": _form(type="object")},
            "For 'object' type, 'additionalProperties' must be explicitly set to false",
        ),
        (
            "anthropic.claude-sonnet-4-6",
            {
                "outputConfig": _form(
                    **_SHUT, properties={"a": {"type": "number", "minimum": 1, "maximum": 2}}
                )
            },
            "For 'number' type, properties maximum, minimum are not supported",
        ),
        (NOVA, {"outputConfig": _form(**_SHUT)}, "output_config.format: Extra inputs"),
        (OPUS, {"inferenceConfig": {"temperature": 0.5}}, "`temperature` is deprecated"),
        (
            OPUS,
            {"additionalModelRequestFields": {"thinking": {"type": "enabled"}}},
            "thinking.type.adaptive",
        ),
        (LLAMA, {"toolConfig": _tool(any={})}, "doesn't support the toolConfig.toolChoice.any"),
        (SONNET, {"toolConfig": _tool(tool={"name": "t"})}, "toolConfig.toolChoice.tool"),
        ("deepseek.r1-v1:0", {"toolConfig": _tool()}, "doesn't support tool use"),
        (NOVA, {"toolConfig": _tool(schema={"type": "object", "$defs": {}})}, "extraneous key"),
        (NOVA, {"toolConfig": _tool("a-b")}, "invalid sequence"),
        (NOVA, {"toolConfig": _tool(schema={"type": "array"})}, "one of the following: object"),
    ],
)
def test_s2_s6_e16_the_emulated_bedrock_refuses(
    bedrock: Any, model: str, about: dict[str, Any], words: str
) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match=words.replace("(", "\\(")):
        bedrock.converse(
            modelId=model, messages=[{"role": "user", "content": [{"text": "Hi"}]}], **about
        )


@pytest.mark.parametrize(
    ("model", "about", "words"),
    [
        (
            "gemini-3.7-flash",
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}},
            "thinking_level MINIMAL is not supported by this model",
        ),
        (
            "gemini-2.5-flash",
            {
                "generationConfig": {"responseMimeType": "application/json"},
                "tools": [{"functionDeclarations": [{"name": "a"}]}],
            },
            "Function calling with a response mime type: 'application/json' is unsupported",
        ),
        (
            "gemini-3.5-flash",
            {
                "generationConfig": {"responseMimeType": "application/json"},
                "tools": [{"functionDeclarations": [{"name": "a"}]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
            },
            "Forced function calling",
        ),
        (
            "gemini-3.5-flash",
            {
                "generationConfig": {
                    "responseMimeType": "application/json",
                    "responseJsonSchema": {
                        "type": "object",
                        "properties": {"a": {"$ref": "#/$defs/A"}},
                        "required": ["a"],
                        "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}},
                    },
                }
            },
            "only allowed in non-required properties",
        ),
        (
            "gemini-3.5-flash",
            {
                "generationConfig": {
                    "responseMimeType": "application/json",
                    "responseSchema": {"type": "STRING", "const": "a"},
                }
            },
            "const",
        ),
    ],
)
def test_s3_s5_e4_the_emulated_vertex_refuses(
    model: str, about: dict[str, Any], words: str
) -> None:
    with VertexEmulator() as cloud, Client(provider="vertex", **cloud.keys()) as client:
        cloud.gemini.models.add("gemini-2.5-flash")
        with pytest.raises(InvalidRequest) as caught:
            client.chat.create("Hi", model=model, native=about)
        assert words in str(caught.value)


def _strict(**schema: Any) -> dict[str, Any]:
    about = {"name": "a", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": about}}


@pytest.mark.parametrize(
    ("about", "words"),
    [
        (
            _strict(**_SHUT, properties={"a": {"type": "string"}}),
            "to be an array including every key in properties. Missing 'a'.",
        ),
        (
            _strict(type="object", properties={}),
            "'additionalProperties' is required to be supplied and to be false",
        ),
        (
            _strict(
                **_SHUT,
                properties={"a": {"$ref": "#/$defs/B", "description": "b"}},
                required=["a"],
                **{"$defs": {"B": {"type": "string"}}},
            ),
            "$ref cannot have keywords {'description'}",
        ),
        (
            _strict(**_SHUT, properties={"a": {"oneOf": []}}, required=["a"]),
            "'oneOf' is not permitted",
        ),
        (
            _strict(**_SHUT, properties={"a": {"type": "integer", "minimum": 1}}, required=["a"]),
            "'minimum' is not permitted",
        ),
        (
            _strict(**_SHUT, properties={"a": {"type": "array"}}, required=["a"]),
            "array schema missing items",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}]},
            "Invalid schema for function 'f'",
        ),
    ],
)
def test_s1_the_emulated_azure_refuses(about: dict[str, Any], words: str) -> None:
    with AzureEmulator() as cloud:
        cloud.deploy("smart")
        client = Client(provider="azure", **cloud.keys())
        with client, pytest.raises(InvalidRequest) as caught:
            client.chat.create("Hi", model="smart", native=about)
    assert words in str(caught.value)


# ------------------------------------------------------------- Azure OpenAI's reasoning models


@pytest.mark.parametrize(
    ("model", "about", "field"),
    [
        ("gpt-5-mini", {"temperature": 0.5}, "temperature"),
        ("gpt-6-sol", {"top_p": 0.5}, "top_p"),
        ("gpt-5.1", {"temperature": 0.5, "reasoning": "low"}, "temperature"),
        ("gpt-5.4", {"tools": (TOOL,), "reasoning": "low"}, "tools"),
        ("gpt-6-sol", {"tools": (TOOL,), "reasoning": "high"}, "tools"),
        ("o3", {"reasoning": "none"}, "reasoning"),
        ("gpt-5-codex", {}, "model"),
        ("gpt-5.4-pro", {}, "model"),
    ],
)
def test_e16_azure_families(model: str, about: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedByProvider) as caught:
        azure_wire.encode(ChatRequest(model=model, messages=HI, **about))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("model", "about", "effort"),
    [
        ("gpt-5.1", {"temperature": 0.5}, None),
        ("gpt-6-sol", {"temperature": 0.5, "reasoning": "none"}, "none"),
        ("gpt-6-sol", {"reasoning": "minimal"}, "low"),
        ("gpt-5-2025-08-07", {"reasoning": "minimal"}, "minimal"),
        ("gpt-5.4", {"tools": (TOOL,), "reasoning": "none"}, "none"),
        ("my-own-name", {"temperature": 0.5, "reasoning": "high", "tools": (TOOL,)}, "high"),
    ],
)
def test_e16_what_azure_is_sent(model: str, about: dict[str, Any], effort: str | None) -> None:
    body = json.loads(azure_wire.encode(ChatRequest(model=model, messages=HI, **about)))
    assert body.get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("model", "about", "words"),
    [
        ("gpt-5-mini", {"temperature": 0.5}, "'temperature' does not support 0.5"),
        ("gpt-5.6-sol", {"reasoning": "minimal"}, "'reasoning_effort' does not support 'minimal'"),
        (
            "gpt-5.4",
            {"tools": [TOOL], "reasoning": "low"},
            "Function tools with reasoning_effort are not supported",
        ),
    ],
)
def test_e16_the_emulated_azure_refuses(model: str, about: dict[str, Any], words: str) -> None:
    with AzureEmulator() as cloud:
        cloud.deploy("named-otherwise", model=model)
        client = Client(provider="azure", **cloud.keys())
        with client, pytest.raises(InvalidRequest) as caught:
            client.chat.create("Hi", model="named-otherwise", **about)
    assert words in str(caught.value)
