"""What a dialect has no word for, said in a description; and heard there again, as a model does
that reads it (the emulated clouds' answers keep to it)."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

SAID: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching the regular expression {}",
    "format": "format {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "uniqueItems": "no item twice",
    "default": "{} by default",
    "examples": "such as {}",
}

# The longer ones first: "at least 2 items" is no minimum.
_HEARD: Final = [
    (key, re.compile(re.escape(words).replace(re.escape("{}"), "(.+)")))
    for key, words in sorted(SAID.items(), key=lambda one: -len(one[1]))
]

_ORDER: Final = re.compile(r"(\d+) items in this order: ([a-z]+(?:, [a-z]+)*)")


def heard(description: str) -> dict[str, Any]:
    """The keywords that a description tells of: all of it, or what stands in brackets at its
    end."""
    found: dict[str, Any] = {}
    told = re.search(r"\(([^()]+)\)\Z", description)
    said = told[1] if told else description
    if (listed := _ORDER.fullmatch(said)) is not None:
        kinds = listed[2].split(", ")
        found |= {"minItems": int(listed[1]), "prefixItems": [{"type": kind} for kind in kinds]}
    for note in said.split(", "):
        for key, words in _HEARD:
            if (value := words.fullmatch(note)) is not None:
                found[key] = _value(value[1]) if value.groups() else True
                break
    return found


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
