"""The dialects of JSON Schema that the services speak, a row each.

``rewrite.fit`` writes a schema in one of them. What a dialect has no word for is said in the
description, and checked when the answer is read: by the type that was asked for, or by ``check``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_FORMATS: Final = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"]
)


class Dialect(NamedTuple):
    """What a service takes.

    Parameters
    ----------
    name: for errors.
    keywords: constraints that are kept; structure (``type``, ``properties``, ``items``, ``anyOf``,
        ``enum``, ``description`` …) is known to all. None keeps everything as it is.
    formats: of texts that are kept.
    enum: types of the values that an ``enum`` may list.
    top: whether the schema has to be an object at the top.
    refs: False where no ``$defs`` may stand at the top. What refers to itself then ends in an
        object of any content.
    closed: every object has to be closed, so that a free map cannot be said.
    complete: every property has to be required; an optional one may then be null.
    recursive: whether a schema may refer to itself; ``"optional"``: out of optional properties.
    untyped: whether a value of any type can be said.
    maps: False where ``additionalProperties`` has to be true or false.
    tuples: whether ``prefixItems`` is known.
    min_items: the largest ``minItems``; None is any.
    levels, properties, optional, unions: how many there may be in all; None is any number.
    """

    name: str
    keywords: frozenset[str] | None = None
    formats: frozenset[str] = frozenset()
    enum: frozenset[str] = frozenset({"string", "number", "integer", "boolean", "null"})
    top: bool = True
    refs: bool = True
    closed: bool = False
    complete: bool = False
    recursive: bool | str = True
    untyped: bool = True
    maps: bool = True
    tuples: bool = True
    min_items: int | None = None
    levels: int | None = None
    properties: int | None = None
    optional: int | None = None
    unions: int | None = None


# Bounds, lengths, patterns and formats: OpenAI itself takes some by now, Azure's page still
# refuses them all ("Structured outputs", Azure OpenAI, 2025-12-06: five levels, 100 properties).
# What both take is the least.
OPENAI_STRICT: Final = Dialect(
    "OpenAI's strict mode",
    keywords=frozenset(),
    closed=True,
    complete=True,
    untyped=False,
    tuples=False,
    levels=5,
    properties=100,
)

# "Get validated JSON results from models" (Amazon Bedrock user guide, read 2026-11): bounds,
# lengths, maxItems, minItems above 1, free maps and recursion end in a 400. The numbers of
# optional and of union-typed properties: Anthropic's page on structured outputs, read 2026-11.
BEDROCK_STRICT: Final = Dialect(
    "Bedrock's structured output",
    keywords=frozenset({"minItems"}),
    formats=_FORMATS,
    closed=True,
    recursive=False,
    untyped=False,
    tuples=False,
    min_items=1,
    optional=24,
    unions=16,
)

# google-genai 2.34, ``GenerateContentConfig.response_json_schema``: the words that it knows, and
# that cycles are unrolled out of properties that are not required.
GEMINI: Final = Dialect(
    "Gemini",
    keywords=frozenset({"minItems", "maxItems", "minimum", "maximum"}),
    formats=frozenset({"date-time", "date", "time"}),
    enum=frozenset({"string", "number", "integer"}),
    recursive="optional",
)

# Tools that the model is guided by and not held to.
PLAIN: Final = Dialect("a tool")
# Nova refuses ``$defs`` at the top (langchain-aws#422), gpt-oss never sees them; some refuse a
# schema in additionalProperties (opensre#2404, 2026-05-22).
PLAIN_INLINE: Final = Dialect("a tool of this model", refs=False, maps=False)

# llguidance 1.9. It has no uniqueItems, propertyNames and few formats; the answer's reader checks
# them. ``not``, ``if`` and ``contains`` it refuses by itself: they could not be made good later.
GRAMMAR: Final = Dialect(
    "llguidance",
    top=False,
    keywords=frozenset(
        {
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "pattern",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "patternProperties",
            "not",
            "if",
            "then",
            "else",
            "contains",
        }
    ),
    formats=_FORMATS,
)
