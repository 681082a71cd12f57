"""Chat completions: answers and streams, with Azure's errors and prices."""

from __future__ import annotations

from collections.abc import Mapping

from cloudai.formats import openai
from cloudai.providers.azure.errors import made, request_id
from cloudai.providers.azure.models import TABLE
from cloudai.types import ChatReply


def decode(content: bytes, headers: Mapping[str, str], asked: str) -> ChatReply:
    """An answer. Raises ProviderError for what is none, and the error that it carries."""
    return openai.reply(content, service(headers, asked))


def service(headers: Mapping[str, str], asked: str) -> openai.Service:
    """Who answers: with the headers of the answer, and the deployment that was asked."""
    id = request_id(headers)
    return openai.Service(
        provider="azure",
        model=asked,
        request_id=id,
        failed=lambda told: made(told, status=None, request_id=id),
        cost=TABLE.cost,
        hint="Look whether endpoint is an Azure OpenAI resource and not a proxy's page",
    )
