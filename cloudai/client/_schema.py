"""Structured output: a ``response_type`` made into a JSON Schema, and the answer into it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from cloudai.errors import ContentFiltered, ProviderError
from cloudai.formats.schemas import check
from cloudai.types import ChatReply, ChatRequest, Message, ResponseSchema, Usage
from cloudai.types._base import invalid, meeting

_WRAPPED: Final = "value"
"""The property that holds what is no object itself: providers want an object at the top."""


class Wanted(NamedTuple):
    """A ``response_type``: its schema, and how the answer's text becomes its value (raises
    ValueError where it does not)."""

    schema: ResponseSchema
    load: Callable[[str | bytes], Any]


_known: dict[Any, Wanted] = {}


def wanted(kind: Any) -> Wanted:
    """What a ``response_type`` asks for: a pydantic model, a dataclass, a TypedDict, a msgspec
    Struct, any other type (a list, a literal, an enum, a union, a number …), or a JSON Schema
    given as a dict. Kept for the next call.

    Raises InvalidRequest for what is none of these.
    """
    if isinstance(kind, ResponseSchema):
        return _by_schema(kind.schema, kind.name, strict=kind.strict)
    if isinstance(kind, dict):
        return _by_schema(kind, str(kind.get("title", "answer")))
    try:
        found = _known.get(kind)
    except TypeError:  # not hashable
        return _by_type(kind)
    if found is None:
        found = _by_type(kind)
        if len(_known) >= 256:  # a program that makes types up must not fill the memory
            _known.clear()
        _known[kind] = found
    return found


def response_schema(kind: Any) -> ResponseSchema:
    """The schema of a ``response_type``: see ``wanted``."""
    return wanted(kind).schema


def _by_schema(schema: dict[str, Any], name: str, *, strict: bool = True) -> Wanted:
    def load(text: str | bytes) -> Any:
        value = msgspec.json.decode(text)
        found = check.problem(value, schema)
        if found is None:
            return value
        value = check.without_nulls(value, schema)
        if check.problem(value, schema) is not None:
            raise ValueError(found)
        return value

    return _made(schema, name, load, strict=strict, closed=lambda given: given)


def _by_type(kind: Any) -> Wanted:
    schema, read = _types(kind)
    name = getattr(kind, "__name__", "answer") if inspect.isclass(kind) else "answer"

    def load(text: str | bytes) -> Any:
        try:
            return read(text)
        except ValueError:
            # Strict modes have the model write a null for each property that it leaves out.
            value = msgspec.json.decode(text)
            pruned = check.without_nulls(value, schema)
            if pruned == value:
                raise
            return read(msgspec.json.encode(pruned))

    return _made(schema, name, load, closed=_closed)


def _types(kind: Any) -> tuple[dict[str, Any], Callable[[str | bytes], Any]]:
    """The JSON Schema of a type, and how a text becomes its value."""
    if hasattr(kind, "model_json_schema"):
        return kind.model_json_schema(), kind.model_validate_json
    if not hasattr(kind, "__pydantic_core_schema__"):  # one of pydantic's dataclasses
        try:
            (top,), definitions = msgspec.json.schema_components(
                [kind], ref_template="#/$defs/{name}"
            )
            schema = {**top, "$defs": definitions} if definitions else top
            with meeting:
                return schema, msgspec.json.Decoder(kind).decode
        except TypeError as error:
            problem = error
            if "pydantic" not in sys.modules:
                raise _no_type(kind, error) from None
    else:
        problem = None
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(kind)
        return adapter.json_schema(), adapter.validate_json
    except PydanticUserError as error:
        raise _no_type(kind, problem or error) from None


def _no_type(kind: Any, error: Exception) -> Exception:
    return invalid(
        "response_type",
        kind,
        f"cannot be made into a JSON Schema ({error})",
        "Use a pydantic model, a dataclass, a TypedDict, or a JSON Schema.",
    )


def _made(
    schema: dict[str, Any],
    name: str,
    load: Callable[[str | bytes], Any],
    *,
    strict: bool = True,
    closed: Callable[[Any], Any],
) -> Wanted:
    top = schema
    if "$ref" in schema:
        # Providers want the object itself at the top, not a reference to it.
        target = check.resolved(schema, schema)
        top = {**target, **{key: schema[key] for key in ("$defs", "definitions") if key in schema}}
    if top.get("type") == "object" or (top.get("type") is None and "properties" in top):
        return Wanted(ResponseSchema(schema=closed(top), name=name, strict=strict), load)
    definitions = schema.get("$defs")
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    whole: dict[str, Any] = {
        "type": "object",
        "properties": {_WRAPPED: closed(inner)},
        "required": [_WRAPPED],
        "additionalProperties": False,
    }
    if definitions:
        whole["$defs"] = closed(definitions)

    def unwrapped(text: str | bytes) -> Any:
        return load(bytes(_unwrap(text).value))

    return Wanted(ResponseSchema(schema=whole, name=name, strict=strict), unwrapped)


class _Wrapper(msgspec.Struct):
    value: msgspec.Raw


_unwrap: Final = msgspec.json.Decoder(_Wrapper).decode


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
        return wanted(kind).load(reply.text)
    except ValueError as error:  # msgspec's and pydantic's errors are ValueErrors
        cut = reply.finish_reason == "length"
        raise ProviderError(
            f"the answer does not fit response_type: {_reason(error)}",
            provider=reply.provider,
            request_id=reply.request_id,
            hint="The answer was cut at max_tokens: raise it" if cut else None,
            reply=reply,
        ) from None


def _reason(error: Exception) -> str:
    """What is wrong, in a line: of pydantic's errors each field, of others the first line."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error).partition("\n")[0]
    found = [
        f"{'.'.join(map(str, one['loc'])) or 'the answer'}: {one['msg']}"
        for one in errors(include_url=False, include_context=False, include_input=False)
    ]
    return "; ".join(found[:5])


class Asked:
    """A question with a ``response_type``, which the model may be asked again.

    Attributes
    ----------
    request: what to send next.
    """

    def __init__(self, request: ChatRequest, kind: Any, repair: int) -> None:
        self.request = request
        self._kind = kind
        self._left = repair
        self._before: ChatReply | None = None

    def taken(self, reply: ChatReply) -> ChatReply | None:
        """The answer with its value; None where ``request`` is now to be sent. Raises as
        ``parse`` does when no repair is left, or would be of no use."""
        reply = _with_spent(reply, self._before)
        try:
            return replace(reply, parsed=parse(self._kind, reply))
        except ProviderError as error:
            if not self._left or reply.finish_reason == "length":
                raise
            self._left -= 1
            self._before = reply
            again = Message("user", f"{error.message}. Give the whole answer again, corrected.")
            said = (Message("assistant", reply.text),) if reply.text.strip() else ()
            self.request = replace(self.request, messages=(*self.request.messages, *said, again))
            return None


def _with_spent(reply: ChatReply, last: ChatReply | None) -> ChatReply:
    """The reply with what the one before it, and so all of them, has spent."""
    if last is None:
        return reply
    usage = Usage(
        **{
            name: getattr(reply.usage, name) + getattr(last.usage, name)
            for name in Usage.__struct_fields__
        }
    )
    cost = None if reply.cost is None or last.cost is None else reply.cost + last.cost
    return replace(reply, usage=usage, cost=cost)
