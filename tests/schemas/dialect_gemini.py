"""What Gemini takes, by sources that are not cloudai's.

- google-genai 2.34, ``GenerateContentConfig.response_json_schema`` and
  ``FunctionDeclaration.parameters_json_schema``: the words that are supported; enum of strings and
  numbers; cycles only out of properties that are not required ("Nullable properties are not
  sufficient"); beside ``$ref`` only words that begin with ``$``.
- Tools beside a JSON answer: refused by 2.x (python-genai#867), with forced calling by all
  (vercel/ai#16540, 2026-07-01).
"""

from __future__ import annotations

import re
from typing import Any

from google.genai import types


def _words() -> set[str]:
    told = types.GenerateContentConfig.model_fields["response_json_schema"].description or ""
    listed = told.partition("are supported:")[2]
    return set(re.findall(r"`(\$?\w+)`", listed.partition("If `$ref`")[0])) | {"$ref"}


KNOWN = _words()


def check_request(model: str, body: dict[str, Any]) -> None:
    """Raises AssertionError for a generateContent body that the service refuses."""
    config = body.get("generationConfig", {})
    calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
    if "responseJsonSchema" in config:
        assert config["responseMimeType"] == "application/json"
        assert "responseSchema" not in config
        check(config["responseJsonSchema"])
        assert calling.get("mode") != "ANY"
        assert not (body.get("tools") and model.startswith("gemini-2"))
    for tool in body.get("tools", ()):
        for one in tool["functionDeclarations"]:
            assert "parameters" not in one
            assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}", one["name"])
            check(one["parametersJsonSchema"])


def check(schema: dict[str, Any]) -> None:
    _check(schema, schema, ())


def _check(node: Any, root: dict[str, Any], path: tuple[str, ...]) -> None:
    assert set(node) <= KNOWN, set(node) - KNOWN
    if "$ref" in node:
        assert all(word.startswith("$") for word in node)
        name = node["$ref"].removeprefix("#/$defs/")
        assert name not in path, "a cycle through required properties"
        _check(root["$defs"][name], root, (*path, name))
        return
    for value in node.get("enum", ()):
        assert isinstance(value, (str, int, float))
        assert not isinstance(value, bool)
    required = node.get("required", [])
    for name, inner in node.get("properties", {}).items():
        # What is not required ends a cycle; but its words count.
        if name in required:
            _check(inner, root, path)
        else:
            _words_of(inner)
    inner = [*node.get("anyOf", ()), *node.get("prefixItems", ())]
    inner += [node[key] for key in ("items", "additionalProperties") if key in node]
    for one in inner:
        if isinstance(one, dict):
            _check(one, root, path)
    for one in node.get("$defs", {}).values():
        _words_of(one)


def _words_of(node: dict[str, Any]) -> None:
    assert set(node) <= KNOWN, set(node) - KNOWN
    inner = [*node.get("anyOf", ()), *node.get("properties", {}).values()]
    inner += [node[key] for key in ("items", "additionalProperties") if key in node]
    for one in inner:
        if isinstance(one, dict):
            _words_of(one)
