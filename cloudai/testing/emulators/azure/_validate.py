"""Whether a request is one the service takes: by the types that the openai SDK publishes, and
by the bounds that stand in the services' published descriptions and are no types.

The SDK's types say more than pydantic holds a TypedDict to by itself. Here an unknown field is
refused at any depth, nothing is coerced ("1" is no number), and sequences are lists.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
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
    "chat": {"data_sources", "user_security_context"},
    "chat.stream": {"data_sources", "user_security_context"},
    "embeddings": {"input_type"},
    "batches": set[str](),
    "fine_tuning": {"trainingType"},
}
# Of numbers their values, of lists and objects their lengths: the least and the most (openai's
# and Azure's published descriptions, read 2026-11; 128 tools: Azure's limits, read 2025-08).
_ABOVE_ZERO: Final = math.nextafter(0, 1)
_CHAT: Final = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
    ("n", 1, 128),
    ("top_logprobs", 0, 20),
    ("seed", -(2**63), 2**63 - 1),
    ("messages", 1, math.inf),
    ("messages[].content", 1, math.inf),
    ("prediction.content", 1, math.inf),
    ("stop", 1, 4),
    ("tools", 0, 128),
    ("functions", 1, 128),
    ("metadata", 0, 16),
)
_TUNED: Final = (
    ("n_epochs", 1, 50),
    ("batch_size", 1, 256),
    ("learning_rate_multiplier", _ABOVE_ZERO, math.inf),
    ("beta", _ABOVE_ZERO, 2),
    ("compute_multiplier", math.nextafter(1e-5, 1), 10),
    ("eval_interval", 1, math.inf),
    ("eval_samples", 1, math.inf),
)
_BOUNDS: Final[dict[str, tuple[tuple[str, float, float], ...]]] = {
    "chat": _CHAT,
    "chat.stream": _CHAT,
    "embeddings": (("input", 1, 2048), ("input[]", 1, math.inf), ("dimensions", 1, math.inf)),
    "batches": (("metadata", 0, 16), ("output_expires_after.seconds", 3600, 2_592_000)),
    "fine_tuning": (
        ("seed", 0, 2**31 - 1),
        ("metadata", 0, 16),
        *((f"hyperparameters.{name}", low, high) for name, low, high in _TUNED),
        *(
            (f"method.{method}.hyperparameters.{name}", low, high)
            for method in ("supervised", "dpo", "reinforcement")
            for name, low, high in _TUNED
        ),
    ),
}
# Of texts their lengths; Azure's suffix is shorter than OpenAI's (fine-tuning guide, read 2025-08).
_TEXTS: Final = (
    ("suffix", 1, 18),
    ("safety_identifier", 0, 64),
    ("metadata.*", 0, 512),
    ("input", 1, math.inf),
    ("input[]", 1, math.inf),
)
_ENDPOINTS: Final = {"/chat/completions", "/v1/chat/completions", "/v1/responses"}


@cache
def _validator(kind: str) -> Any:
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    module, _, name = _TYPES[kind].partition(":")
    adapter = TypeAdapter(getattr(importlib.import_module(module), name))
    return SchemaValidator(_hardened(adapter.core_schema))


def _hardened(node: Any) -> Any:
    """pydantic's schema with nothing coerced and nothing unknown let through."""
    if isinstance(node, (list, tuple)):
        return type(node)(map(_hardened, node))
    if not isinstance(node, dict):
        return node
    made = {name: _hardened(value) for name, value in node.items()}
    kind = made.get("type")
    if not isinstance(kind, str):
        return made  # the fields of an object, one of which is called type
    if kind == "generator":
        made["type"] = "list"  # an Iterable would be checked only as it is walked
    elif kind == "typed-dict":
        made["extra_behavior"] = "forbid"
    elif kind in {"str", "int", "float", "bool"}:
        made["strict"] = True
    elif kind == "literal" and made["expected"] in ([True], [False]):
        # 1 equals True; Literal[False] is an optional field that may be null.
        made = {"type": "bool", "strict": True}
    return made


def check(kind: str, body: Any) -> dict[str, Any]:
    """The body, where the SDK's published type takes it. Raises Refused with the field."""
    from pydantic_core import ValidationError

    if not isinstance(body, dict):
        raise Refused(400, "BadRequest", "The body must be a JSON object.")
    known = {name: value for name, value in body.items() if name not in _AZURE[kind]}
    if kind == "batches" and str(known.get("endpoint")) in _ENDPOINTS:
        known["endpoint"] = "/v1/chat/completions"  # Azure also takes it without the version
    try:
        _validator(kind).validate_json(json.dumps(known))
    except ValidationError as error:
        raise _refused(error.errors()) from None
    for path, low, high in _BOUNDS[kind]:
        _within(path, low, high, [_size(value) for value in _at(body, path)])
    for path, low, high in _TEXTS:
        _within(path, low, high, [len(v) for v in _at(body, path) if isinstance(v, str)])
    return body


def _at(value: Any, path: str) -> Iterator[Any]:
    """What stands at a path: ``[]`` is each item of a list, ``*`` each value of an object."""
    if not path:
        yield value
        return
    step, _, rest = path.partition(".")
    name, each, _ = step.partition("[]")
    if not isinstance(value, dict):
        return
    for inner in value.values() if name == "*" else [value.get(name)]:
        for one in (inner if isinstance(inner, list) else ()) if each else (inner,):
            yield from _at(one, rest)


def _size(value: Any) -> float | None:
    if isinstance(value, (list, dict)):
        return len(value)
    return value if isinstance(value, (int, float)) else None


def _within(path: str, low: float, high: float, sizes: list[float | None]) -> None:
    for size in sizes:
        if size is not None and not low <= size <= high:
            raise Refused(
                400,
                "invalid_value",
                f"Invalid value for '{path}': {size:g} is not from {low:g} to {high:g}.",
                param=path,
            )


def _refused(errors: list[Any]) -> Refused:
    # Each member of a union complains; the one that got furthest was meant.
    worst = max(errors, key=lambda error: len(error["loc"]))
    name = str(worst["loc"][-1]) if worst["loc"] else ""
    if worst["type"] == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {name}"
        return Refused(400, "unknown_parameter", message, param=name)
    where = ".".join(str(step) for step in worst["loc"])
    message = f"Invalid value for '{where}': {worst['msg']}."
    return Refused(400, "invalid_type", message, param=where)
