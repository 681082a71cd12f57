"""Whether a request is one the service takes: by the types that the openai SDK publishes, and
by the rules that stand in Microsoft's limits and are no types."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Final

from cloudai.testing.emulators.azure._http import Refused

_TYPES: Final = {
    "chat": "openai.types.chat.completion_create_params:CompletionCreateParamsNonStreaming",
    "chat.stream": "openai.types.chat.completion_create_params:CompletionCreateParamsStreaming",
    "embeddings": "openai.types.embedding_create_params:EmbeddingCreateParams",
    "batches": "openai.types.batch_create_params:BatchCreateParams",
    "fine_tuning": "openai.types.fine_tuning.job_create_params:JobCreateParams",
}
# Fields that Azure has beside OpenAI's (contracts of Azure OpenAI's reference, read 2025-08).
_AZURE: Final = {
    "chat": {"data_sources", "max_tokens", "user_security_context"},
    "chat.stream": {"data_sources", "max_tokens", "user_security_context"},
    "embeddings": {"input_type"},
    "batches": {"output_expires_after"},
    "fine_tuning": {"trainingType"},
}
_ENDPOINTS: Final = {"/chat/completions", "/v1/chat/completions", "/v1/responses"}


@cache
def _adapter(kind: str) -> tuple[Any, frozenset[str]]:
    from pydantic import TypeAdapter

    module, _, name = _TYPES[kind].partition(":")
    found = getattr(importlib.import_module(module), name)
    names: set[str] = set()
    for base in (found, *getattr(found, "__orig_bases__", ())):
        names |= set(getattr(base, "__annotations__", {}))
    return TypeAdapter(found), frozenset(names)


def check(kind: str, body: Any) -> dict[str, Any]:
    """The body, where the SDK's published type takes it. Raises Refused with the field."""
    from pydantic import ValidationError

    if not isinstance(body, dict):
        raise Refused(400, "BadRequest", "The body must be a JSON object.")
    adapter, names = _adapter(kind)
    for name in body:
        if name not in names and name not in _AZURE[kind]:
            raise Refused(
                400,
                "unknown_parameter",
                f"Unrecognized request argument supplied: {name}",
                param=name,
            )
    known = {name: value for name, value in body.items() if name in names}
    if kind == "batches" and known.get("endpoint") in _ENDPOINTS:
        known["endpoint"] = "/v1/chat/completions"  # Azure also takes it without the version
    try:
        _walk(adapter.validate_python(known))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise Refused(
            400, "invalid_type", f"Invalid value for '{where}': {first['msg']}.", param=where
        ) from None
    return body


def _walk(value: Any) -> None:
    # pydantic checks an Iterable only as it is walked.
    if isinstance(value, dict):
        for inner in value.values():
            _walk(inner)
    elif isinstance(value, (list, tuple)) or hasattr(value, "__next__"):
        for inner in value:
            _walk(inner)
