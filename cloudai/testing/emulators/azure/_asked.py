"""A chat completion's body as the neutral request, for this machine's models and the rules."""

from __future__ import annotations

import json
from typing import Any

from cloudai.errors import CloudAIError, ContextOverflow, InvalidRequest
from cloudai.formats.openai import completion
from cloudai.testing.emulators.azure._http import Refused
from cloudai.types import ChatRequest


def asked(body: dict[str, Any], model: str) -> ChatRequest:
    """What the body asks for. Raises Refused."""
    try:
        return completion.read(json.dumps(body).encode()).request(model, urls=True, native={})
    except InvalidRequest as error:
        raise refused(error) from None


def refused(error: CloudAIError) -> Refused:
    """A local model's error in Azure OpenAI's words."""
    if isinstance(error, ContextOverflow):
        return Refused(400, "context_length_exceeded", str(error), param="messages")
    if isinstance(error, InvalidRequest):
        return Refused(400, "BadRequest", str(error))
    return Refused(500, "InternalServerError", str(error))
