"""Whether a value keeps to a JSON Schema: of the answers to a schema that was given as a dict.

What the services' dialects drop is looked at here: bounds, lengths, patterns, unique items. Of
``format`` nothing is: it is an annotation (JSON Schema 2020-12, Validation, section 7).
"""

from __future__ import annotations

import re
from typing import Any, Final

_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def problem(value: Any, schema: Any) -> str | None:
    """What is wrong with the value, with its place; None where nothing is."""
    return _problem(value, schema, schema, "$")


def without_nulls(value: Any, schema: Any) -> Any:
    """The value without the nulls that stand for optional properties left out: strict modes
    have the model write each property."""
    return _without(value, schema, schema)


def resolved(schema: Any, root: Any) -> Any:
    """What a schema's reference leads to; words beside the reference count."""
    for _ in range(50):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        place: Any = root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            place = place.get(step, {}) if step else place
        schema = {**place, **{key: one for key, one in schema.items() if key != "$ref"}}
    return schema


def _fits(value: Any, schema: Any, root: Any) -> bool:
    return _problem(value, schema, root, "") is None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _KINDS.get(kind, object))


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _problem(value: Any, schema: Any, root: Any, where: str) -> str | None:
    schema = resolved(schema, root)
    if schema is False:
        return f"{where} is not allowed"
    if not isinstance(schema, dict):
        return None
    kinds = schema.get("type")
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not any(_is(value, kind) for kind in kinds):
            return f"{where} is {value!r}, not {' or '.join(kinds)}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where} is {value!r}, not {schema['const']!r}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{where} is {value!r}, not one of {schema['enum']}"
    for one in schema.get("allOf", ()):
        found = _problem(value, one, root, where)
        if found is not None:
            return found
    options = schema.get("anyOf")
    if options is not None and not any(_fits(value, one, root) for one in options):
        return f"{where} fits none of its types"
    options = schema.get("oneOf")
    if options is not None and sum(_fits(value, one, root) for one in options) != 1:
        return f"{where} does not fit exactly one of its types"
    if "not" in schema and _fits(value, schema["not"], root):
        return f"{where} is what it may not be"
    if "if" in schema:
        branch = "then" if _fits(value, schema["if"], root) else "else"
        found = _problem(value, schema.get(branch, True), root, where)
        if found is not None:
            return found
    if isinstance(value, dict):
        return _object(value, schema, root, where)
    if isinstance(value, list):
        return _array(value, schema, root, where)
    if isinstance(value, str):
        return _text(value, schema, where)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value, schema, where)
    return None


def _object(value: dict[str, Any], schema: dict[str, Any], root: Any, where: str) -> str | None:
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where}.{name} is missing"
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        return f"{where} has {len(value)} properties"
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    for name, inner in value.items():
        rules = [properties[name]] if name in properties else []
        rules += [rule for pattern, rule in patterns.items() if re.search(pattern, name)]
        for rule in rules or [schema.get("additionalProperties", True)]:
            found = _problem(inner, rule, root, f"{where}.{name}")
            if found is not None:
                return found
        found = _problem(name, schema.get("propertyNames", True), root, f"{where}: the name")
        if found is not None:
            return found
    return None


def _array(value: list[Any], schema: dict[str, Any], root: Any, where: str) -> str | None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{where} has {len(value)} items"
    fixed = schema.get("prefixItems", [])
    for index, one in enumerate(value):
        rule = fixed[index] if index < len(fixed) else schema.get("items", True)
        found = _problem(one, rule, root, f"{where}[{index}]")
        if found is not None:
            return found
    if schema.get("uniqueItems") and any(one in value[:at] for at, one in enumerate(value)):
        return f"{where} holds an item twice"
    if "contains" in schema and not any(_fits(one, schema["contains"], root) for one in value):
        return f"{where} does not hold what it has to"
    return None


def _text(value: str, schema: dict[str, Any], where: str) -> str | None:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return f"{where} has {len(value)} characters"
    pattern = schema.get("pattern")
    if pattern is not None and re.search(pattern, value) is None:
        return f"{where} is {value!r}, which does not match {pattern}"
    return None


def _number(value: float, schema: dict[str, Any], where: str) -> str | None:
    step = schema.get("multipleOf")
    if (
        value < schema.get("minimum", value)
        or value > schema.get("maximum", value)
        or value <= schema.get("exclusiveMinimum", value - 1)
        or value >= schema.get("exclusiveMaximum", value + 1)
    ):
        return f"{where} is {value}, out of its bounds"
    if step and abs(value / step - round(value / step)) > 1e-9:
        return f"{where} is {value}, no multiple of {step}"
    return None


def _without(value: Any, schema: Any, root: Any) -> Any:
    schema = resolved(schema, root)
    if not isinstance(schema, dict):
        return value
    for part in schema.get("allOf", ()):
        value = _without(value, part, root)
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    for option in options:
        pruned = _without(value, option, root)
        if _fits(pruned, option, root):
            return pruned
    if isinstance(value, dict):
        properties, required = schema.get("properties", {}), schema.get("required", ())
        made: dict[str, Any] = {}
        for name, inner in value.items():
            rule = properties.get(name, schema.get("additionalProperties", True))
            optional = name in properties and name not in required
            if inner is None and optional and not _fits(None, rule, root):
                continue
            made[name] = _without(inner, rule, root)
        return made
    if isinstance(value, list):
        fixed, rest = schema.get("prefixItems", []), schema.get("items", True)
        return [
            _without(one, fixed[index] if index < len(fixed) else rest, root)
            for index, one in enumerate(value)
        ]
    return value
