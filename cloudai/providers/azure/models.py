"""Azure OpenAI's models: prices, ends, and what their families take.

A deployment's name need not be its model's. Where it is (which is Azure's own default), what the
model would refuse is refused here; another name is sent as it is. Prices are of Global Standard
deployments, US dollars for a million tokens; Data Zone ones cost a tenth more.
"""

from __future__ import annotations

import datetime
import re
from typing import Final, NamedTuple

from msgspec.structs import replace

from cloudai._core.models import Model, Price, Table
from cloudai.errors import UnsupportedByProvider
from cloudai.types import ChatRequest

_MAP: Final = "litellm 1.110.2's price map and genai-prices 0.2.3, of Azure's price page"
_PLAN: Final = "model retirement schedule, Microsoft Foundry (2026-07-07)"
_SCHEDULE: Final = f"{_PLAN}; price: {_MAP}"


def _on(year: int, month: int, day: int) -> datetime.date:
    return datetime.date(year, month, day)


def _long(paid: float, cached: float, made: float, written: float | None = None) -> Price:
    # From gpt-5.4 on a prompt above 272k tokens doubles its price; the answer costs half more.
    return Price(
        paid, made, cached, written, above=272_000, long=(2 * paid, 1.5 * made, 2 * cached)
    )


# gpt-4.1 and gpt-4o: litellm has a later end (2027-04-14), and gpt-4.1-nano was still served on
# 2026-11-23.
TABLE: Final = Table(
    "azure",
    [
        Model("gpt-4o", Price(2.5, 10, 1.25), _on(2026, 10, 1), _SCHEDULE, "2026-11"),
        Model("gpt-4o-2024-05-13", Price(5, 15, 5), _on(2026, 10, 1), _SCHEDULE, "2026-11"),
        Model("gpt-4o-mini", Price(0.15, 0.6, 0.075), _on(2026, 10, 1), _SCHEDULE, "2026-11"),
        Model("gpt-4.1", Price(2, 8, 0.5), _on(2026, 10, 14), _SCHEDULE, "2026-11"),
        Model("gpt-4.1-mini", Price(0.4, 1.6, 0.1), _on(2026, 10, 14), _SCHEDULE, "2026-11"),
        Model("gpt-4.1-nano", Price(0.1, 0.4, 0.025), _on(2026, 10, 14), _SCHEDULE, "2026-11"),
        Model("o1", Price(15, 60, 7.5), _on(2026, 9, 16), _SCHEDULE, "2026-11"),
        Model("o3", Price(2, 8, 0.5), _on(2026, 10, 16), _SCHEDULE, "2026-11"),
        Model("o3-mini", Price(1.1, 4.4, 0.55), _on(2026, 10, 1), _SCHEDULE, "2026-11"),
        Model("o4-mini", Price(1.1, 4.4, 0.275), _on(2026, 10, 16), _SCHEDULE, "2026-11"),
        Model("gpt-5", Price(1.25, 10, 0.125), _on(2027, 2, 6), _SCHEDULE, "2026-11"),
        Model("gpt-5-mini", Price(0.25, 2, 0.025), _on(2027, 2, 6), _SCHEDULE, "2026-11"),
        Model("gpt-5-nano", Price(0.05, 0.4, 0.005), _on(2027, 2, 6), _SCHEDULE, "2026-11"),
        Model("gpt-5.1", Price(1.25, 10, 0.125), _on(2027, 5, 15), _SCHEDULE, "2026-11"),
        Model("gpt-5.2", Price(1.75, 14, 0.175), _on(2026, 12, 12), _SCHEDULE, "2026-11"),
        Model("gpt-5.4", _long(2.5, 0.25, 15), _on(2027, 3, 5), _SCHEDULE, "2026-11"),
        Model("gpt-5.4-mini", Price(0.75, 4.5, 0.075), _on(2027, 3, 18), _SCHEDULE, "2026-11"),
        Model("gpt-5.4-nano", Price(0.2, 1.25, 0.02), _on(2027, 3, 18), _SCHEDULE, "2026-11"),
        Model("gpt-5.5", _long(5, 0.5, 30), _on(2027, 4, 23), _SCHEDULE, "2026-11"),
        Model("gpt-5.6-sol", _long(4, 0.4, 20, 5), None, _MAP, "2026-11"),
        Model("gpt-5.6-terra", _long(2, 0.2, 12), None, _MAP, "2026-11"),
        Model("gpt-5.6-luna", _long(0.2, 0.02, 1.2), None, _MAP, "2026-11"),
        Model("gpt-6-astra", _long(10, 1, 50), None, _MAP, "2026-11"),
        Model("gpt-6-sol", _long(2, 0.2, 10), None, _MAP, "2026-11"),
        Model("gpt-6-luna", _long(0.1, 0.01, 0.5), None, _MAP, "2026-11"),
        Model("gpt-6.1-sol", _long(2, 0.1, 10), None, _MAP, "2026-11"),
        Model("gpt-6.1-terra", _long(1, 0.05, 5), None, _MAP, "2026-11"),
        # Their sources differ by a tenth, as Global and Data Zone do.
        Model("text-embedding-3-small", Price(0.02), _on(2027, 4, 15), _SCHEDULE, "2026-11"),
        Model("text-embedding-3-large", Price(0.13), _on(2027, 4, 15), _SCHEDULE, "2026-11"),
        Model("text-embedding-ada-002", Price(0.10), _on(2027, 4, 15), _SCHEDULE, "2026-11"),
    ],
    # A name ends there or goes on with its date: "gpt-5-pro" is not "gpt-5". Fine-tuned models
    # have prices of their own.
    versions=lambda rest: not rest or (re.match(r"-\d", rest) is not None and ".ft-" not in rest),
)


