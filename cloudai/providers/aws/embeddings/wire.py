"""Bedrock's embedding models through InvokeModel: requests and answers."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai.errors import ProviderError, UnsupportedByProvider
from cloudai.providers.aws import families
from cloudai.types import EmbeddingRequest
from cloudai.types._base import invalid

COHERE_TEXTS: Final = 96
"""Texts in one request (Cohere Embed on Bedrock, user guide, read 2026-11)."""

V3_CHARACTERS: Final = 2048
"""Of one text that Cohere Embed v3 takes; its own ``truncate`` counts tokens, and does not help
beyond (Cohere Embed v3 on Bedrock, user guide: ``texts``)."""

_TASKS: Final = {
    None: "search_document",
    "document": "search_document",
    "similarity": "search_document",
    "query": "search_query",
    "classification": "classification",
    "clustering": "clustering",
}

# Titan Text Embeddings V2 and Cohere Embed v4 make these lengths (user guide, read 2026-11).
_TITAN_DIMENSIONS: Final = (256, 512, 1024)
_COHERE_DIMENSIONS: Final = (256, 512, 1024, 1536)


def per_request(model: str) -> int:
    """How many texts go into one request."""
    return COHERE_TEXTS if families.family(model).startswith("cohere.") else 1


def check(request: EmbeddingRequest) -> None:
    """Refuses what the model cannot do, before anything is sent."""
    name = families.family(request.model)
    if name.startswith("amazon.titan-embed-text-v2"):
        _dimensions(request, _TITAN_DIMENSIONS)
    elif name.startswith("cohere.embed-v4"):
        _dimensions(request, _COHERE_DIMENSIONS)
    elif name.startswith(("amazon.titan-embed", "cohere.embed")):
        if request.dimensions is not None:
            raise UnsupportedByProvider(
                f"dimensions with {request.model}",
                provider="aws",
                alternative="amazon.titan-embed-text-v2:0 and cohere.embed-v4:0 take them",
            )
    elif not name.startswith(("arn:", "custom-model", "provisioned-model")):
        raise UnsupportedByProvider(
            f"embeddings with {request.model}",
            provider="aws",
            alternative="Use amazon.titan-embed-text-v2:0, cohere.embed-v4:0 or sagemaker:NAME",
            field="model",
            value=request.model,
        )
    if _short(name) and not request.truncate:
        for at, text in enumerate(request.texts):
            if len(text) > V3_CHARACTERS:
                raise invalid(
                    f"texts[{at}]",
                    text,
                    f"has {len(text)} characters, and {request.model} takes {V3_CHARACTERS}",
                    "Pass truncate=True, cut it, or use cohere.embed-v4:0.",
                )
    if request.truncate and not name.startswith("cohere."):
        raise UnsupportedByProvider(
            "truncate with Titan",
            provider="aws",
            alternative="Cut the texts yourself, or use Cohere's models, which can",
        )


def _short(name: str) -> bool:
    return name.startswith("cohere.embed-") and not name.startswith("cohere.embed-v4")


def _dimensions(request: EmbeddingRequest, allowed: tuple[int, ...]) -> None:
    if request.dimensions is not None and request.dimensions not in allowed:
        raise invalid(
            "dimensions",
            request.dimensions,
            f"is not a length that {request.model} makes",
            f"Use one of {allowed}.",
        )


def body(request: EmbeddingRequest) -> dict[str, Any]:
    """The body of one request."""
    made: dict[str, Any]
    if per_request(request.model) > 1:
        most = V3_CHARACTERS if _short(families.family(request.model)) else None
        texts = [text[:most] if request.truncate else text for text in request.texts]
        made = {"texts": texts, "input_type": _TASKS[request.task]}
        made["truncate"] = "END" if request.truncate else "NONE"
        made["embedding_types"] = ["float"]
        if request.dimensions is not None:
            made["output_dimension"] = request.dimensions
    else:
        made = {"inputText": request.texts[0]}
        if request.dimensions is not None:
            made["dimensions"] = request.dimensions
    return {**made, **request.native}


class _ByType(msgspec.Struct):
    floats: list[list[float]] = msgspec.field(name="float", default_factory=list)


class _Cohere(msgspec.Struct):
    embeddings: _ByType | list[list[float]]


class _Titan(msgspec.Struct):
    embedding: list[float]
    inputTextTokenCount: int = 0


_cohere: Final = msgspec.json.Decoder(_Cohere).decode
_titan: Final = msgspec.json.Decoder(_Titan).decode


def reply(
    model: str, data: bytes, counted: str | None, request_id: str | None
) -> tuple[list[list[float]], int]:
    """The vectors and the tokens. ``counted`` is X-Amzn-Bedrock-Input-Token-Count."""
    tokens = int(counted) if counted and counted.isdigit() else 0
    try:
        if per_request(model) > 1:
            found = _cohere(data).embeddings
            return (found if isinstance(found, list) else found.floats), tokens
        one = _titan(data)
        return [one.embedding], tokens or one.inputTextTokenCount
    except msgspec.DecodeError as error:
        raise ProviderError(
            f"the answer of {model} is not an embedding ({error})",
            provider="aws",
            request_id=request_id,
        ) from None
