"""Batches: input lines into the service's, the spec into metadata, answers back."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any, Final

import msgspec

from cloudai._core.batches.transforms import messages, said
from cloudai.errors import CloudAIError, InvalidRequest
from cloudai.providers.azure.errors import made
from cloudai.providers.azure.openai.wire import chat, chat_reply
from cloudai.types import BatchTransform, ChatRequest, State
from cloudai.types._base import met

MAX_LINES: Final = 100_000
"""Lines of one file (Azure OpenAI's batch guide, read 2025-08)."""
MAX_BYTES: Final = 200_000_000
"""Bytes of one file, the same source."""
WINDOW: Final = "24h"

ID: Final = "cloudai_id"
KEY: Final = "cloudai_key"
NAME: Final = "cloudai_name"
PART: Final = "cloudai_part"
LINES: Final = "cloudai_lines"
_SPEC: Final = "cloudai_spec_"
_PIECE: Final = 512
_PIECES: Final = 11
"""Metadata holds 16 pairs of 512 characters (openai SDK 3.54, ``Metadata``); five are ours."""

STATES: Final[dict[str, State]] = {
    "validating": State.STARTING,
    "in_progress": State.RUNNING,
    "finalizing": State.RUNNING,
    "cancelling": State.STOPPING,
    "completed": State.SUCCEEDED,
    "failed": State.FAILED,
    "expired": State.EXPIRED,
    "cancelled": State.CANCELLED,
}

OVER_QUOTA: Final = {"token_limit_exceeded", "tokenlimitexceeded", "insufficientquota"}
"""Codes of a batch that has to wait until the tokens that are enqueued have been worked off."""


def group_id(key: str) -> str:
    """The id of a batch, made of its idempotency key: ``find`` needs no table."""
    return f"batch-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def metadata(spec: BatchTransform, id: str, part: int, parts: int, lines: int) -> dict[str, str]:
    """What one of the service's batches remembers, so that any process can go on with it.
    Raises InvalidRequest for a spec that does not fit."""
    packed = base64.b64encode(zlib.compress(msgspec.json.encode(_lean(spec)), 9)).decode()
    pieces = [packed[at : at + _PIECE] for at in range(0, len(packed), _PIECE)]
    if len(pieces) > _PIECES:
        raise InvalidRequest(
            f"the batch's spec takes {len(packed)} characters, and the service keeps "
            f"{_PIECES * _PIECE}",
            field="params",
            provider="azure",
            hint="Shorten params: move long system prompts or tools into the lines",
        )
    return {
        ID: id,
        KEY: spec.idempotency_key or "",
        NAME: spec.name or "",
        PART: f"{part}/{parts}",
        LINES: str(lines),
        **{f"{_SPEC}{index}": piece for index, piece in enumerate(pieces)},
    }


def _lean(spec: BatchTransform) -> dict[str, Any]:
    """The spec without what is at its default."""
    blank = msgspec.to_builtins(BatchTransform(input="-", output="-", chat=""))
    return {
        name: value
        for name, value in msgspec.to_builtins(spec).items()
        if value != blank.get(name) or name in {"input", "output", "chat"}
    }


def spec_of(batch: dict[str, Any]) -> BatchTransform:
    """The spec that a batch remembers."""
    about: dict[str, str] = batch["metadata"]
    pieces: list[str] = []
    while (name := f"{_SPEC}{len(pieces)}") in about:
        pieces.append(about[name])
    packed = zlib.decompress(base64.b64decode("".join(pieces)))
    return msgspec.json.decode(packed, type=met(BatchTransform))


def part_of(batch: dict[str, Any]) -> tuple[int, int]:
    """Which part it is, and of how many."""
    part, _, parts = batch["metadata"][PART].partition("/")
    return int(part), int(parts)


def body(file: str, url: str, about: dict[str, str]) -> dict[str, Any]:
    """The body of ``POST batches``."""
    return {
        "input_file_id": file,
        "endpoint": url,
        "completion_window": WINDOW,
        "metadata": about,
    }


def line(request: ChatRequest, record: Any, index: int, url: str, modern: bool) -> bytes:
    """One line of the input file. Raises InvalidRequest for a record that holds no chat."""
    filled = msgspec.structs.replace(request, messages=messages(record))
    made = {
        "custom_id": f"line-{index}",
        "method": "POST",
        "url": url,
        "body": chat.body(filled, modern=modern),
    }
    return msgspec.json.encode(made) + b"\n"


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw()
    request_id: str | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: dict[str, Any] | None = None


_decode: Final = msgspec.json.Decoder(_Line).decode


def results(content: bytes) -> dict[int, bytes]:
    """The lines of an output or error file by the number of their record."""
    found: dict[int, bytes] = {}
    for raw in content.splitlines():
        if raw.strip():
            found[record_of(raw)] = raw
    return found


def record_of(raw: bytes) -> int:
    """The number of the record that a line of an output or error file answers."""
    return int(_decode(raw).custom_id.removeprefix("line-"))


def outcome(raw: bytes, model: str) -> dict[str, Any]:
    """One record's output. Raises the error that the service had with it."""
    answered = _decode(raw)
    response = answered.response
    if answered.error or response is None:
        raise _of_line(made(answered.error or {}, status=None))
    if not 200 <= response.status_code < 300:
        inner = msgspec.json.decode(response.body or b"{}")
        error = inner.get("error", inner) if isinstance(inner, dict) else {"message": str(inner)}
        raise _of_line(made(error, status=response.status_code, request_id=response.request_id))
    try:
        reply = chat_reply.decode(bytes(response.body), {}, model)
    except CloudAIError as error:  # of this line alone: the others have their answers
        raise _of_line(error) from None
    return said(reply)


def _of_line(error: CloudAIError) -> InvalidRequest:
    """An error of one line, whatever its kind: the batch as a whole went on."""
    if isinstance(error, InvalidRequest):
        return error
    return InvalidRequest(
        f"{type(error).__name__}: {error.message}", provider="azure", code=error.code
    )


def problems(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """What the validation of a batch's file found."""
    return (batch.get("errors") or {}).get("data") or []


def told(problem: dict[str, Any]) -> str:
    """A problem in one line."""
    line = f" (line {problem['line']})" if problem.get("line") else ""
    return f"{problem.get('code')}: {problem.get('message')}{line}"


def why(batch: dict[str, Any]) -> str:
    """Why a batch failed."""
    return "; ".join(map(told, problems(batch)[:3])) or "the service gave no reason"
