"""What Gemini's families take, where they differ: rows with their source. Nothing is fetched;
prices and ends are in ``models``. Read 2026-11-30."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from cloudai.errors import UnsupportedByProvider
from cloudai.providers.vertex.errors import PROVIDER

_PAGE: Final = "Thinking, Vertex AI and Gemini API documentation"


class Family(NamedTuple):
    """A family of models.

    Parameters
    ----------
    pattern: of the names; the first row that fits counts.
    source: where this stands.
    levels: of thinking, the least first. budgets: the least number of tokens to think with, where
        there are no levels; 0 switches it off. Both empty: it does not think.
    schema_with_tools: whether a JSON answer can be asked for beside tools.
    """

    pattern: str
    source: str
    levels: tuple[str, ...] = ()
    budgets: tuple[int, ...] = ()
    schema_with_tools: bool = True


_FOUR: Final = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
_ROWS: Final = (
    Family("gemini-1|gemini-2\\.0", "python-genai#867", schema_with_tools=False),
    Family("gemini-2\\.5-flash-image", _PAGE, schema_with_tools=False),
    Family("gemini-2\\.5-pro", _PAGE, budgets=(128,), schema_with_tools=False),
    Family("gemini-2", _PAGE, budgets=(0, 512), schema_with_tools=False),
    Family("gemini-3-pro", _PAGE, ("LOW", "HIGH")),
    Family("gemini-3\\.1-flash-image", _PAGE, ("MINIMAL", "HIGH")),
    Family("gemini-3(?:\\.1|\\.5)?-flash|gemini-3\\.6-flash", _PAGE, _FOUR),
)
_PATTERNS: Final = tuple((re.compile(row.pattern), row) for row in _ROWS)
_NEWER: Final = Family("", f"{_PAGE}: 3.1 Pro, 3.7 and 3.8 Flash, Gemini 4", _FOUR[1:])

# Google's own table for its OpenAI-compatible API ("OpenAI compatibility", read 2026-11).
_BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}


def traits(model: str) -> Family:
    """What the model's family takes; the newest ones' for a name that is not known, such as a
    tuned model's."""
    name = model.rpartition("/")[2]
    return next((row for pattern, row in _PATTERNS if pattern.match(name)), _NEWER)


def thinking(model: str, effort: str) -> dict[str, Any]:
    """The thinkingConfig for this much reasoning. Raises UnsupportedByProvider where the model
    has none, or cannot do without."""
    found = traits(model)
    if effort == "none":
        if "MINIMAL" in found.levels:
            return {"thinkingLevel": "MINIMAL"}
        if not found.levels and 0 in (found.budgets or (0,)):
            return {"thinkingBudget": 0}
        raise UnsupportedByProvider(
            f"reasoning='none' on {model}",
            provider=PROVIDER,
            alternative='It always thinks: use reasoning="minimal", or a flash model that need not',
            field="reasoning",
        )
    if found.levels:
        # The asked level, or the nearest below it that the model has.
        below = _FOUR[: _FOUR.index(effort.upper()) + 1]
        fits = [level for level in found.levels if level in below]
        return {"includeThoughts": True, "thinkingLevel": fits[-1] if fits else found.levels[0]}
    if found.budgets:
        return {"includeThoughts": True, "thinkingBudget": _BUDGETS[effort]}
    raise UnsupportedByProvider(
        f"reasoning={effort!r} on {model}",
        provider=PROVIDER,
        alternative="Use a model that thinks: gemini-3.5-flash or later",
        field="reasoning",
    )
