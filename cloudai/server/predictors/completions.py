"""Which of OpenAI's chat completions a model here can answer."""

from __future__ import annotations

from typing import Any, Final, get_args

from cloudai.formats.openai.completion import Completion
from cloudai.types import ChatRequest, ReasoningEffort
from cloudai.types._base import invalid

_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "functions": ([],),
    "function_call": (),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "verbosity": ("medium",),
}
"""What a model here has no switch for, and the values beside null that ask for nothing."""
_EFFORTS: Final[tuple[str, ...]] = get_args(ReasoningEffort)


def request_of(asked: Completion, model: str, native: dict[str, Any]) -> ChatRequest:
    """The neutral request that OpenAI's body says. What has no meaning here is refused where it
    would change an answer, and else passed over. Raises InvalidRequest."""
    for name, neutral in _NEUTRAL.items():
        value = getattr(asked, name)
        if value is not None and value not in neutral:
            raise invalid(name, value, "is not supported by the model here", "Leave it out.")
        setattr(asked, name, None)
    effort = asked.reasoning_effort
    if effort is not None and effort not in _EFFORTS:
        raise invalid("reasoning_effort", effort, f"is not one of {', '.join(_EFFORTS)}")
    # Nothing here ever fetches what a caller names.
    return asked.request(model, urls=False, native=native)
