"""Spans around calls: nothing unless the user asks for it.

``cloudai.instrument(hook)`` adds a hook: a callable that gets the operation's name and its
attributes and gives a context manager. ``cloudai.instrument("opentelemetry")`` adds the one
that writes OpenTelemetry spans with the gen_ai attributes (semantic conventions 1.37). Never
part of a span: inputs, outputs, secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, TypeAlias

from cloudai.errors import MissingExtra

logger: Final = logging.getLogger("cloudai")
logger.addHandler(logging.NullHandler())

Hook: TypeAlias = Callable[[str, Mapping[str, Any]], AbstractContextManager[Any]]

hooks: Final[list[Hook]] = []


def instrument(hook: Hook | str) -> Callable[[], None]:
    """Adds a hook for every call of every client in this process; the result removes it."""
    chosen = _opentelemetry() if isinstance(hook, str) else hook
    hooks.append(chosen)

    def remove() -> None:
        if chosen in hooks:
            hooks.remove(chosen)

    return remove


def span(operation: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """All hooks' context managers as one. Called only where there are hooks."""
    stack = ExitStack()
    for hook in hooks:
        stack.enter_context(hook(operation, attributes))
    return stack


def _opentelemetry() -> Hook:
    try:
        from opentelemetry import trace  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise MissingExtra("opentelemetry-api", extra="otel") from None
    tracer: Any = trace.get_tracer("cloudai")

    def hook(operation: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
        names = {"provider": "gen_ai.provider.name", "model": "gen_ai.request.model"}
        return tracer.start_as_current_span(
            operation,
            attributes={
                names.get(key, f"cloudai.{key}"): value for key, value in attributes.items()
            },
        )

    return hook
