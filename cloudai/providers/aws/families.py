"""What Bedrock's model families can, where they differ. Static, dated: nothing is fetched."""

from __future__ import annotations

import re
from typing import Any, Final

from cloudai.errors import UnsupportedByProvider
from cloudai.types import ReasoningEffort

SAGEMAKER: Final = "sagemaker:"
"""A model name that begins so is a SageMaker endpoint that speaks the OpenAI format."""

_PREFIX: Final = re.compile(r"(?:arn:[^/]*/)?(?:(?:us|us-gov|eu|apac|jp|au|ca|global)\.)?(.*)\Z")


def family(model: str) -> str:
    """The model's name without the ARN and the inference profile's region."""
    match = _PREFIX.match(model)
    return match[1] if match else model


# Models that hold to a JSON Schema themselves: Claude 4.5 and later, and open-weight models
# (Bedrock user guide, "Get validated JSON results from models", read 2026-11). For the others
# the schema is put to the model as a tool that it has to call.
_SCHEMA: Final = re.compile(
    r"anthropic\.claude-(?:sonnet|haiku|opus)-(?:4-[5-9]|[5-9]|\d\d)(?!\d{6})"
    r"|openai\.gpt-oss|qwen\.|google\.gemma|moonshot|minimax|nvidia\.nemotron|zai\."
    r"|deepseek\.v3|mistral\.(?:magistral|ministral|mistral-large-3|voxtral)"
)


def holds_schema(model: str) -> bool:
    """Whether the model enforces a JSON Schema itself."""
    return _SCHEMA.match(family(model)) is not None


_CLAUDE_ADAPTIVE: Final = re.compile(
    r"anthropic\.claude-(?:opus|sonnet|haiku)-(?:4-[6-9]|[5-9]|\d\d)(?!\d{6})"
)
_CLAUDE_BUDGET: Final = re.compile(r"anthropic\.claude-(?:3-7|(?:opus|sonnet|haiku)-4)")
_BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24576}


def reasoning(model: str, effort: ReasoningEffort) -> dict[str, Any]:
    """The additionalModelRequestFields that ask for this much reasoning (Anthropic's, OpenAI's
    and Nova's pages of the Bedrock user guide, read 2026-11)."""
    name = family(model)
    if name.startswith("openai."):
        # gpt-oss always reasons; low is its least.
        return {"reasoning_effort": "low" if effort in {"none", "minimal"} else effort}
    if effort == "none":
        return {}  # off is every other model's default
    if _CLAUDE_ADAPTIVE.match(name):
        level = "low" if effort == "minimal" else effort
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": level}}
    if _CLAUDE_BUDGET.match(name):
        return {"thinking": {"type": "enabled", "budget_tokens": _BUDGETS[effort]}}
    if name.startswith("amazon.nova-2"):
        level = "low" if effort == "minimal" else effort
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
    raise UnsupportedByProvider(
        f"reasoning={effort!r} with {model}",
        provider="aws",
        alternative="Leave it out, or pass the model's own fields in "
        'native={"additionalModelRequestFields": {…}}',
    )


def reasoning_budget(fields: dict[str, Any]) -> int:
    """The tokens that the reasoning may take out of maxTokens; 0 where it has no budget."""
    return int(fields.get("thinking", {}).get("budget_tokens", 0))
