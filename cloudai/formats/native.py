"""``native``: what the user adds to a request in the vendor's own words, put in last."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cloudai.types import Violation


def merge(body: dict[str, Any], native: dict[str, Any]) -> dict[str, Any]:
    """``body`` with ``native`` over it: tables are merged, tools are added to those that are
    there, everything else replaces."""
    for key, value in native.items():
        old = body.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            body[key] = merge({**old}, value)  # pyright: ignore[reportUnknownArgumentType]
        elif key == "tools" and isinstance(old, list) and isinstance(value, list):
            body[key] = [*old, *value]  # pyright: ignore[reportUnknownVariableType]
        else:
            body[key] = value
    return body


def unread(
    provider: str, native: Mapping[str, Any], nests: Mapping[str, Collection[str]]
) -> list[Violation]:
    """What ``native`` has outside of the places that are read: it would be dropped in silence.

    Parameters
    ----------
    nests: the keys that are read → the names inside each, as far as they are known, for the
        mend.
    """
    found: list[Violation] = []
    for name in native:
        if name in nests:
            continue
        homes = [nest for nest, members in nests.items() if name in members]
        written = f'native={{"{provider}": {{"{homes[0]}": {{"{name}": …}}}}}}' if homes else ""
        mend = f"Write {written}." if homes else f"It takes {', '.join(sorted(nests))}."
        found.append(Violation(f"native.{provider}.{name}", "is not known here.", mend))
    return found
