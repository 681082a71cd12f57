"""What OpenAI's strict mode takes, by sources that are not cloudai's.

- ``openai.lib._pydantic`` (openai 3.54): what its ``to_strict_json_schema`` would still change,
  the service would refuse; so a schema has to come out of it as it went in.
- "Structured outputs", Azure OpenAI in Microsoft Foundry (2025-12-06): the root is an object and
  no anyOf; every property is required; every object is closed; five levels and 100 properties;
  the words that are not supported.
- What OpenAI answers to the rest: ``$ref`` alone (docker-agent#4155, 2026-09-03), ``default``,
  arrays that need ``items`` with a type (pydantic-ai#4425), a type for every value.
"""

from __future__ import annotations

import copy
from typing import Any

from openai.lib._pydantic import _ensure_strict_json_schema

KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const",
    "$ref", "$defs", "description", "title",
}  # fmt: skip
TYPES = {"string", "number", "integer", "boolean", "null", "object", "array"}


def check(schema: dict[str, Any]) -> None:
    """Raises AssertionError for what the service refuses."""
    assert schema.get("type") == "object", "the root is no object"
    assert "anyOf" not in schema, "the root is an anyOf"
    copied = copy.deepcopy(schema)
    assert _ensure_strict_json_schema(copied, path=(), root=copied) == schema
    counted = [0]
    _check(schema, schema, 1, counted)
    for inner in schema.get("$defs", {}).values():
        _check(inner, schema, 2, counted)
    assert counted[0] <= 100


def _check(node: dict[str, Any], root: dict[str, Any], level: int, counted: list[int]) -> None:
    assert set(node) <= KNOWN, set(node) - KNOWN
    if "$ref" in node:
        assert set(node) == {"$ref"}
        kind, _, name = node["$ref"].rpartition("/")
        assert kind == "#/$defs"
        assert name in root["$defs"]
        return
    kinds = node.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    assert set(kinds) <= TYPES
    assert kinds or "anyOf" in node, f"no type: {node}"
    for option in node.get("anyOf", ()):
        _check(option, root, level, counted)
    if "object" in kinds:
        assert level <= 5
        assert node["additionalProperties"] is False
        assert set(node["required"]) == set(node["properties"])
        counted[0] += len(node["properties"])
        for inner in node["properties"].values():
            _check(inner, root, level + 1, counted)
    if "array" in kinds:
        _check(node["items"], root, level, counted)
