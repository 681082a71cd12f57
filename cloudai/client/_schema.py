"""Structured output: a ``response_type`` made into a JSON Schema, and the answer into it."""

from __future__ import annotations

from typing import Any

import msgspec

from cloudai.errors import ContentFiltered, ProviderError
from cloudai.types import ChatReply, ResponseSchema
from cloudai.types._base import invalid


def response_schema(kind: Any) -> ResponseSchema:
    """The schema of a pydantic model, a dataclass, a TypedDict, a msgspec Struct, or a JSON
    Schema given as a dict."""
    if isinstance(kind, ResponseSchema):
        return kind
    if isinstance(kind, dict):
        return ResponseSchema(schema=kind, name=str(kind.get("title", "answer")))
    if hasattr(kind, "model_json_schema"):
        schema = kind.model_json_schema()
    else:
        try:
            (top,), definitions = msgspec.json.schema_components(
                [kind], ref_template="#/$defs/{name}"
            )
        except TypeError as error:
            raise invalid(
                "response_type",
                kind,
                f"cannot be made into a JSON Schema ({error})",
                "Use a pydantic model, a dataclass, a TypedDict, or a JSON Schema.",
            ) from None
        schema = _inlined(top, definitions)
    if schema.get("type") != "object":
        raise invalid("response_type", kind, "is not an object", "Wrap it in a dataclass.")
    return ResponseSchema(schema=_closed(schema), name=getattr(kind, "__name__", "answer"))


def _inlined(top: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    # Providers want the object itself at the top, not a reference to it.
    name = top.get("$ref", "").rpartition("/")[2]
    schema = dict(definitions[name]) if name else dict(top)
    rest = {key: value for key, value in definitions.items() if key != name}
    if name and f'"#/$defs/{name}"' in msgspec.json.encode(definitions).decode():
        rest = definitions  # it refers to itself
    if rest:
        schema["$defs"] = rest
    return schema


def _closed(schema: Any) -> Any:
    """The schema with every object closed to further properties, as strict modes demand."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    if made.get("type") == "object" and "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def parse(kind: Any, reply: ChatReply) -> Any:
    """The answer as a value of ``kind``; None where the model called tools instead. Raises
    ContentFiltered for an answer that was withheld, and ProviderError for one that does not fit,
    with the reason, and with a word on max_tokens when the answer was cut. Both keep the answer
    in ``reply``."""
    if reply.tool_calls and not reply.text:
        return None
    if reply.finish_reason == "content_filter":
        raise ContentFiltered(
            "the answer was refused or withheld, so there is nothing of response_type",
            provider=reply.provider,
            request_id=reply.request_id,
            hint="What came is in .reply",
            reply=reply,
        )
    try:
        if hasattr(kind, "model_validate_json"):
            return kind.model_validate_json(reply.text)
        if isinstance(kind, (dict, ResponseSchema)):
            return msgspec.json.decode(reply.text)
        return msgspec.json.decode(reply.text, type=kind)
    except ValueError as error:  # msgspec's and pydantic's errors are ValueErrors
        cut = reply.finish_reason == "length"
        raise ProviderError(
            f"the answer does not fit response_type: {str(error).splitlines()[0]}",
            provider=reply.provider,
            request_id=reply.request_id,
            hint="The answer was cut at max_tokens: raise it" if cut else None,
            reply=reply,
        ) from None
