"""One text in the making."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloudai.engine.decoding.sampling import Sampling
from cloudai.engine.grammar import Grammar
from cloudai.errors import ProviderError

Sink = Callable[["list[int] | Exception | None"], None]
"""Takes tokens as they are made, then None, or the error that ended them. It is called by the
engine's thread, and must not take long."""


class Request:
    """One text in the making.

    Attributes
    ----------
    tokens: the prompt, then what was made. read: how many the model has read, or is reading.
    flying: tokens being made. fresh: whether the last one came from the model itself, so that
        it knows it. seat: where it runs; None: it waits. done: it has ended, or its caller left.
    """

    __slots__ = (
        "done", "ends", "flying", "fresh", "grammar", "how", "limit", "number", "prompt", "read",
        "seat", "seed", "sink", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        prompt: Sequence[int],
        limit: int,
        how: Sampling,
        ends: frozenset[int],
        sink: Sink,
        grammar: Grammar | None,
    ) -> None:
        self.tokens = list(prompt)
        self.prompt = len(self.tokens)
        self.limit = limit
        self.how = how
        self.seed = how.start()
        self.ends = ends
        self.sink = sink
        self.grammar = grammar
        self.number = 0
        self.read = 0
        self.flying = 0
        self.fresh = False
        self.seat: int | None = None
        self.done = False

    def leave(self) -> None:
        """The caller wants no more of it; its seat is free at the next turn."""
        self.done = True

    @property
    def made(self) -> int:
        return len(self.tokens) - self.prompt

    def finish(self, error: Exception | None = None) -> None:
        self.done = True
        self.sink(error)


def broken() -> ProviderError:
    """The error of scores that are no numbers."""
    return ProviderError(
        "the model's scores are no numbers",
        provider="local",
        hint="Use dtype='float32', or look at the model's weights",
    )
