"""What Bedrock's model families can, where they differ: rows with their source. Nothing is
fetched; prices and ends are in ``models``.

Read 2026-11-30. "PAI" is pydantic-ai-slim 2.68, whose profiles were tried on the live service;
"LCA" is langchain-aws 1.9.1.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple

from cloudai.errors import UnsupportedByProvider
from cloudai.formats.schemas.dialects import PLAIN, PLAIN_INLINE, Dialect
from cloudai.types import ReasoningEffort

SAGEMAKER: Final = "sagemaker:"
"""A model name that begins so is a SageMaker endpoint that speaks the OpenAI format."""

_PREFIX: Final = re.compile(r"(?:arn:[^/]*/)?(?:(?:us|us-gov|eu|apac|jp|au|ca|global)\.)?(.*)\Z")


def family(model: str) -> str:
    """The model's name without the ARN and the inference profile's region."""
    match = _PREFIX.match(model)
    return match[1] if match else model


def maker(model: str) -> str:
    """Whose reasoning it takes back: the maker and the family, such as ``anthropic.claude``."""
    return family(model).partition("-")[0]


# What follows about turns was seen by pydantic-ai on the real service (its profiles of 2026-07).
_ASSISTANT_BEGINS: Final = ("anthropic.claude", "qwen.", "zai.", "moonshot")
_SEES_RESULTS: Final = ("anthropic.claude", "meta.llama", "amazon.nova")


def lets_assistant_begin(model: str) -> bool:
    """Whether a conversation may begin with the assistant's turn."""
    return family(model).startswith(_ASSISTANT_BEGINS)


def sees_results(model: str) -> bool:
    """Whether a tool's result may hold an image."""
    return family(model).startswith(_SEES_RESULTS)


class Family(NamedTuple):
    """What a family of models takes.

    Parameters
    ----------
    pattern: of the names, without region and ARN; the first row that fits counts.
    source: where this stands.
    schema: whether it holds to a JSON Schema itself (``outputConfig``, strict tools); others get
        the schema as a tool.
    tools, streams_tools: whether it takes tools, and tools in a stream.
    forces: the ways in which it can be made to call a tool, as ``toolChoice`` has them.
    dialect: of its tools. hyphens: whether a tool's name may hold one.
    samples: whether it takes temperature and top_p.
    reasons: how it is asked to reason; None: it cannot be asked.
    off: what ``reasoning="none"`` adds; None where it cannot be had.
    """

    pattern: str
    source: str
    schema: bool = False
    tools: bool = True
    streams_tools: bool = True
    forces: tuple[str, ...] = ("any", "tool")
    dialect: Dialect = PLAIN_INLINE
    hyphens: bool = True
    samples: bool = True
    reasons: Literal["adaptive", "budget", "flat", "nested", "nova", "qwen"] | None = None
    off: dict[str, Any] | None = {}


_OFF: Final[dict[str, Any]] = {"thinking": {"type": "disabled"}}

