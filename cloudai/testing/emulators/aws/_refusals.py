"""What Bedrock's models refuse by their families, in the service's words. Kept apart from what the
provider knows of them, so that a mistake there shows here.

Sources: "Get validated JSON results from models" (Bedrock user guide, read 2026-11);
future-agi#412 (2026-05-12) and litellm#29624 (2026-06-03) for schemas; llama_index#19886
(2025-09-16) for tool choices; langchain-aws#447 and #422, mcp-agent#126 for tools; cline#10572
(2026-05-06) for temperature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_HOLDS: Final = re.compile(
    r"claude-(?:sonnet|haiku|opus)-(?:4-[56]|5-5)(?!\d{6})|gpt-oss|qwen|gemma|moonshot|minimax"
    r"|nemotron|zai\.|deepseek\.v3|magistral|ministral|mistral-large-3|voxtral"
)
_UNFORCED: Final = re.compile(r"claude-(?:fable|mythos|opus-5-5|sonnet-5-5)|meta\.llama|qwen")
"""Models that cannot be forced to call a tool."""
_UNSAMPLED: Final = re.compile(
    r"claude-(?:fable|mythos|opus-4-[78]|(?:opus|sonnet|haiku)-[5-9])(?!\d{6})"
)
_TOOLLESS: Final = re.compile(r"deepseek\.r1|amazon\.titan|claude-v2|llama3-\d+b|llama3-2-[13]b")
_FORMATS: Final = {
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
}  # fmt: skip
_UNSUPPORTED: Final = {
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"maxItems", "uniqueItems", "contains", "prefixItems"},
    "object": {"patternProperties", "minProperties", "maxProperties", "propertyNames"},
}


def refusal(model: str, body: Mapping[str, Any], *, stream: bool) -> str | None:
    """Why the service refuses the body; None where it takes it."""
    form = body.get("outputConfig", {}).get("textFormat")
    if form is not None:
        if not _HOLDS.search(model):
            return "output_config.format: Extra inputs are not permitted"
        schema = msgspec.json.decode(form["structure"]["jsonSchema"]["schema"])
        found = _held(schema, schema, ())
        if found is not None:
            return f"output_config.format.schema: {found}"
    config = body.get("inferenceConfig", {})
    if _UNSAMPLED.search(model):
        for name, word in (("temperature", "temperature"), ("topP", "top_p")):
            if name in config:
                return f"`{word}` is deprecated for this model."
    if "thinking" in body.get("additionalModelRequestFields", {}):
        kind = body["additionalModelRequestFields"]["thinking"].get("type")
        if kind == "enabled" and _UNSAMPLED.search(model):
            return (
                '"thinking.type.enabled" is not supported for this model. Use '
                '"thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
            )
    return _tools(model, body.get("toolConfig", {}), stream)


def _tools(model: str, config: Mapping[str, Any], stream: bool) -> str | None:
    tools = config.get("tools", ())
    if tools and _TOOLLESS.search(model):
        return "This model doesn't support tool use."
    if tools and stream and "meta.llama" in model:
        return "This model doesn't support tool use in streaming mode."
    for way in config.get("toolChoice", {}):
        if way != "auto" and _UNFORCED.search(model):
            field = f"toolConfig.toolChoice.{way}"
            return f"This model doesn't support the {field} field. Remove {field} and try again."
    for index, tool in enumerate(tools):
        spec = tool.get("toolSpec")
        if spec is None:
            continue  # a tool of the service's own
        schema = spec["inputSchema"]["json"]
        where = f"toolConfig.tools.{index}.member.toolSpec"
        if schema.get("type") != "object":
            return (
                f"The value at {where}.inputSchema.json.type must be one of the following: object."
            )
        if "nova" in model:
            for word in ("$defs", "definitions"):
                if word in schema:
                    return f"Malformed input request: #: extraneous key [{word}] is not permitted"
            if "-" in spec["name"]:
                return "Model produced invalid sequence as part of ToolUse."
        if spec.get("strict"):
            found = _held(schema, schema, ())
            if found is not None:
                return f"tools.{index}.custom.input_schema: {found}"
    return None


def _held(node: Any, root: Any, path: tuple[str, ...]) -> str | None:
    if not isinstance(node, dict):
        return None
    if "$ref" in node:
        name = str(node["$ref"]).rpartition("/")[2]
        if name in path:
            return f"Circular reference detected in schema definitions: {name}"
        return _held(root.get("$defs", {}).get(name, {}), root, (*path, name))
    kinds = node.get("type", ())
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        told = sorted(_UNSUPPORTED.get(kind, set()) & node.keys())
        if told:
            return f"For '{kind}' type, properties {', '.join(told)} are not supported"
        if kind == "object" and node.get("additionalProperties") is not False:
            return "For 'object' type, 'additionalProperties' must be explicitly set to false"
    if node.get("format", "date") not in _FORMATS:
        return f"For 'string' type, format '{node['format']}' is not supported"
    if node.get("minItems", 0) not in {0, 1}:
        return "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    for word in ("oneOf", "not", "if"):
        if word in node:
            return f"Schema type '{word}' is not supported"
    if not kinds and not {"anyOf", "enum", "const", "allOf"} & node.keys():
        return "Schema must have a 'type'"
    inner = [*node.get("properties", {}).values(), *node.get("anyOf", ()), node.get("items")]
    return next((found for one in inner if (found := _held(one, root, path))), None)
