"""What Bedrock takes, by sources that are not cloudai's.

- "Get validated JSON results from models", Amazon Bedrock user guide (read 2026-11), for
  ``outputConfig.textFormat`` and strict tools: all basic types; enum of scalars, const, anyOf,
  allOf, inner ``$ref``; the usual formats; minItems of 0 and 1. Not supported, and a 400 at once:
  recursion, bounds, lengths, other array constraints, additionalProperties other than false.
- Refusals seen: bounds, multipleOf, maxItems (vercel/ai#17597, 2026-07-21), an object without
  additionalProperties: false (future-agi#412, 2026-05-12).
- The shape of the request: botocore's service model.
- Tools: ``inputSchema.json.type`` is "object" (spring-ai-alibaba#3082); Nova refuses ``$defs`` at
  the top (langchain-aws#422) and hyphens in names (mcp-agent#126); models that are not Claude
  refuse a schema in additionalProperties (opensre#2404, 2026-05-22).
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "anyOf", "allOf", "enum",
    "const", "$ref", "$defs", "description", "title", "format", "minItems", "default",
}  # fmt: skip
FORMATS = {
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
}  # fmt: skip


@cache
def _converse() -> Any:
    model = botocore.session.get_session().get_service_model("bedrock-runtime")
    return model.operation_model("Converse").input_shape


def check_request(body: dict[str, Any]) -> None:
    """Raises AssertionError for a body of Converse that the service refuses."""
    model = body.pop("modelId")
    report = ParamValidator().validate({**body, "modelId": model}, _converse())
    assert not report.has_errors(), report.generate_report()
    form = body.get("outputConfig", {}).get("textFormat")
    if form is not None:
        check_held(json.loads(form["structure"]["jsonSchema"]["schema"]))
    for tool in body.get("toolConfig", {}).get("tools", ()):
        spec = tool["toolSpec"]
        check_tool(model, spec["name"], spec["inputSchema"]["json"])
        if spec.get("strict"):
            check_held(spec["inputSchema"]["json"])


def check_held(schema: dict[str, Any]) -> None:
    """A schema that the model is held to."""
    assert schema["type"] == "object"
    optional, unions = _held(schema, schema, ())
    assert optional <= 24
    assert unions <= 16


def _held(node: Any, root: dict[str, Any], path: tuple[str, ...]) -> tuple[int, int]:
    assert set(node) <= KNOWN, set(node) - KNOWN
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        assert name not in path, "refers to itself"
        return _held(root["$defs"][name], root, (*path, name))
    assert node.get("format", "date") in FORMATS
    assert node.get("minItems", 0) in {0, 1}
    for value in node.get("enum", ()):
        assert not isinstance(value, (dict, list))
    inner = [*node.get("anyOf", ()), *node.get("properties", {}).values()]
    kinds = node.get("type", [])
    unions = int("anyOf" in node) + int(isinstance(kinds, list) and len(kinds) > 1)
    optional = len(node.get("properties", {})) - len(node.get("required", ()))
    if "object" in kinds:
        assert node["additionalProperties"] is False
    if "array" in kinds:
        inner.append(node["items"])
    for one in inner:
        more, others = _held(one, root, path)
        optional, unions = optional + more, unions + others
    return optional, unions


def check_tool(model: str, name: str, schema: dict[str, Any]) -> None:
    """A tool that the model is guided by."""
    assert schema["type"] == "object"
    if "nova" in model:
        assert "-" not in name
        assert not {"$defs", "definitions"} & set(schema)
    if "anthropic" not in model:
        assert '"additionalProperties": {' not in json.dumps(schema)
    _closed_references(schema, schema)


def _closed_references(node: Any, root: dict[str, Any]) -> None:
    if isinstance(node, dict):
        ref = node.get("$ref")
        if isinstance(ref, str):
            assert ref.removeprefix("#/$defs/") in root["$defs"]
        for inner in node.values():
            _closed_references(inner, root)
    elif isinstance(node, list):
        for inner in node:
            _closed_references(inner, root)