# Which Claude holds to a schema is told in two ways for Opus 4.7 and 4.8 and Sonnet 5
# (models.dev#1765 and anthropic-sdk-python#1759: refused; PAI: enabled). A forced tool works with
# either.
_ROWS: Final = (
    Family(
        r"anthropic\.claude-(?:fable|mythos)-",
        "PAI; LCA: auto only, always thinks",
        forces=(), dialect=PLAIN, samples=False, reasons="adaptive", off=None,
    ),
    Family(
        r"anthropic\.claude-opus-5-5",
        "PAI; LCA: auto only, always thinks",
        schema=True, forces=(), dialect=PLAIN, samples=False, reasons="adaptive", off=None,
    ),
    Family(
        r"anthropic\.claude-sonnet-5-5",
        "PAI; LCA: auto only; refuses disabled, wants between_tools",
        schema=True, forces=(), dialect=PLAIN, samples=False, reasons="adaptive",
        off={"thinking": {"type": "between_tools"}},
    ),
    Family(
        r"anthropic\.claude-haiku-(?:5-5|[6-9])",
        "PAI: thinks unless told not to",
        schema=True, dialect=PLAIN, samples=False, reasons="adaptive", off=_OFF,
    ),
    Family(
        r"anthropic\.claude-(?:opus|sonnet|haiku)-(?:[5-9]|\d\d)(?!\d{6})",
        "PAI: thinks unless told not to",
        dialect=PLAIN, samples=False, reasons="adaptive", off=_OFF,
    ),
    Family(
        r"anthropic\.claude-opus-4-[78](?!\d{6})",
        "cline#10572 (2026-05-06): temperature is deprecated for this model",
        dialect=PLAIN, samples=False, reasons="adaptive",
    ),
    Family(
        r"anthropic\.claude-(?:opus|sonnet|haiku)-4-6(?!\d{6})",
        "Bedrock user guide, structured output and extended thinking",
        schema=True, dialect=PLAIN, reasons="adaptive",
    ),
    Family(
        r"anthropic\.claude-(?:opus|sonnet|haiku)-4-5(?!\d{6})",
        "Bedrock user guide, structured output and extended thinking",
        schema=True, dialect=PLAIN, reasons="budget",
    ),
    Family(
        r"anthropic\.claude-(?:3-7|(?:opus|sonnet|haiku)-4)",
        "Bedrock user guide, extended thinking",
        dialect=PLAIN, reasons="budget",
    ),
    Family(
        r"anthropic\.claude-(?:v2|instant)", "Bedrock user guide, features", tools=False
    ),
    Family(r"anthropic\.", "Bedrock user guide, ToolChoice", dialect=PLAIN),
    Family(
        r"amazon\.nova-2",
        "Bedrock user guide, Nova 2; mcp-agent#126 (2025-04): a hyphen ends in a 424",
        hyphens=False, reasons="nova",
    ),
    Family(
        r"amazon\.nova", "langchain-aws#422; mcp-agent#126 (2025-04)", hyphens=False
    ),
    Family(r"amazon\.titan|ai21\.jamba-instruct", "Bedrock user guide, features", tools=False),
    Family(
        r"meta\.llama(?:2|3-\d+b|3-2-[13]b)", "Bedrock user guide, features; LCA", tools=False
    ),
    Family(
        r"meta\.llama",
        "llama_index#19886 (2025-09-16): doesn't support the toolConfig.toolChoice.any field",
        streams_tools=False, forces=(),
    ),
    Family(
        r"mistral\.(?:mistral-large-3|magistral|ministral|voxtral)",
        "PAI; langchain-aws#883",
        schema=True, streams_tools=False, forces=("any",),
    ),
    Family(
        r"mistral\.mistral-large", "LCA: auto and any, never streamed with tools",
        streams_tools=False, forces=("any",),
    ),
    Family(
        r"mistral\.", "LCA: no tool choice kept", streams_tools=False, forces=()
    ),
    Family(
        r"cohere\.command", "Bedrock API reference, ToolChoice; LCA sends none", forces=()
    ),
    Family(
        r"deepseek\.r1", "langchain-aws#447: doesn't support tool use", tools=False
    ),
    Family(
        r"deepseek\.v3-v1|deepseek\.v3\.1", "langchain-aws#688 (2025-10-10)",
        schema=True, forces=("any",),
    ),
    Family(r"deepseek\.v3", "langchain-aws#688 (2025-10-10)", schema=True, reasons="flat"),
    Family(
        r"openai\.gpt-oss", "Bedrock user guide; PAI: never sees a tool's $defs",
        schema=True, reasons="flat", off={"reasoning_effort": "low"},
    ),
    Family(
        r"openai\.gpt-(?:5[.-]6|[6-9])|xai\.grok", "PAI; LCA",
        samples=False, reasons="nested", off={"reasoning": {"effort": "none"}},
    ),
    Family(
        r"openai\.gpt", "LCA", reasons="nested", off={"reasoning": {"effort": "none"}}
    ),
    Family(
        r"qwen\.", "langchain-aws#676: no tool choice proven",
        schema=True, forces=(), reasons="qwen", off={"reasoning_config": "none"},
    ),
    Family(r"zai\.", "PAI", schema=True, forces=("any",), reasons="flat"),
    Family(r"moonshot", "PAI", schema=True, forces=("any",)),
    Family(r"google\.gemma|minimax|nvidia\.nemotron", "PAI; langchain-aws#883", schema=True),
)  # fmt: skip
_PATTERNS: Final = tuple((re.compile(row.pattern), row) for row in _ROWS)
_UNKNOWN: Final = Family("", "taken to be like Claude")

_known: dict[str, Family] = {}


def traits(model: str) -> Family:
    """What the model's family takes."""
    found = _known.get(model)
    if found is None:
        name = family(model)
        found = next((row for pattern, row in _PATTERNS if pattern.match(name)), _UNKNOWN)
        if len(_known) < 1024:  # a program that makes up names must not fill the memory
            _known[model] = found
    return found


_BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24576}


def reasoning(model: str, effort: ReasoningEffort) -> dict[str, Any]:
    """The additionalModelRequestFields that ask for this much reasoning (Anthropic's, OpenAI's
    and Nova's pages of the Bedrock user guide; PAI for the rest)."""
    found = traits(model)
    level = "low" if effort == "minimal" else effort
    if effort == "none":
        if found.off is None:
            raise UnsupportedByProvider(
                f"reasoning='none' with {model}",
                provider="aws",
                alternative='It always thinks: leave it out, or use reasoning="minimal"',
                field="reasoning",
            )
        return found.off
    match found.reasons:
        case "adaptive":
            return {"thinking": {"type": "adaptive"}, "output_config": {"effort": level}}
        case "budget":
            return {"thinking": {"type": "enabled", "budget_tokens": _BUDGETS[effort]}}
        case "flat":
            return {"reasoning_effort": level}
        case "nested":
            return {"reasoning": {"effort": level}}
        case "qwen":
            return {"reasoning_config": level}
        case "nova":
            return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
        case None:
            raise UnsupportedByProvider(
                f"reasoning={effort!r} with {model}",
                provider="aws",
                alternative="Leave it out, or pass the model's own fields in "
                'native={"additionalModelRequestFields": {…}}',
                field="reasoning",
            )


def reasoning_budget(fields: dict[str, Any]) -> int:
    """The tokens that the reasoning may take out of maxTokens; 0 where it has no budget."""
    return int(fields.get("thinking", {}).get("budget_tokens", 0))
