"""Training files of fine-tuning: checked line by line, and written as the service wants them.

The service wants UTF-8 with a byte order mark (Azure OpenAI's fine-tuning guide, read 2025-08),
JSON Lines, at least 10 examples and at most 512 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from cloudai.errors import InvalidRequest
from cloudai.types._base import invalid, shorten

MIN_EXAMPLES: Final = 10
MAX_BYTES: Final = 512_000_000
"""Bytes of one file (Azure OpenAI quotas and limits, read 2025-08)."""
_BOM: Final = b"\xef\xbb\xbf"
_ROLES: Final = {"system", "developer", "user", "assistant", "tool", "function"}


def convert(source: Path, target: IO[bytes], method: str, field: str) -> int:
    """Writes the examples of ``source`` to ``target``, and gives their number.

    Parameters
    ----------
    method: ``supervised``, ``dpo`` or ``reinforcement``. field: what the file is, for errors.

    Lines with ``prompt`` and ``completion`` become conversations. Raises InvalidRequest with
    the line's number and the reason.
    """
    target.write(_BOM)
    count = 0
    for number, example in _read(source, field):
        made = _example(example, method, f"{field}: line {number} of {source.name}")
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


def _read(source: Path, field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with source.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            where = f"{field}: line {number} of {source.name}"
            if number == 1 and line[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                raise InvalidRequest(
                    f"{where} is UTF-16", field=field, hint="Save the file as UTF-8"
                )
            if not line.strip():
                continue
            try:
                example = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                raise InvalidRequest(
                    f"{where} is not UTF-8", field=field, hint="Save the file as UTF-8"
                ) from None
            except ValueError as error:
                raise InvalidRequest(
                    f"{where} is not JSON: {error}",
                    field=field,
                    value=line[:80],
                    hint="Each line is one JSON object of its own",
                ) from None
            if not isinstance(example, dict):
                raise _bad(where, field, f"is {shorten(example, 40)}, not a JSON object")
            yield number, example


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
            raise _bad(where, field, f"ends with role {last!r}: the answer is the model's to give")
    elif last != "assistant":
        raise _bad(where, field, f"ends with role {last!r}: there is no answer to learn")
    return example


def _preference(example: dict[str, Any], where: str, field: str) -> dict[str, Any]:
    given = example.get("input")
    if not isinstance(given, dict):
        raise _bad(where, field, 'has no object "input" with "messages"')
    _messages(given.get("messages"), "input.messages", where, field)
    for name in ("preferred_output", "non_preferred_output"):
        answers = _messages(example.get(name), name, where, field)
        if any(message["role"] not in {"assistant", "tool"} for message in answers):
            raise _bad(where, field, f'has a message in "{name}" that is not the assistant\'s')
    return example


def _messages(given: Any, name: str, where: str, field: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise _bad(where, field, f'has no list "{name}"')
    for index, message in enumerate(given):
        at = f"{name}[{index}]"
        if not isinstance(message, dict):
            raise _bad(where, field, f"has {at} that is not an object")
        role = message.get("role")
        if role not in _ROLES:
            raise _bad(where, field, f"has {at}.role={shorten(role)}, not one of {sorted(_ROLES)}")
        content = message.get("content")
        if content is None and not (message.get("tool_calls") or message.get("function_call")):
            raise _bad(where, field, f"has {at} without content")
        if content is not None and not isinstance(content, (str, list)):
            raise _bad(where, field, f"has {at}.content that is neither text nor a list of parts")
        weight = message.get("weight")
        if weight is not None and weight not in {0, 1}:
            raise _bad(where, field, f"has {at}.weight={shorten(weight)}, not 0 or 1")
    return given


def _bad(where: str, field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"{where} {problem}",
        field=field,
        hint='Such as {"messages": [{"role": "user", "content": "…"}, '
        '{"role": "assistant", "content": "…"}]}',
    )
