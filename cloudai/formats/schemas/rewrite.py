"""Writing a JSON Schema in a service's dialect.

Longer than other modules: one walk over a schema, whose rules ask one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from cloudai.formats.schemas.dialects import Dialect
from cloudai.formats.schemas.said import SAID
from cloudai.types._base import invalid

_encode: Final = msgspec.json.Encoder().encode

_LARGEST: Final = 5_000
"""Schemas within a schema. Beyond it, references are no longer written out."""

_STRUCTURE: Final = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "anyOf",
        "oneOf",
        "allOf",
        "enum",
        "const",
        "description",
        "title",
        "$ref",
        "$defs",
        "definitions",
        "propertyOrdering",
    }
)
# Say nothing about the value, or nothing that a model could use.
_SILENT: Final = frozenset(
    {
        "$schema",
        "$id",
        "$anchor",
        "$comment",
        "discriminator",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentMediaType",
        "contentEncoding",
        "contentSchema",
        "unevaluatedProperties",
        "unevaluatedItems",
    }
)
_LENGTH: Final = ("minItems", "maxItems")
_INNER: Final = frozenset({"not", "if", "then", "else", "contains", "propertyNames"})


class Fitted(NamedTuple):
    """A schema in a dialect.

    Parameters
    ----------
    schema: written as the dialect has it; of no use where there is a loss.
    loss: what the dialect cannot say, in words; None where it says all that matters.
    """

    schema: dict[str, Any]
    loss: str | None


_fitted: dict[tuple[str, bytes], Fitted] = {}


def fit(schema: dict[str, Any], dialect: Dialect, field: str = "response_schema") -> Fitted:
    """The schema in a dialect. Not to be changed: it is kept for the next call.

    Raises InvalidRequest naming ``field`` for a schema that is no object at the top, or that
    refers to nothing.
    """
    try:
        key = dialect.name, _encode(schema)
    except TypeError as error:
        raise invalid(field, schema, f"is not JSON ({error})") from None
    found = _fitted.get(key)
    if found is None:
        found = _fit(schema, dialect, field)
        if len(_fitted) >= 512:  # a program that makes schemas up must not fill the memory
            _fitted.clear()
        _fitted[key] = found
    return found


def _fit(schema: dict[str, Any], dialect: Dialect, field: str) -> Fitted:
    try:
        made = _Writer(schema, dialect, field, written_out=True)
        return made.whole()
    except _TooLarge:
        made = _Writer(schema, dialect, field, written_out=False)
        if not dialect.refs:
            made.lose("references to this many schemas")
        return made.whole()


class _TooLarge(Exception):
    pass


class _Writer:
    def __init__(
        self, root: dict[str, Any], dialect: Dialect, field: str, *, written_out: bool
    ) -> None:
        self.root = root
        self.dialect = dialect
        self.field = field
        self.loss: str | None = None
        self._written_out = written_out
        self._cyclic: dict[str, bool] = {}
        self._names: dict[str, str] = {}  # by reference
        self._definitions: dict[str, Any] = {}
        self._made = self._properties = self._optional = self._unions = 0

    def lose(self, what: str) -> None:
        self.loss = self.loss or what

    def whole(self) -> Fitted:
        top = self.root
        for _ in range(10):
            if "$ref" not in top:
                break
            top = {**self._target(top["$ref"]), **{k: v for k, v in top.items() if k != "$ref"}}
        made = self._schema(top, 1)
        if self.dialect.top and made.get("type") != "object":
            raise invalid(
                self.field, self.root, "is not an object at the top", "Put it into an object."
            )
        if self._definitions:
            made["$defs"] = self._definitions
        limits = self.dialect
        for count, most, what in (
            (self._properties, limits.properties, "properties"),
            (self._optional, limits.optional, "optional properties"),
            (self._unions, limits.unions, "properties of several types"),
        ):
            if most is not None and count > most:
                self.lose(f"{count} {what}, where {most} are the most")
        return Fitted(made, self.loss)

    def _schema(self, given: Any, level: int) -> dict[str, Any]:
        self._made += 1
        if self._made > _LARGEST and self._written_out:
            raise _TooLarge
        if not isinstance(given, dict):  # True: anything
            given = {}
        node = self._merged(given)
        if "$ref" in node:
            return self._reference(node)
        made: dict[str, Any] = {}
        notes: list[str] = []
        if self.dialect.keywords is None and "title" in node:
            made["title"] = node["title"]
        if "description" in node:
            made["description"] = node["description"]
        options = node.get("anyOf") or node.get("oneOf")
        values = [node["const"]] if "const" in node else node.get("enum")
        kind = node.get("type") or _kind(node, values)
        if kind is not None:
            made["type"] = kind
        elif options is None and not self.dialect.untyped:
            self.lose("a value of any type")
        if values is not None:
            self._enum(made, notes, values)
        if options is not None:
            self._unions += 1
            made["anyOf"] = [self._schema(option, level) for option in options]
            if isinstance(made.get("type"), str) and all("type" in one for one in made["anyOf"]):
                del made["type"]  # said by each
        elif isinstance(kind, list):
            self._unions += 1
        kinds = kind if isinstance(kind, list) else [kind]
        if "object" in kinds:
            self._object(made, node, notes, level)
        if "array" in kinds:
            self._array(made, node, notes, level)
        told = _LENGTH if "prefixItems" in node and not self.dialect.tuples else ()
        for key, value in node.items():
            if key not in _STRUCTURE and key not in told:
                self._constraint(made, notes, key, value)
        if notes:
            said = ", ".join(notes)
            about = made.get("description")
            made["description"] = f"{about} ({said})" if about else said
        return made

    # ------------------------------------------------------------ references

    def _target(self, ref: Any) -> dict[str, Any]:
        place: Any = self.root
        for step in str(ref).removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if step and (not isinstance(place, dict) or step not in place):
                raise invalid(self.field, ref, "is a $ref to nothing in this schema")
            place = place[step] if step else place
        return place if isinstance(place, dict) else {}

    def _merged(self, node: dict[str, Any]) -> dict[str, Any]:
        """The node with the references that end written out, and ``allOf`` made one."""
        for _ in range(50):
            ref = node.get("$ref")
            if ref is not None and self._written_out and not self._returns(ref):
                rest = {key: value for key, value in node.items() if key != "$ref"}
                node = {**self._target(ref), **rest}
            elif "allOf" in node:
                node = self._together(node)
            else:
                break
        return node

    def _together(self, node: dict[str, Any]) -> dict[str, Any]:
        made = {key: value for key, value in node.items() if key != "allOf"}
        for part in node["allOf"]:
            whole = part if isinstance(part, dict) else {}
            if "$ref" in whole and len(node["allOf"]) > 1:
                whole = {**self._target(whole["$ref"]), **whole}
                del whole["$ref"]
            properties = {**whole.get("properties", {}), **made.get("properties", {})}
            required = [*made.get("required", ()), *whole.get("required", ())]
            both = whole.keys() & made.keys() - {"properties", "required", "title", "description"}
            clash = [key for key in both if whole[key] != made[key]]
            if clash:
                self.lose(f"allOf of parts that differ in {clash[0]}")
            made = {**whole, **made}
            if properties:
                made["properties"] = properties
                made["required"] = list(dict.fromkeys(required))
        return made

    def _returns(self, ref: str) -> bool:
        """Whether what it refers to comes back to itself."""
        found = self._cyclic.get(ref)
        if found is None:
            seen: set[str] = set()
            todo = list(_references(self._target(ref)))
            while todo:
                other = todo.pop()
                if other not in seen:
                    seen.add(other)
                    todo.extend(_references(self._target(other)))
            found = self._cyclic[ref] = ref in seen
        return found

    def _reference(self, node: dict[str, Any]) -> dict[str, Any]:
        ref: str = node["$ref"]
        name = ref.rpartition("/")[2].lstrip("#") or "root"
        about = node.get("description")
        if not self.dialect.recursive and self._returns(ref):
            self.lose(f"a schema that refers to itself ({name})")
        if not self.dialect.refs:
            target = self._target(ref)
            kind = {"type": target["type"]} if isinstance(target.get("type"), str) else {}
            return {**kind, "description": f"{about or ''} Again a {name}, as above.".strip()}
        if ref not in self._names:
            while name in self._definitions:
                name += "_"
            self._names[ref] = name
            self._definitions[name] = {}  # known while it is being written
            self._definitions[name] = self._schema(self._target(ref), 2)
        made: dict[str, Any] = {"$ref": f"#/$defs/{self._names[ref]}"}
        # Nothing may stand beside a reference.
        return {"anyOf": [made], "description": about} if about else made

    # ------------------------------------------------------------ kinds

    def _enum(self, made: dict[str, Any], notes: list[str], values: list[Any]) -> None:
        kinds = {_type(value) for value in values}
        if kinds <= self.dialect.enum:
            made["enum"] = values
        elif kinds - {"null"} <= self.dialect.enum and len(kinds) == 2:
            (kind,) = kinds - {"null"}
            listed = [value for value in values if value is not None]
            made.pop("type", None)
            made["anyOf"] = [{"type": kind, "enum": listed}, {"type": "null"}]
        else:
            notes.append(f"one of {_text(values)}")

    def _object(
        self, made: dict[str, Any], node: dict[str, Any], notes: list[str], level: int
    ) -> None:
        dialect = self.dialect
        if dialect.levels is not None and level > dialect.levels:
            self.lose(f"more than {dialect.levels} levels")
        given: dict[str, Any] = node.get("properties") or {}
        required = [name for name in node.get("required") or () if name in given]
        properties: dict[str, Any] = {}
        for name, inner in given.items():
            if inner is False:
                continue
            self._properties += 1
            one = self._schema(inner, level + 1)
            if name not in required:
                self._optional += 1
                if dialect.complete and not _nullable(one):
                    one = _or_null(one)
            properties[name] = one
        if dialect.complete:
            required = list(properties)
        elif dialect.recursive == "optional":
            for name in [name for name in required if _refers(properties[name])]:
                required.remove(name)
                one = properties[name]
                if "$ref" in one:
                    one = {"anyOf": [one]}
                about = one.get("description")
                properties[name] = {
                    **one,
                    "description": f"{about} (always given)" if about else "always given",
                }
        if properties or "properties" in node:
            made["properties"] = properties
            if required or dialect.complete or "required" in node:
                made["required"] = required
        rest = node.get("additionalProperties")
        if dialect.closed:
            # One with names of its own is closed; one without is a map.
            if not properties and (rest or "properties" not in node or "patternProperties" in node):
                self.lose("an object of any names")
            made["additionalProperties"] = False
        elif isinstance(rest, dict):
            made["additionalProperties"] = self._schema(rest, level + 1) if dialect.maps else True
            if not dialect.maps:
                notes.append(f"each value: {_text(_word(rest))}")
        elif rest is not None:
            made["additionalProperties"] = rest

    def _array(
        self, made: dict[str, Any], node: dict[str, Any], notes: list[str], level: int
    ) -> None:
        fixed: list[Any] | None = node.get("prefixItems")
        items = node.get("items")
        if fixed is None:
            if items is None and not self.dialect.untyped:
                self.lose("a list of anything")
            made["items"] = self._schema(items, level)
            return
        inner = [self._schema(one, level) for one in fixed]
        if self.dialect.tuples:
            made["prefixItems"] = inner
            if items is False:
                made["maxItems"] = node.get("maxItems", len(inner))
            elif isinstance(items, dict):
                made["items"] = self._schema(items, level)
            return
        kinds = list({_encode(one): one for one in inner}.values())
        if isinstance(items, dict):
            kinds.append(self._schema(items, level))
        made["items"] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        self._unions += len(kinds) > 1
        words = ", ".join(_text(_word(one)) for one in inner)
        notes.append(f"{len(inner)} items in this order: {words}")

    def _constraint(self, made: dict[str, Any], notes: list[str], key: str, value: Any) -> None:
        dialect = self.dialect
        kept = dialect.keywords is None or key in dialect.keywords
        if key in _INNER and kept:
            value = self._schema(value, 2)
        elif key == "patternProperties" and kept:
            value = {name: self._schema(inner, 2) for name, inner in value.items()}
        elif key == "discriminator":
            kept = False
        elif key == "format" and dialect.keywords is not None:
            kept = value in dialect.formats
        elif key == "minItems" and kept and dialect.min_items is not None:
            kept = value <= dialect.min_items
        if kept:
            made[key] = value
        elif key not in _SILENT and value is not None and value is not False:
            notes.append(SAID.get(key, f"{key} {{}}").format(_text(value)))


def _word(schema: dict[str, Any]) -> Any:
    """A schema in a word, where it has one."""
    return schema.get("type") or schema.get("title") or schema


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            elif key not in {"$defs", "definitions", "enum", "const", "default", "examples"}:
                yield from _references(value)
    elif isinstance(node, list):
        for one in node:
            yield from _references(one)


def _refers(schema: dict[str, Any]) -> bool:
    """Whether a reference stands in it where no optional property is passed."""
    if "$ref" in schema:
        return True
    inner: list[Any] = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    inner += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    properties = schema.get("properties", {})
    inner += [properties[name] for name in schema.get("required", ())]
    return any(isinstance(one, dict) and _refers(one) for one in inner)


_TYPES: Final[dict[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}


def _type(value: Any) -> str:
    return _TYPES.get(type(value), "object")


def _kind(node: dict[str, Any], values: list[Any] | None) -> Any:
    """The type that a node without one means."""
    if values is not None:
        kinds = list(dict.fromkeys(map(_type, values)))
        return kinds[0] if len(kinds) == 1 else kinds
    if "properties" in node or "additionalProperties" in node or "patternProperties" in node:
        return "object"
    return "array" if "items" in node or "prefixItems" in node else None


def _nullable(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return True
    return any(_nullable(one) for one in schema.get("anyOf", ()))


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema and "type" not in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()
