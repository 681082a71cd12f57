"""A chat completion's body as the neutral request."""

from __future__ import annotations

import json
from typing import Any

from cloudai.types import ChatRequest, Message, Part, ResponseSchema, Text, Tool, ToolCall
from cloudai.types import ToolResult as Result


def for_models(body: dict[str, Any], model: str) -> ChatRequest:
    """For this machine's models. Raises CloudAIError for what they cannot do."""
    from cloudai.server.predictors import completions

    return completions.request_of(
        completions.decode_completion(json.dumps(body).encode()), model, {}
    )


def for_rules(body: dict[str, Any], model: str) -> ChatRequest:
    """For the rules, which look at the last message, the tools and the schema alone."""
    choice = body.get("tool_choice")
    schema = (body.get("response_format") or {}).get("json_schema")
    return ChatRequest(
        model=model,
        messages=tuple(map(_message, body["messages"])),
        tools=tuple(
            Tool(
                name=tool["function"]["name"],
                description=tool["function"].get("description", ""),
                parameters=tool["function"].get("parameters") or {"type": "object"},
            )
            for tool in body.get("tools") or ()
        ),
        tool_choice=choice["function"]["name"] if isinstance(choice, dict) else choice,
        response_schema=ResponseSchema(schema=schema["schema"]) if schema else None,
    )


def _message(one: dict[str, Any]) -> Message:
    content = one.get("content") or ""
    if not isinstance(content, str):
        content = " ".join(part.get("text") or f"<{part['type']}>" for part in content)
    if one["role"] == "tool":
        return Message("tool", (Result(id=one["tool_call_id"], content=content),))
    parts: list[Part] = [Text(content)]
    for call in one.get("tool_calls") or ():
        about = call["function"]
        parts.append(ToolCall(id=call["id"], name=about["name"], arguments=about["arguments"]))
    return Message("system" if one["role"] == "developer" else one["role"], tuple(parts))
