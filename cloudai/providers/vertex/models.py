"""Gemini's models on Vertex AI: prices and ends. What their families take: ``families``.

Prices are list prices, US dollars for a million tokens. Where the sources differ (Gemini 3.6, 3.7
and 3.8 Flash, Gemini 4 Argon: by a factor of two) none is given; ``prices`` of a profile give it.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

from cloudai._core.models import Model, Price, Table

_MAP: Final = "litellm 1.110.2's price map and genai-prices 0.2.3, of Vertex AI's price page"
_ENDS: Final = f"{_MAP}; Google's lifecycle page by litellm"
_DIFFER: Final = "litellm 1.110.2 and genai-prices 0.2.3 differ on the price"
_PAGE: Final = "Vertex AI's price page"
_GEMINI_25: Final = datetime.date(2026, 10, 20)


def _versions(rest: str) -> bool:
    # A version or date follows the name; image, live and audio models have prices of their own.
    return not rest or (rest[0] == "-" and re.search("image|live|audio|tts|lite", rest) is None)


TABLE: Final = Table(
    "vertex",
    [
        Model(
            "gemini-2.5-pro", Price(1.25, 10, 0.125, above=200_000, long=(2.5, 15, 0.25)),
            _GEMINI_25, _ENDS, "2026-11",
        ),
        Model("gemini-2.5-flash", Price(0.3, 2.5, 0.03), _GEMINI_25, _ENDS, "2026-11"),
        Model("gemini-2.5-flash-lite", Price(0.1, 0.4, 0.01), _GEMINI_25, _ENDS, "2026-11"),
        Model(
            "gemini-3-pro", Price(2, 12, 0.2, above=200_000, long=(4, 18, 0.4)), None, _PAGE,
            "2025-11",
        ),
        Model("gemini-3-flash", Price(0.5, 3, 0.05), None, _MAP, "2026-11"),
        Model("gemini-3.1-flash-lite", Price(0.25, 1.5, 0.025), None, _MAP, "2026-11"),
        Model(
            "gemini-3.1-pro", Price(2, 12, 0.2, above=200_000, long=(4, 18, 0.4)), None, _MAP,
            "2026-11",
        ),
        Model("gemini-3.5-flash", Price(1.5, 9, 0.15), None, _MAP, "2026-11"),
        Model("gemini-3.5-flash-lite", Price(0.3, 2.5, 0.03), None, _MAP, "2026-11"),
        Model("gemini-3.6-flash", None, None, _DIFFER, "2026-11"),
        Model("gemini-3.7-flash", None, None, _DIFFER, "2026-11"),
        Model("gemini-3.8-flash", None, None, _DIFFER, "2026-11"),
        Model("gemini-4-argon", None, None, _DIFFER, "2026-11"),
        Model("gemini-4-hydrogen", Price(1.5, 7.5, 0.075), None, _MAP, "2026-11"),
        Model("gemini-embedding-001", Price(0.15), None, _MAP, "2026-11"),
        Model("gemini-embedding-2", Price(0.2), None, _MAP, "2026-11"),
    ],
    # An endpoint's model is a tuned one, at a price of its own.
    plain=lambda model: "" if "/endpoints/" in model else model.rpartition("/")[2],
    versions=_versions,
)  # fmt: skip

_TUNED: Final = '"Supported models", Gemini tuning API reference (docs.cloud.google.com)'
_TUNED_25: Final = f"{_TUNED}; price: Vertex AI's price page (2025-11), from memory"

# Supervised tuning: a price is that of a million training tokens (the file's, times the epochs).
TUNING: Final = Table(
    "vertex, tuning",
    [
        Model("gemini-3.5-flash", None, None, _TUNED, "2026-11"),
        Model("gemini-3.5-flash-lite", None, None, _TUNED, "2026-11"),
        Model("gemini-3.1-flash-lite", None, None, _TUNED, "2026-11"),
        Model("gemini-2.5-pro", Price(25.0), _GEMINI_25, _TUNED_25, "2026-11"),
        Model("gemini-2.5-flash", Price(5.0), _GEMINI_25, _TUNED_25, "2026-11"),
        Model("gemini-2.5-flash-lite", Price(1.5), _GEMINI_25, _TUNED_25, "2026-11"),
    ],
    plain=lambda model: model.rpartition("/")[2],
    versions=lambda rest: rest in {"", "-001"},
)
