"""``native``: what the user adds in the vendor's own words, merged in last."""

from __future__ import annotations

from typing import Any


def merge(body: dict[str, Any], native: dict[str, Any]) -> dict[str, Any]:
    """``body`` with ``native`` over it: tables are merged, everything else replaces."""
    for key, value in native.items():
        old = body.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            body[key] = merge({**old}, value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            body[key] = value
    return body
