"""What users write as messages, made into the neutral values.

Dicts are read as OpenAI's chat format writes them, which most programs already hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cloudai.formats.openai.messages import message
from cloudai.types import Message
from cloudai.types._base import check_encodable, invalid

Messages: TypeAlias = "str | Message | Sequence[Message | Mapping[str, Any]]"


def messages(given: Messages, system: str | None = None) -> tuple[Message, ...]:
    """The conversation as ``Message``s; ``system`` goes before it."""
    if isinstance(given, str):
        made = (Message("user", given),)
    elif isinstance(given, Message):
        made = (given,)
    else:
        made = tuple(
            item if isinstance(item, Message) else message(item, f"messages[{index}]")
            for index, item in enumerate(given)
        )
    if system is not None:
        made = (Message("system", system), *made)
    if not any(one.role != "system" for one in made):
        raise invalid("messages", given, "holds no message", "Give at least one user message.")
    if made[-1].role == "user" and not made[-1].content:
        raise invalid("messages[-1].content", "", "is empty", "Say something.")
    for index, one in enumerate(made):
        check_encodable(one, f"messages[{index}]")
    return made
