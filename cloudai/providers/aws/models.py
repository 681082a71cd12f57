"""Bedrock's models: prices and ends. What their families take: ``families``.

Prices are on demand, of the global endpoints, US dollars for a million tokens; from Claude 4.5 on a
regional endpoint costs a tenth more. Of what is not here the cost is None; ``prices`` of a profile
give one's own.
"""

from __future__ import annotations

import datetime
from typing import Final

from cloudai._core.models import Model, Price, Table
from cloudai.providers.aws import families

_MAP: Final = "litellm 1.110.2's price map and genai-prices 0.2.3, of AWS's price page"
_ENDS: Final = f"{_MAP}; Anthropic's and AWS's lifecycle pages by them"
_PAGE: Final = "AWS's price page"


def _on(year: int, month: int, day: int) -> datetime.date:
    return datetime.date(year, month, day)


TABLE: Final = Table(
    "aws",
    [
        Model("anthropic.claude-opus-5-5", Price(4, 20, 0.2), source=_MAP, read="2026-11"),
        Model("anthropic.claude-opus-5", Price(5, 25, 0.5), source=_MAP, read="2026-11"),
        Model("anthropic.claude-opus-4-8", Price(5, 25, 0.5), source=_MAP, read="2026-11"),
        Model("anthropic.claude-opus-4-7", Price(5, 25, 0.5), source=_MAP, read="2026-11"),
        Model("anthropic.claude-opus-4-6", Price(5, 25, 0.5), source=_MAP, read="2026-11"),
        Model("anthropic.claude-opus-4-5", Price(5, 25, 0.5, 6.25), source=_MAP, read="2026-11"),
        Model(
            "anthropic.claude-opus-4-1", Price(15, 75, 1.5, 18.75), _on(2027, 1, 8),
            source=_ENDS, read="2026-11",
        ),
        Model("anthropic.claude-sonnet-5-5", Price(2, 10, 0.1), source=_MAP, read="2026-11"),
        Model("anthropic.claude-sonnet-5", Price(2, 10, 0.2), source=_MAP, read="2026-11"),
        Model("anthropic.claude-sonnet-4-6", Price(3, 15, 0.3), source=_MAP, read="2026-11"),
        Model(
            "anthropic.claude-sonnet-4-5",
            Price(3, 15, 0.3, 3.75, above=200_000, long=(6, 22.5, 0.6)),
            _on(2027, 4, 8), source=_ENDS, read="2026-11",
        ),
        Model(
            "anthropic.claude-sonnet-4-20250514", Price(3, 15, 0.3, 3.75), _on(2026, 10, 14),
            source=_ENDS, read="2026-11",
        ),
        Model(
            "anthropic.claude-haiku-5-5",
            Price(0.1, 0.5, 0.01, above=100_000, long=(0.5, 2.5, 0.05)),
            source=_MAP, read="2026-11",
        ),
        Model("anthropic.claude-haiku-4-5", Price(1, 5, 0.1, 1.25), source=_MAP, read="2026-11"),
        Model("anthropic.claude-fable-5-1", Price(10, 50, 0.25), source=_MAP, read="2026-11"),
        Model("anthropic.claude-3-haiku", Price(0.25, 1.25, 0.03, 0.3), source=_PAGE,
              read="2025-12"),
        Model("amazon.nova-micro", Price(0.035, 0.14, 0.00875, 0.035), source=_MAP,
              read="2026-11"),
        Model("amazon.nova-lite", Price(0.06, 0.24, 0.015, 0.06), source=_MAP, read="2026-11"),
        Model("amazon.nova-pro", Price(0.8, 3.2, 0.2, 0.8), source=_MAP, read="2026-11"),
        Model("amazon.nova-premier", Price(2.5, 12.5, 0.625), source=_MAP, read="2026-11"),
        Model("amazon.nova-2-lite", Price(0.3, 2.5, 0.075), source=_MAP, read="2026-11"),
        Model("meta.llama3-3-70b", Price(0.72, 0.72), source=_MAP, read="2026-11"),
        Model("meta.llama4-maverick", Price(0.24, 0.97), source=_MAP, read="2026-11"),
        Model("meta.llama4-scout", Price(0.17, 0.66), source=_MAP, read="2026-11"),
        Model("mistral.mistral-large-3", Price(0.5, 1.5), source=_MAP, read="2026-11"),
        Model("deepseek.r1", Price(1.35, 5.4), source=_MAP, read="2026-11"),
        Model("deepseek.v3-v1", Price(0.58, 1.68), source=_MAP, read="2026-11"),
        Model("deepseek.v3.1", Price(0.58, 1.68), source=_MAP, read="2026-11"),
        Model("deepseek.v3.2", Price(0.62, 1.85), source=_MAP, read="2026-11"),
        Model("openai.gpt-oss-120b", Price(0.15, 0.6), source=_MAP, read="2026-11"),
        Model("openai.gpt-oss-20b", Price(0.07, 0.3), source=_MAP, read="2026-11"),
        Model("qwen.qwen3-32b", Price(0.15, 0.6), source=_MAP, read="2026-11"),
        Model("qwen.qwen3-235b", Price(0.22, 0.88), source=_MAP, read="2026-11"),
        Model("amazon.titan-embed-text-v2", Price(0.02), source=_MAP, read="2026-11"),
        Model("amazon.titan-embed-text-v1", Price(0.1), source=_PAGE, read="2025-12"),
        Model("amazon.nova-2-multimodal-embeddings", Price(0.135), source=_MAP, read="2026-11"),
        Model("cohere.embed-v4", Price(0.12), source=_MAP, read="2026-11"),
        Model("cohere.embed-english-v3", Price(0.1), source=_MAP, read="2026-11"),
        Model("cohere.embed-multilingual-v3", Price(0.1), source=_MAP, read="2026-11"),
    ],
    plain=families.family,
)  # fmt: skip
