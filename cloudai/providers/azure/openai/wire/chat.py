"""Chat completions: what Azure OpenAI has its own way in OpenAI's format. Answers:
``chat_reply``."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from cloudai.formats import openai
from cloudai.providers.azure import models
from cloudai.types import ChatRequest
from cloudai.types._base import invalid

MAX_STOPS: Final = 4
"""Stop sequences (CreateChatCompletionRequest.stop.maxItems, spec read 2026-11)."""
MAX_TOOLS: Final = 128
"""Tools (Azure OpenAI quotas and limits, read 2025-08)."""
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")

# Images by https:// or inline (Azure OpenAI's page on vision, read 2025-08).
_MODERN: Final = openai.Dialect(
    provider="azure",
    limit="max_completion_tokens",
    documents=True,
    image_urls=("https://",),
    templated=False,
    strict=True,
)
_DATED: Final = msgspec.structs.replace(_MODERN, limit="max_tokens", usage=False)

_encode: Final = msgspec.json.Encoder().encode


def encode(request: ChatRequest, *, modern: bool = True, stream: bool = False) -> bytes:
    """The request's body.

    Parameters
    ----------
    modern: False for dated versions before 2024-09-01-preview, which know ``max_tokens`` only
        and no ``stream_options``.
    stream: True asks for a stream, with the usage in its last chunk.

    Raises InvalidRequest or UnsupportedByProvider for what the service would refuse.
    """
    return _encode(body(request, modern=modern, stream=stream))


def body(request: ChatRequest, *, modern: bool = True, stream: bool = False) -> dict[str, Any]:
    """The request's body, before it is JSON."""
    if request.top_p is not None and request.top_p <= 0:
        raise invalid("top_p", request.top_p, "is not above 0", "Leave it out, or raise it.")
    if len(request.stop) > MAX_STOPS:
        raise invalid("stop", request.stop, f"holds more than {MAX_STOPS} texts")
    if len(request.tools) > MAX_TOOLS:
        raise invalid("tools", len(request.tools), f"is more than {MAX_TOOLS} tools")
    for tool in request.tools:
        if not _NAME.match(tool.name):
            raise invalid(
                "tools.name",
                tool.name,
                "is not 1 to 64 letters, digits, _ and -",
                "Rename the tool.",
            )
    request = models.checked(request)
    return openai.body(request, request.model, _MODERN if modern else _DATED, stream=stream)
