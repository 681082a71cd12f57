"""The limits of AWS's published service models: lengths, counts, ranges, patterns, enums.

botocore checks types and what is required, and leaves the rest to the service; here all of it is
checked before anything is sent, so that ``plan`` knows offline what AWS would refuse. The models
are those that come with botocore, so their date is its version's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One limit that a request breaks: where, and what is wrong."""

    path: str
    text: str


def check(shape: Any, value: Any, path: str = "") -> Iterator[Problem]:
    """What is wrong with a value, by a shape of a botocore service model."""
    kind = shape.type_name
    if kind == "structure":
        yield from _structure(shape, value, path)
    elif kind == "list":
        if not isinstance(value, (list, tuple)):
            yield Problem(path, "is not a list")
            return
        yield from _size(shape, len(value), path, "entries")
        for index, item in enumerate(value):
            yield from check(shape.member, item, f"{path}[{index}]")
    elif kind == "map":
        if not isinstance(value, Mapping):
            yield Problem(path, "is not a map")
            return
        yield from _size(shape, len(value), path, "entries")
        for key, item in value.items():
            yield from check(shape.key, key, f"{path}.{key} (its name)")
            yield from check(shape.value, item, f"{path}.{key}")
    elif kind == "string":
        yield from _string(shape, value, path)
    elif kind in {"integer", "long", "float", "double"}:
        yield from _number(shape, value, path, kind)
    elif kind == "boolean" and not isinstance(value, bool):
        yield Problem(path, "is not true or false")


def _structure(shape: Any, value: Any, path: str) -> Iterator[Problem]:
    if getattr(shape, "is_document_type", False):
        return
    if not isinstance(value, Mapping):
        yield Problem(path, "is not an object")
        return
    dot = f"{path}." if path else ""
    for name in shape.required_members:
        if name not in value:
            yield Problem(f"{dot}{name}", "is required and missing")
    if getattr(shape, "is_tagged_union", False) and len(value) != 1:
        yield Problem(path, f"has {len(value)} members where exactly one has to be")
    for name, item in value.items():
        member = shape.members.get(name)
        if member is None:
            yield Problem(f"{dot}{name}", f"is no field of {shape.name}")
        elif item is not None:
            yield from check(member, item, f"{dot}{name}")


def _string(shape: Any, value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield Problem(path, f"is a {type(value).__name__}, not a text")
        return
    yield from _size(shape, len(value), path, "characters")
    choices = shape.metadata.get("enum")
    if choices and value not in choices:
        yield Problem(path, f"{value!r} is not one that {shape.name} has")
    pattern = _pattern(shape.metadata.get("pattern", ""))
    if pattern is not None and not pattern.fullmatch(value):
        yield Problem(path, f"{value[:80]!r} does not match {pattern.pattern}")


def _number(shape: Any, value: Any, path: str, kind: str) -> Iterator[Problem]:
    whole = kind in {"integer", "long"}
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        yield Problem(path, f"is a {type(value).__name__}, not a number")
        return
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and value < low:
        yield Problem(path, f"{value} is below {low}")
    if high is not None and value > high:
        yield Problem(path, f"{value} is above {high}")


def _size(shape: Any, size: int, path: str, what: str) -> Iterator[Problem]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield Problem(path, f"has {size} {what}, fewer than {low}")
    if high is not None and size > high:
        yield Problem(path, f"has {size} {what}, more than {high}")


_JAVA = {
    r"\p{L}": r"\w",
    r"\p{N}": r"\d",
    r"\p{Z}": r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str] | None:
    r"""The pattern, where Python can read it. Java's ``\p{L}`` and its like are read as what comes
    nearest and refuses no more."""
    if not text or text == ".*":
        return None
    for java, ours in _JAVA.items():
        text = text.replace(java, ours)
    try:
        return re.compile(text, re.DOTALL)
    except re.error:
        return None
