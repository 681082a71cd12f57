"""What strict mode refuses of a JSON Schema, in the service's words (vercel/ai#6484, outlines#844,
openai-agents-mcp#2, docker-agent#4155); the words it knows: "Structured outputs", Azure OpenAI
(2025-12-06)."""

from __future__ import annotations

from typing import Any, Final

from cloudai.testing.emulators.azure._http import Refused

_KNOWN: Final = {
    "type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const",
    "$ref", "$defs", "definitions", "description", "title",
}  # fmt: skip
_LEVELS, _PROPERTIES = 5, 100


def check(body: dict[str, Any]) -> None:
    """Raises Refused for a strict schema that the service would not take."""
    form = (body.get("response_format") or {}).get("json_schema") or {}
    if form.get("strict"):
        problem = _Check(form["schema"]).problem()
        if problem is not None:
            message = f"Invalid schema for response_format '{form['name']}': {problem}"
            raise Refused(400, "invalid_json_schema", message, param="response_format")
    for index, tool in enumerate(body.get("tools") or ()):
        function = tool["function"]
        schema = function.get("parameters") or {}
        problem = _top(schema)
        if function.get("strict") and problem is None:
            problem = _Check(schema).problem()
        if problem is not None:
            message = f"Invalid schema for function '{function['name']}': {problem}"
            where = f"tools[{index}].function.parameters"
            raise Refused(400, "invalid_function_parameters", message, param=where)


def _top(schema: dict[str, Any]) -> str | None:
    if schema and schema.get("type") != "object":
        kind = schema.get("type")
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    return None


class _Check:
    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self._count = 0

    def problem(self) -> str | None:
        found = _top(self.root)
        if found is None and "anyOf" in self.root:
            found = "schema must not have 'anyOf' at the top level."
        found = found or self._at(self.root, (), 1)
        for name, inner in self.root.get("$defs", {}).items():
            found = found or self._at(inner, ("$defs", name), 2)
        if found is None and self._count > _PROPERTIES:
            found = f"schema has {self._count} properties, the maximum is {_PROPERTIES}."
        return found

    def _at(self, node: dict[str, Any], path: tuple[str, ...], level: int) -> str | None:
        context = f"In context={path}, "
        for word in node:
            if word not in _KNOWN:
                return f"{context}'{word}' is not permitted."
        if "$ref" in node:
            beside = set(node) - {"$ref"}
            return f"{context}$ref cannot have keywords {beside}." if beside else None
        kinds = node.get("type", ())
        if not kinds and "anyOf" not in node:
            return f"{context}schema must have a 'type' key."
        found: str | None = None
        for index, option in enumerate(node.get("anyOf", ())):
            found = found or self._at(option, (*path, "anyOf", str(index)), level)
        if "object" in kinds:
            found = found or self._object(node, path, level, context)
        if "array" in kinds:
            if "items" not in node:
                return f"{context}array schema missing items."
            found = found or self._at(node["items"], (*path, "items"), level)
        return found

    def _object(
        self, node: dict[str, Any], path: tuple[str, ...], level: int, context: str
    ) -> str | None:
        if level > _LEVELS:
            return f"{context}schema has more than {_LEVELS} levels of nesting."
        if node.get("additionalProperties") is not False:
            return f"{context}'additionalProperties' is required to be supplied and to be false."
        properties: dict[str, Any] = node.get("properties", {})
        missing = [name for name in properties if name not in node.get("required", ())]
        if missing:
            return (
                f"{context}'required' is required to be supplied and to be an array including "
                f"every key in properties. Missing '{missing[0]}'."
            )
        self._count += len(properties)
        for name, inner in properties.items():
            found = self._at(inner, (*path, "properties", name), level + 1)
            if found is not None:
                return found
        return None
