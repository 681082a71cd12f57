"""What a batch of chats or embeddings is likely to cost, before it is submitted."""

from __future__ import annotations

from typing import Final

from cloudai._core.batches.formats import Source, format_of
from cloudai._core.files.paths import here
from cloudai._core.models import Price, Table
from cloudai.errors import CloudAIError
from cloudai.types import BatchTransform, CostRange

_BYTES: Final = (4.0, 2.0)
"""Bytes of a line for a token of the prompt: of long English, and of other texts; by experience."""
_ANSWER: Final = (16, 1000)
"""Tokens of an answer, where ``max_tokens`` sets no bound."""
HALF: Final = 0.5
"""What a service's batch costs of the price of its calls: half at Bedrock, Azure OpenAI and Gemini,
as pages of third parties tell (cloudroutehq.com, wring.co, getnadir.com; read 2026-11-30); the
vendors' own price pages were not read."""


def estimate(
    spec: BatchTransform,
    table: Table,
    share: float,
    *,
    price: Price | None = None,
    as_of: str | None = None,
) -> CostRange | None:
    """The range; None for a model without a known price, an input that is not on this machine, and
    what is paid by the hour.

    Parameters
    ----------
    share: of the price of a call, such as ``HALF``. price: the profile's own, before the table's.
    """
    model = spec.chat or spec.embeddings
    row = table.find(model) if model is not None else None
    price = price or (row.price if row is not None else None)
    path = here(spec.input)
    if model is None or price is None or path is None or not path.is_file():
        return None
    lines = size = 0
    try:
        for _, raw in Source(path, format_of(path, spec.format), spec.max_payload).records():
            lines += 1
            size += (
                raw if isinstance(raw, int) else len(raw if isinstance(raw, bytes) else str(raw))
            )
    except CloudAIError:
        return None
    told = spec.params.get("max_tokens")
    most = told if isinstance(told, int) else _ANSWER[1]
    low, high = (
        share * (size / each * price.input + lines * answer * price.output) / 1e6
        for each, answer in zip(_BYTES, (min(_ANSWER[0], most), most), strict=True)
    )
    return CostRange(
        low=round(low, 6),
        high=round(high, 6),
        basis=f"{lines} lines of {size} bytes at {price.input} and {price.output} USD for a "
        f"million tokens{' of calls, half of it in a batch' if share == HALF else ''}; answers of "
        f"{min(_ANSWER[0], most)} to {most} tokens",
        as_of=as_of or (row.read if row is not None else "the profile's prices"),
    )
