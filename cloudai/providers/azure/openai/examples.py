"""Training files of fine-tuning: checked line by line, and written as the service wants them.

The service wants UTF-8 with a byte order mark (Azure OpenAI's fine-tuning guide, read 2025-08),
JSON Lines, at least 10 examples and at most 512 MB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, Final

from cloudai._core import examples
from cloudai._core.examples import bad
from cloudai.types._base import invalid, shorten

MIN_EXAMPLES: Final = 10
MAX_BYTES: Final = 512_000_000
"""Bytes of one file (Azure OpenAI quotas and limits, read 2025-08)."""
_ROLES: Final = {"system", "developer", "user", "assistant", "tool", "function"}


def convert(source: Path, target: IO[bytes], method: str, field: str) -> int:
    """Writes the examples of ``source`` to ``target``, and gives their number.

    Parameters
    ----------
    method: ``supervised``, ``dpo`` or ``reinforcement``. field: what the file is, for errors.

    Lines with ``prompt`` and ``completion`` become conversations. Raises InvalidRequest with
    the line's number and the reason.
    """
    target.write(examples.BOM)
    count = 0
    for where, example, _ in examples.read(source, field):
        made = _example(example, method, where)
        target.write(json.dumps(made, ensure_ascii=False).encode() + b"\n")
        count += 1
    if count < MIN_EXAMPLES:
        raise invalid(
            field,
            str(source),
            f"holds {count} examples, and the service wants at least {MIN_EXAMPLES}",
            "Add examples.",
        )
    if target.tell() > MAX_BYTES:
        raise invalid(
            field,
            str(source),
            f"comes to {target.tell()} bytes, and the service takes {MAX_BYTES}",
            "Leave some examples out.",
        )
    return count


def _example(example: dict[str, Any], method: str, where: str) -> dict[str, Any]:
    field = where.partition(":")[0]
    if method == "dpo":
        return _preference(example, where, field)
    if "messages" not in example and {"prompt", "completion"} <= example.keys():
        example = {
            "messages": [
                {"role": "user", "content": example["prompt"]},
                {"role": "assistant", "content": example["completion"]},
            ]
        }
    messages = _messages(example.get("messages"), "messages", where, field)
    last = messages[-1]["role"]
    if method == "reinforcement":
        if last not in {"user", "developer", "tool"}:
            raise bad(where, field, f"ends with role {last!r}: the answer is the model's to give")
    elif last != "assistant":
        raise bad(where, field, f"ends with role {last!r}: there is no answer to learn")
    return example


def _preference(example: dict[str, Any], where: str, field: str) -> dict[str, Any]:
    given = example.get("input")
    if not isinstance(given, dict):
        raise bad(where, field, 'has no object "input" with "messages"')
    _messages(given.get("messages"), "input.messages", where, field)
    for name in ("preferred_output", "non_preferred_output"):
        answers = _messages(example.get(name), name, where, field)
        if any(message["role"] not in {"assistant", "tool"} for message in answers):
            raise bad(where, field, f'has a message in "{name}" that is not the assistant\'s')
    return example


def _messages(given: Any, name: str, where: str, field: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise bad(where, field, f'has no list "{name}"')
    for index, message in enumerate(given):
        at = f"{name}[{index}]"
        if not isinstance(message, dict):
            raise bad(where, field, f"has {at} that is not an object")
        role = message.get("role")
        if role not in _ROLES:
            raise bad(where, field, f"has {at}.role={shorten(role)}, not one of {sorted(_ROLES)}")
        content = message.get("content")
        if content is None and not (message.get("tool_calls") or message.get("function_call")):
            raise bad(where, field, f"has {at} without content")
        if content is not None and not isinstance(content, (str, list)):
            raise bad(where, field, f"has {at}.content that is neither text nor a list of parts")
        weight = message.get("weight")
        if weight is not None and weight not in {0, 1}:
            raise bad(where, field, f"has {at}.weight={shorten(weight)}, not 0 or 1")
    return given
