"""Bedrock's Converse and ConverseStream: requests.

The body is built by hand in the order of the API reference and encoded by msgspec, which writes
bytes as base64, as the service wants them.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloudai.errors import UnsupportedByProvider
from cloudai.formats.native import merge
from cloudai.formats.schemas import rewrite
from cloudai.formats.schemas.dialects import BEDROCK_STRICT
from cloudai.providers.aws import families
from cloudai.providers.aws.chat.turns import begin_with_thought, turns
from cloudai.types import ChatRequest
from cloudai.types._base import invalid

_STRICT_TOOLS: Final = 20
"""Of one request (Anthropic's page on structured outputs, read 2026-11)."""
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")

encode: Final = msgspec.json.Encoder().encode


def path(model: str, *, stream: bool) -> str:
    """The path of the operation. Model names hold colons and, as ARNs, slashes."""
    return f"/model/{quote(model, safe='')}/{'converse-stream' if stream else 'converse'}"


def schema_tool(request: ChatRequest) -> str | None:
    """The name of the tool that carries the structured answer, where the model does not hold to
    the schema itself."""
    schema = request.response_schema
    if schema is None or _held(request) is not None:
        return None
    name = re.sub(r"[^a-zA-Z0-9_]", "_", schema.name)[:57] or "answer"
    return f"{name}_answer" if any(tool.name == name for tool in request.tools) else name


def _held(request: ChatRequest) -> dict[str, Any] | None:
    """The schema that the model is held to; None where its family knows none, or Bedrock's
    dialect cannot say it."""
    schema = request.response_schema
    if schema is None or not families.traits(request.model).schema:
        return None
    fitted = rewrite.fit(schema.schema, BEDROCK_STRICT)
    return fitted.schema if fitted.loss is None else None


def body(request: ChatRequest, *, stream: bool = False) -> dict[str, Any]:
    """The request's body."""
    made: dict[str, Any] = {}
    hint: list[dict[str, Any]] = []
    tools = _tools(request, hint)
    offered = (tools is not None and request.tool_choice != "none") or (
        "toolConfig" in request.native
    )
    made["messages"], system = turns(request, tools=offered)
    system += hint
    config = _inference(request)
    if config:
        made["inferenceConfig"] = config
    if tools:
        made["toolConfig"] = tools
        _check_tools(request, stream=stream)
    if system:
        made["system"] = system
    if request.reasoning is not None:
        fields = families.reasoning(request.model, request.reasoning)
        budget = families.reasoning_budget(fields)
        if budget and request.max_tokens is not None and request.max_tokens <= budget:
            raise invalid(
                "max_tokens",
                request.max_tokens,
                f"is not above the {budget} tokens that reasoning={request.reasoning!r} may take",
                f"Give more than {budget}, or ask for less reasoning.",
            )
        if budget and not begin_with_thought(made["messages"]):
            fields = {}  # it would be refused; the model thinks again from the next turn on
        if fields:
            made["additionalModelRequestFields"] = fields
    held = _held(request)
    if held is not None and request.response_schema is not None:
        about = {"schema": encode(held).decode(), "name": request.response_schema.name}
        made["outputConfig"] = {
            "textFormat": {"type": "json_schema", "structure": {"jsonSchema": about}}
        }
    return merge(made, request.native) if request.native else made


def _check_tools(request: ChatRequest, *, stream: bool) -> None:
    family = families.traits(request.model)
    what = "tools" if request.tools else "a response_type, which it would get as a tool,"
    if not family.tools:
        raise UnsupportedByProvider(
            f"{what} with {request.model}",
            provider="aws",
            alternative="It takes no tools: ask for JSON in the prompt, or take another model",
            field="tools" if request.tools else "response_type",
        )
    if stream and not family.streams_tools:
        raise UnsupportedByProvider(
            f"{what} in a stream of {request.model}",
            provider="aws",
            alternative="It takes tools in chat.create() alone",
            field="tools" if request.tools else "response_type",
        )


def _ways(request: ChatRequest) -> tuple[str, ...]:
    """How the model can be made to call a tool. Claude calls none that it has to while it thinks
    (Anthropic's page on extended thinking in the Bedrock user guide, read 2026-11)."""
    family = families.traits(request.model)
    if family.reasons in {"adaptive", "budget"} and request.reasoning not in {None, "none"}:
        return ()
    return family.forces


def _choice(request: ChatRequest, carrier: str | None, offered: bool) -> dict[str, Any] | None:
    """The toolChoice; None leaves it to the model."""
    choice, ways = request.tool_choice, _ways(request)
    if carrier is not None:
        if not offered and "tool" in ways:
            return {"tool": {"name": carrier}}
        # With tools of the user's own, the model may call these first.
        return {"any": {}} if "any" in ways else None
    if choice in {None, "none"}:
        return None
    if choice == "auto":
        return {"auto": {}}
    way = "any" if choice == "required" else "tool"
    if way in ways:
        return {"any": {}} if choice == "required" else {"tool": {"name": choice}}
    if families.traits(request.model).forces == ways:
        raise UnsupportedByProvider(
            f"tool_choice={choice!r} with {request.model}",
            provider="aws",
            alternative='It chooses by itself: use "auto", and say in the prompt what to call',
            field="tool_choice",
        )
    raise invalid(
        "tool_choice",
        choice,
        f"makes the model call a tool, which {request.model} does not do while it reasons",
        'Use tool_choice="auto", or leave reasoning out.',
    )


def _inference(request: ChatRequest) -> dict[str, Any]:
    if request.seed is not None:
        raise UnsupportedByProvider(
            "seed",
            provider="aws",
            alternative="Converse has none. Where the model has one, pass it in "
            'native={"additionalModelRequestFields": {"seed": …}}; temperature=0 comes close.',
        )
    if not families.traits(request.model).samples:
        for name in ("temperature", "top_p"):
            if getattr(request, name) is not None:
                raise UnsupportedByProvider(
                    f"{name} with {request.model}",
                    provider="aws",
                    alternative="The model takes none any more: leave it out",
                    field=name,
                )
    if request.temperature is not None and request.temperature > 1:
        # InferenceConfiguration$temperature: 0 to 1 (Converse API reference, read 2026-11).
        raise invalid(
            "temperature", request.temperature, "is above 1, Bedrock's limit", "Use 0 to 1."
        )
    if request.top_p is not None and request.top_p <= 0:
        raise invalid("top_p", request.top_p, "is not above 0", "Use a number above 0, to 1.")
    found: dict[str, Any] = {}
    if request.max_tokens is not None:
        found["maxTokens"] = request.max_tokens
    if request.temperature is not None:
        found["temperature"] = request.temperature
    if request.top_p is not None:
        found["topP"] = request.top_p
    if request.stop:
        found["stopSequences"] = list(request.stop)
    return found


def _tools(request: ChatRequest, system: list[dict[str, Any]]) -> dict[str, Any] | None:
    carrier = schema_tool(request)
    family = families.traits(request.model)
    offered = request.tools
    if request.tool_choice == "none":
        offered = ()  # what was called before is told as text: see turns
    made: list[dict[str, Any]] = []
    for index, tool in enumerate(offered):
        where = f"tools[{index}]"
        if not _TOOL_NAME.match(tool.name):
            raise invalid(
                f"{where}.name",
                tool.name,
                "is not a tool's name",
                "Use 1 to 64 letters, digits, _ and -.",
            )
        if not family.hyphens and "-" in tool.name:
            raise invalid(
                f"{where}.name",
                tool.name,
                f"holds a hyphen, on which {request.model} fails",
                f"Call it {tool.name.replace('-', '_')}.",
            )
        spec: dict[str, Any] = {"name": tool.name}
        if tool.description:
            spec["description"] = tool.description
        held = None
        if tool.strict and family.schema and index < _STRICT_TOOLS:
            held = rewrite.fit(tool.parameters, BEDROCK_STRICT, f"{where}.parameters")
        if held is not None and held.loss is None:
            spec["inputSchema"] = {"json": held.schema}
            spec["strict"] = True
        else:
            guided = rewrite.fit(tool.parameters, family.dialect, f"{where}.parameters")
            spec["inputSchema"] = {"json": guided.schema}
        made.append({"toolSpec": spec})
    if carrier is not None and request.response_schema is not None:
        guided = rewrite.fit(request.response_schema.schema, family.dialect)
        about = {
            "name": carrier,
            "description": "Gives the answer. Call it once, with the whole answer.",
            "inputSchema": {"json": guided.schema},
        }
        made.append({"toolSpec": about})
    if not made:
        return None
    config: dict[str, Any] = {"tools": made}
    choice = _choice(request, carrier, bool(offered))
    if choice is not None:
        config["toolChoice"] = choice
    elif carrier is not None:
        system.append({"text": f"Give your answer by calling the tool {carrier}, once."})
    return config