_LISTED: Final = (
    f"models that support fine-tuning, Microsoft Foundry (2026-03-05); {_PLAN}: whoever tuned one "
    "before may until then at least; price: Azure OpenAI's price page (2025-08-15)"
)
REGIONAL: Final = 1.1
"""What Standard (regional) training costs of what Global Standard does."""

# A price is that of a million training tokens, Global Standard. gpt-5 is tuned by invitation only.
TUNING: Final = Table(
    "azure, fine-tuning",
    [
        Model("gpt-4o-2024-08-06", Price(25.0), _on(2027, 4, 1), _LISTED, "2026-11"),
        Model("gpt-4o-mini-2024-07-18", Price(3.0), _on(2027, 4, 1), _LISTED, "2026-11"),
        Model("gpt-4.1-2025-04-14", Price(25.0), _on(2027, 4, 14), _LISTED, "2026-11"),
        Model("gpt-4.1-mini-2025-04-14", Price(5.0), _on(2027, 4, 14), _LISTED, "2026-11"),
        Model("gpt-4.1-nano-2025-04-14", Price(1.5), _on(2027, 4, 14), _LISTED, "2026-11"),
        Model("o4-mini-2025-04-16", None, _on(2027, 4, 16), _LISTED, "2026-11"),
        Model("gpt-5-2025-08-07", None, None, _LISTED, "2026-11"),
    ],
    versions=lambda rest: not rest,
)


class Family(NamedTuple):
    """What a family of reasoning models takes on Chat Completions.

    Parameters
    ----------
    pattern: of the model's name; the first row that fits counts. source: where this stands.
    efforts: of reasoning that it takes. silent: what it does where none is asked for.
    tools: whether it takes tools while it reasons.
    answers: False where it is on the Responses API alone.
    """

    pattern: str
    source: str
    efforts: tuple[str, ...] = ()
    silent: str = "medium"
    tools: bool = True
    answers: bool = True


_REASONING: Final = "Reasoning models, Azure OpenAI (2026-04); pydantic-ai-slim 2.68"
_NONE: Final = ("none", "low", "medium", "high")
# Tools with reasoning: pipecat#4043 (2026-03-16), openclaude#1957 (2026-07-13),
# oh-my-pi#11052 (2026-09-06).
_FAMILIES: Final = tuple(
    (re.compile(rf"(?:{row.pattern})(?:-\d{{4}}-\d\d-\d\d)?\Z"), row)
    for row in (
        Family(r".*codex.*|o\d-pro|gpt-[\d.]+-pro", _REASONING, answers=False),
        Family(r"o[134](?:-mini)?", _REASONING, ("low", "medium", "high")),
        Family(r"gpt-5(?:-mini|-nano)?", _REASONING, ("minimal", "low", "medium", "high")),
        Family(r"gpt-5\.[123]", _REASONING, _NONE, silent="none"),
        Family(r"gpt-5\.4(?:-mini|-nano)?", _REASONING, _NONE, silent="none", tools=False),
        Family(
            r"gpt-5\.5|gpt-5\.6-\w+|gpt-6-(?:sol|luna)|gpt-6\.1-terra", _REASONING, _NONE,
            tools=False,
        ),
        Family(
            r"gpt-6-astra|gpt-6\.1-sol", _REASONING, ("low", "medium", "high"), tools=False
        ),
    )
)  # fmt: skip

_known: dict[str, Family | None] = {}


def family(model: str) -> Family | None:
    """The family of a model's, or a deployment's, name; None for one that tells none."""
    if model not in _known:
        if len(_known) > 1000:
            _known.clear()
        _known[model] = next((row for pattern, row in _FAMILIES if pattern.match(model)), None)
    return _known[model]


def checked(request: ChatRequest) -> ChatRequest:
    """The request with a reasoning effort that the model has. Raises UnsupportedByProvider for
    what the model's family would refuse."""
    found = family(request.model)
    if found is None:
        return request
    if not found.answers:
        raise _refused(
            request.model, "chat completions", "model",
            "It answers on the Responses API alone: deploy a model such as gpt-6-sol",
        )  # fmt: skip
    effort = request.reasoning
    if effort == "minimal" and effort not in found.efforts:
        effort = "low"
        request = replace(request, reasoning=effort)
    if effort is not None and effort not in found.efforts:
        raise _refused(
            request.model, f"reasoning={effort!r}", "reasoning",
            f"It always reasons: leave it out, or use one of {', '.join(found.efforts)}",
        )  # fmt: skip
    off = 'reasoning="none"' if "none" in found.efforts else "a model that does not reason"
    if (effort or found.silent) != "none":
        for name in ("temperature", "top_p"):
            if getattr(request, name) not in {None, 1}:
                raise _refused(
                    request.model, f"{name} while it reasons", name, f"Leave it out, or use {off}"
                )
    if request.tools and not found.tools and effort not in {None, "none"}:
        raise _refused(
            request.model, f"tools with reasoning={effort!r}", "tools",
            f"Leave reasoning out, or use {off}",
        )  # fmt: skip
    return request


def _refused(model: str, what: str, field: str, mend: str) -> UnsupportedByProvider:
    return UnsupportedByProvider(
        f"{what} with {model}", provider="azure", alternative=mend, field=field
    )
