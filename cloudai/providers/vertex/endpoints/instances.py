"""Instances against the schema that a Model names (predictSchemata.instanceSchemaUri): OpenAPI 3
in YAML or JSON. Only what such schemas say of values is checked; unknown words are passed over."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from cloudai.errors import MissingExtra
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.types import JSON
from cloudai.types._base import invalid

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def parse(text: bytes) -> dict[str, Any]:
    """A schema's file. Raises InvalidRequest for what is none."""
    try:
        found: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found = _yaml(text)
    if not isinstance(found, dict):
        raise invalid("instanceSchemaUri", None, "is not a schema")
    return found  # pyright: ignore[reportUnknownVariableType]


def _yaml(text: bytes) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtra("pyyaml", extra="vertex", provider=PROVIDER) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise invalid("instanceSchemaUri", None, f"is not YAML ({error})") from None


def check(schema: dict[str, Any], instances: tuple[JSON, ...]) -> None:
    """Raises InvalidRequest for the first instance that the schema does not allow."""
    for index, instance in enumerate(instances):
        _check(schema, instance, f"inputs[{index}]")


def _check(schema: dict[str, Any], value: JSON, where: str) -> None:
    if value is None:
        if schema.get("nullable") or "type" not in schema:
            return
        raise invalid(where, value, "is null, which the model's schema does not allow")
    kind = schema.get("type")
    types = _KINDS.get(kind or "")
    if types is not None:
        wrong = isinstance(value, bool) and kind != "boolean"
        if wrong or not isinstance(value, types):
            raise invalid(where, value, f"is not of type {kind}, as the model's schema has it")
    if "enum" in schema and value not in schema["enum"]:
        raise invalid(where, value, f"is not one of {schema['enum']}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            raise invalid(where, value, f"is below {schema['minimum']}")
        if "maximum" in schema and value > schema["maximum"]:
            raise invalid(where, value, f"is above {schema['maximum']}")
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            raise invalid(where, value, f"does not match {schema['pattern']!r}")
        if len(value) > schema.get("maxLength", len(value)):
            raise invalid(where, value, f"has more than {schema['maxLength']} characters")
    if isinstance(value, dict):
        _check_object(schema, value, where)
    elif isinstance(value, (list, tuple)):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            raise invalid(where, value, "has another number of items than the schema allows")
        if isinstance(schema.get("items"), dict):
            for index, item in enumerate(value):
                _check(schema["items"], item, f"{where}[{index}]")


def _check_object(schema: dict[str, Any], value: dict[str, JSON], where: str) -> None:
    for name in schema.get("required", ()):
        if name not in value:
            raise invalid(where, value, f"lacks {name!r}, which the model's schema requires")
    properties = schema.get("properties", {})
    for name, inner in value.items():
        if name in properties:
            _check(properties[name], inner, f"{where}.{name}")
        elif schema.get("additionalProperties") is False:
            raise invalid(where, value, f"has {name!r}, which is not in the model's schema")
