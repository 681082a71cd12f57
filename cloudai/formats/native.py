"""``native``: what the user adds to a request in the vendor's own words, put in last."""

from __future__ import annotations

from typing import Any


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
