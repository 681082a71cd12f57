"""One small value that satisfies a JSON Schema; the same schema always gives the same value."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from cloudai.errors import UnsupportedByProvider
from cloudai.formats.schemas.said import heard
from cloudai.types._base import invalid

DEPTH: Final = 8
"""Nesting at which only what is required is filled in, so that recursive schemas end."""
DEEPEST: Final = 64

_FORMATS: Final = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: dict[str, Any], field: str) -> Any:
    """A value that satisfies the schema.

    The first of ``const``, ``default``, ``examples``, ``enum`` that there is; else the smallest
    value of the type that keeps to the bounds. A text is the name of its property. Raises
    InvalidRequest for a schema that nothing satisfies or that refers to nothing, and
    UnsupportedByProvider for a ``pattern`` that the text does not match.
    """
    return _Maker(schema, field).make(schema, "text", 0)


class _Maker:
    def __init__(self, root: dict[str, Any], field: str) -> None:
        self.root = root
        self.field = field

    def make(self, schema: Any, name: str, depth: int) -> Any:
        if schema is True or schema == {}:
            return name
        if not isinstance(schema, dict):
            raise invalid(self.field, schema, "is a schema that nothing satisfies")
        if depth > DEEPEST:
            raise invalid(self.field, name, "requires itself without end")
        rules = self._flat(schema)
        if isinstance(about := rules.get("description"), str):
            rules = {**heard(about), **rules}
        for key in ("const", "default"):
            if key in rules:
                return rules[key]
        for key in ("examples", "enum"):
            if rules.get(key):
                return rules[key][0]
        for key in ("anyOf", "oneOf"):
            if key in rules:
                # Null ends a recursion, and is no interesting answer anywhere else.
                choices = sorted(
                    rules[key], key=lambda one: (one.get("type") == "null") == (depth < DEPTH)
                )
                return self.make(choices[0], name, depth + 1)
        return self._typed(rules, name, depth)

    def _flat(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with its ``$ref`` and ``allOf`` followed and merged."""
        rules = dict(schema)
        seen = 0
        while "$ref" in rules or "allOf" in rules:
            seen += 1
            if seen > DEEPEST:
                raise invalid(self.field, schema, "refers to itself without end")
            parts = [self._target(rules.pop("$ref"))] if "$ref" in rules else []
            parts += rules.pop("allOf", [])
            for part in parts:
                properties = {**part.get("properties", {}), **rules.get("properties", {})}
                required = [*rules.get("required", []), *part.get("required", [])]
                rules = {**part, **rules}
                if properties:
                    rules["properties"] = properties
                    rules["required"] = list(dict.fromkeys(required))
        return rules

    def _target(self, ref: str) -> dict[str, Any]:
        place: Any = self.root
        for step in ref.removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if step and (not isinstance(place, dict) or step not in place):
                raise invalid(self.field, ref, "is a $ref to nothing in this schema")
            place = place[step] if step else place
        return dict(place)

    def _typed(self, rules: dict[str, Any], name: str, depth: int) -> Any:
        kind = rules.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind == "object" or (kind is None and "properties" in rules):
            return self._object(rules, depth)
        if kind == "array" or (kind is None and ("items" in rules or "prefixItems" in rules)):
            return self._array(rules, name, depth)
        if kind in {"integer", "number"}:
            return _number(rules, kind, self.field)
        if kind == "boolean":
            return True
        if kind == "null":
            return None
        if kind in {"string", None}:
            return self._text(rules, name)
        raise invalid(self.field, kind, "is no type of JSON Schema")

    def _object(self, rules: dict[str, Any], depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = rules.get("properties", {})
        required = rules.get("required", [])
        chosen = required if depth >= DEPTH else [*properties, *required]
        return {
            name: self.make(properties.get(name, True), name, depth + 1)
            for name in dict.fromkeys(chosen)
        }

    def _array(self, rules: dict[str, Any], name: str, depth: int) -> list[Any]:
        fixed = [self.make(item, name, depth + 1) for item in rules.get("prefixItems", [])]
        least = rules.get("minItems", 0)
        wanted = max(least, 1 if depth < DEPTH and rules.get("items") else 0)
        wanted = min(wanted, rules.get("maxItems", wanted))
        while len(fixed) < wanted:
            item = self.make(rules.get("items", True), name, depth + 1)
            if rules.get("uniqueItems") and item in fixed:
                choices = rules.get("items", {}).get("enum", [])
                item = next((one for one in choices if one not in fixed), None)
                if item is None:
                    if len(fixed) >= least:
                        break
                    raise UnsupportedByProvider(
                        f"uniqueItems with minItems={least}",
                        provider="fake",
                        alternative="Script the reply, or give the schema an example",
                    )
            fixed.append(item)
        return fixed

    def _text(self, rules: dict[str, Any], name: str) -> str:
        text = _FORMATS.get(rules.get("format", ""), name)
        least = rules.get("minLength", 0)
        if len(text) < least:
            text = (text or "x") * math.ceil(least / max(len(text), 1))
        text = text[: max(least, rules.get("maxLength", len(text)))]
        pattern = rules.get("pattern")
        if pattern is not None and not re.search(pattern, text):
            raise UnsupportedByProvider(
                f"a text that matches the pattern {pattern!r}",
                provider="fake",
                alternative="Script the reply, or give the schema an example",
            )
        return text


def _number(rules: dict[str, Any], kind: str, field: str) -> int | float:
    step = rules.get("multipleOf") or (1 if kind == "integer" else None)
    low, high = rules.get("minimum"), rules.get("maximum")
    above, below = rules.get("exclusiveMinimum"), rules.get("exclusiveMaximum")
    for value in _candidates(low, high, above, below, step):
        if kind == "integer":
            value = int(value)
        if (
            (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
            and (below is None or value < below)
        ):
            return value
    raise invalid(field, rules, "is a schema of a number that nothing satisfies")


def _candidates(
    low: float | None,
    high: float | None,
    above: float | None,
    below: float | None,
    step: float | None,
) -> list[float]:
    edges = [1, 0, *(edge for edge in (low, high, above, below) if edge is not None)]
    if low is None and above is not None and (high if high is not None else below) is not None:
        edges.append((above + (high if high is not None else below or 0)) / 2)
    if low is not None and below is not None:
        edges.append((low + below) / 2)
    if step is None:
        return [*edges, *(edge + shift for edge in edges for shift in (1, -1))]
    return [round(edge / step) * step + shift * step for edge in edges for shift in (0, 1, -1)]
