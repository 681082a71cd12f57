"""What users offer as tools, made into ``Tool``s."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, get_type_hints

import msgspec

from cloudai.errors import InvalidRequest
from cloudai.types import Tool
from cloudai.types._base import invalid

ToolLike: TypeAlias = "Tool | Callable[..., Any] | Mapping[str, Any]"


def tools(given: Sequence[ToolLike]) -> tuple[Tool, ...]:
    """Tools, functions and OpenAI's dicts as ``Tool``s."""
    return tuple(_tool(item, index) for index, item in enumerate(given))


def _tool(item: ToolLike, index: int) -> Tool:
    if isinstance(item, Tool):
        return item
    if isinstance(item, Mapping):
        about: Any = item.get("function", item)
        if "name" not in about:
            raise invalid(f"tools[{index}]", item, "has no name")
        return Tool(
            name=about["name"],
            description=about.get("description", ""),
            parameters=about.get("parameters") or {"type": "object", "properties": {}},
            strict=bool(about.get("strict", False)),
        )
    if callable(item):
        return tool(item)
    raise invalid(f"tools[{index}]", item, "is not a Tool, a function or a dict")


def tool(function: Callable[..., Any]) -> Tool:
    """A ``Tool`` from a function, a ``functools.partial`` or a callable object: its name, its
    docstring's first paragraph, and a JSON Schema from its type hints, pydantic's models among
    them. What a parameter means is told by a text in ``Annotated`` or by the docstring's
    ``Args:``.

    Raises InvalidRequest for a parameter without a type hint, of a type that has no JSON Schema,
    or that stands for any number of them (``*names``).
    """
    given, bound = function, set[str]()
    while isinstance(function, functools.partial):
        bound |= function.keywords.keys()
        function = function.func
    code = function if hasattr(function, "__name__") else type(function).__call__
    name = getattr(function, "__name__", type(function).__name__)
    try:
        hints = get_type_hints(code, include_extras=True)
    except NameError as error:
        raise invalid(f"tools[{name}]", given, f"has an unknown type hint ({error})") from None
    doc = inspect.cleandoc(code.__doc__ or function.__doc__ or "")
    texts = _arguments_told(doc)
    properties: dict[str, Any] = {}
    required: list[str] = []
    definitions: dict[str, Any] = {}
    for one, parameter in inspect.signature(given).parameters.items():
        field = f"tools[{name}].{one}"
        if one in bound:
            continue
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise invalid(
                field, str(parameter), "stands for any number of arguments", "Take a list."
            )
        if one not in hints:
            raise invalid(field, parameter, "has no type hint", "Add one.")
        schema = _schema_of(hints[one], field, definitions)
        text = _annotated_text(hints[one]) or texts.get(one)
        if text and "description" not in schema:
            schema = {**schema, "description": text}
        properties[one] = schema
        if parameter.default is inspect.Parameter.empty:
            required.append(one)
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    if definitions:
        parameters["$defs"] = definitions
    return Tool(name=name, description=doc.partition("\n\n")[0], parameters=parameters)


def _schema_of(hint: Any, field: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; the definitions that it refers to are put among the others."""
    try:
        (schema,), found = msgspec.json.schema_components([hint], ref_template="#/$defs/{name}")
        definitions.update(found)
        return schema
    except TypeError as error:
        if "pydantic" not in sys.modules:  # then the type is none of its
            raise _no_schema(hint, field, error) from None
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        schema = TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise _no_schema(hint, field, error) from None
    definitions.update(schema.pop("$defs", {}))
    return schema


def _no_schema(hint: Any, field: str, error: Exception) -> InvalidRequest:
    return invalid(
        field,
        hint,
        f"has no JSON Schema ({str(error).splitlines()[0]})",
        "Use a builtin type, a dataclass, a TypedDict or a pydantic model.",
    )


def _annotated_text(hint: Any) -> str | None:
    """The text beside the type in ``Annotated``: plain, typing_extensions' Doc, or pydantic's
    Field."""
    for about in getattr(hint, "__metadata__", ()):
        text = about if isinstance(about, str) else None
        text = text or getattr(about, "documentation", None) or getattr(about, "description", None)
        if isinstance(text, str):
            return text
    return None


_ARGS: Final = re.compile(r"^(?:Args|Arguments|Parameters):\s*$(.*?)(?=^\S|\Z)", re.M | re.S)
_ARG: Final = re.compile(r"^( +)\*{0,2}(\w+)[^:\n]*:(.*?)(?=^\1\S|\Z)", re.M | re.S)


def _arguments_told(doc: str) -> dict[str, str]:
    """What a docstring's ``Args:`` says of each parameter (Google's style guide, 3.8.3)."""
    found = _ARGS.search(doc)
    if found is None:
        return {}
    return {one[2]: " ".join(one[3].split()) for one in _ARG.finditer(found[1])}
