"""Gemini's requests answered by this machine's own models."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cloudai.errors import CloudAIError, ContextOverflow, InvalidRequest, UnsupportedByProvider
from cloudai.testing.emulators.common.local_models import LocalModels
from cloudai.testing.emulators.vertex._http import Refused
from cloudai.types import (
    ChatChunk,
    ChatRequest,
    Image,
    Message,
    Part,
    ResponseSchema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

_REASONS: Final = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS"}


def pieces(models: LocalModels, model: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """GenerateContentResponses as they are made. Raises Refused, before the first one where the
    request is to blame."""
    try:
        stream = models.stream(request_of(model, body))
        for chunk in stream:
            yield _piece(chunk)
    except CloudAIError as error:
        raise refused(error) from None


def refused(error: CloudAIError) -> Refused:
    """A local model's error in Google's words."""
    if isinstance(error, (ContextOverflow, InvalidRequest, UnsupportedByProvider)):
        return Refused(400, "INVALID_ARGUMENT", str(error))
    return Refused(500, "INTERNAL", str(error))


def _piece(chunk: ChatChunk) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": chunk.text}] if chunk.text else []
    for call in chunk.tool_calls:
        args = msgspec.json.decode(call.arguments or "{}")
        parts.append(
            {"functionCall": {"name": call.name, "args": args}, "thoughtSignature": "c2lnbmVk"}
        )
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts or [{"text": ""}]}}
    piece: dict[str, Any] = {"candidates": [candidate]}
    if chunk.finish_reason is not None:
        candidate["finishReason"] = _REASONS.get(chunk.finish_reason, "OTHER")
    if chunk.usage is not None:
        piece["usageMetadata"] = {
            "promptTokenCount": chunk.usage.input_tokens,
            "candidatesTokenCount": chunk.usage.output_tokens,
            "totalTokenCount": chunk.usage.total_tokens,
        }
    return piece


def request_of(model: str, body: dict[str, Any]) -> ChatRequest:
    """The neutral request that a GenerateContentRequest says."""
    config: dict[str, Any] = body.get("generationConfig", {})
    told = [
        part["text"]
        for part in body.get("systemInstruction", {}).get("parts", ())
        if "text" in part
    ]
    messages = [Message("system", "\n".join(told))] if told else []
    for content in body["contents"]:
        messages += _messages(content)
    schema = config.get("responseJsonSchema") or _json_schema(config.get("responseSchema"))
    if schema is None and config.get("responseMimeType") == "application/json":
        schema = {"type": "object"}
    tools = tuple(
        Tool(
            name=one["name"],
            description=one.get("description", ""),
            parameters=one.get("parametersJsonSchema")
            or _json_schema(one.get("parameters"))
            or {"type": "object", "properties": {}},
        )
        for tool in body.get("tools", ())
        for one in tool.get("functionDeclarations", ())
    )
    return ChatRequest(
        model=model,
        messages=tuple(messages),
        temperature=config.get("temperature"),
        top_p=config.get("topP"),
        seed=config.get("seed"),
        max_tokens=config.get("maxOutputTokens"),
        stop=tuple(config.get("stopSequences", ())),
        tools=tools,
        tool_choice=_choice(body) if tools else None,
        response_schema=None if schema is None else ResponseSchema(schema=schema),
    )


def _choice(body: dict[str, Any]) -> str:
    about = body.get("toolConfig", {}).get("functionCallingConfig", {})
    allowed = about.get("allowedFunctionNames", [])
    if about.get("mode") == "ANY":
        return allowed[0] if len(allowed) == 1 else "required"
    return {"NONE": "none"}.get(about.get("mode"), "auto")


def _messages(content: dict[str, Any]) -> list[Message]:
    """One turn; results of functions are messages of their own."""
    own: list[Part] = []
    results: list[Message] = []
    for part in content["parts"]:
        if part.get("thought"):
            continue
        if "text" in part:
            own.append(Text(part["text"]))
        elif "inlineData" in part:
            data = part["inlineData"]
            own.append(Image(base64.b64decode(data["data"]), data.get("mimeType", "image/png")))
        elif "functionCall" in part:
            call = part["functionCall"]
            arguments = msgspec.json.encode(call.get("args", {})).decode()
            own.append(ToolCall(id=call.get("id") or call["name"], name=call["name"],
                                arguments=arguments))  # fmt: skip
        elif "functionResponse" in part:
            answer = part["functionResponse"]
            result = ToolResult(id=answer.get("id") or answer["name"], content=answer["response"])
            results.append(Message("tool", (result,)))
    role = "assistant" if content.get("role") == "model" else "user"
    return [*results, *([Message(role, tuple(own))] if own else [])]


def _json_schema(schema: Any) -> Any:
    """An OpenAPI schema, whose types are in upper case here, as JSON Schema."""
    if isinstance(schema, list):
        return [_json_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        name: value.lower() if name == "type" and isinstance(value, str) else _json_schema(value)
        for name, value in schema.items()
        if name not in {"nullable", "propertyOrdering", "format"}
    }
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made
