"""What is known of Azure OpenAI without asking it: prices and limits, each with its date."""

from __future__ import annotations

from typing import Final, NamedTuple

from cloudai.types import Usage

AS_OF: Final = "2025-08-15"
"""The date of the tables below."""


class Price(NamedTuple):
    """US dollars for a million tokens: of the prompt, of the prompt's cached part, of the
    answer. Global Standard deployments; Data Zone ones cost a tenth more."""

    input: float
    cached: float
    output: float


# Azure OpenAI's pricing page, Global Standard, on the date above; the longest prefix of the
# model's name counts, so that "gpt-4o-2024-08-06" finds "gpt-4o".
CHAT: Final[dict[str, Price]] = {
    "gpt-4o": Price(2.50, 1.25, 10.00),
    "gpt-4o-2024-05-13": Price(5.00, 5.00, 15.00),
    "gpt-4o-mini": Price(0.15, 0.075, 0.60),
    "gpt-4.1": Price(2.00, 0.50, 8.00),
    "gpt-4.1-mini": Price(0.40, 0.10, 1.60),
    "gpt-4.1-nano": Price(0.10, 0.025, 0.40),
    "gpt-5": Price(1.25, 0.125, 10.00),
    "gpt-5-mini": Price(0.25, 0.025, 2.00),
    "gpt-5-nano": Price(0.05, 0.005, 0.40),
    "o1": Price(15.00, 7.50, 60.00),
    "o3": Price(2.00, 0.50, 8.00),
    "o3-mini": Price(1.10, 0.55, 4.40),
    "o4-mini": Price(1.10, 0.275, 4.40),
}

EMBEDDING: Final[dict[str, float]] = {
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "text-embedding-ada-002": 0.10,
}
"""US dollars for a million tokens."""

_found: dict[str, Price | None] = {}


def price(model: str) -> Price | None:
    """The price of a chat model by the name that the service answers with; None where it is
    not in the table."""
    if model not in _found:
        if len(_found) > 1000:  # names come from answers: never let them pile up
            _found.clear()
        _found[model] = _longest(model)
    return _found[model]


def _longest(model: str) -> Price | None:
    if ".ft-" in model:
        return None  # fine-tuned models have prices of their own
    # A name ends there or goes on with its date: "gpt-5-pro" is not "gpt-5".
    for name in sorted(CHAT, key=len, reverse=True):
        rest = model[len(name) :]
        if model.startswith(name) and (not rest or (rest[0] == "-" and rest[1:2].isdigit())):
            return CHAT[name]
    return None


def chat_cost(model: str, usage: Usage) -> float | None:
    """US dollars of one answer; None where the model's price is not known."""
    known = price(model)
    if known is None:
        return None
    fresh = usage.input_tokens - usage.cached_input_tokens
    return (
        fresh * known.input
        + usage.cached_input_tokens * known.cached
        + usage.output_tokens * known.output
    ) / 1_000_000


def embedding_cost(model: str, tokens: int) -> float | None:
    """US dollars of embeddings; None where the model's price is not known."""
    known = EMBEDDING.get(model)
    return None if known is None else known * tokens / 1_000_000


class TrainingPrice(NamedTuple):
    """US dollars for a million training tokens: Global Standard, and Standard (regional)."""

    low: float
    high: float


# Azure OpenAI's pricing page on the date above.
TRAINING: Final[dict[str, TrainingPrice]] = {
    "gpt-4o-2024-08-06": TrainingPrice(25.00, 27.50),
    "gpt-4o-mini-2024-07-18": TrainingPrice(3.00, 3.30),
    "gpt-4.1-2025-04-14": TrainingPrice(25.00, 27.50),
    "gpt-4.1-mini-2025-04-14": TrainingPrice(5.00, 5.50),
    "gpt-4.1-nano-2025-04-14": TrainingPrice(1.50, 1.65),
}


def training_price(model: str) -> TrainingPrice | None:
    """The price of training a base model; None where it is not in the table."""
    return TRAINING.get(model)
