"""Holding an answer to a JSON Schema while it is made, with llguidance: at each step, tokens
that would leave the schema get no chance, so that a finished answer always satisfies it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from cloudai.errors import InvalidRequest, MissingExtra, UnsupportedByProvider


class Grammar:
    """The state of one answer within its grammar."""

    def __init__(self, matcher: Any, width: int, field: str) -> None:
        self._matcher = matcher
        self._field = field
        self._bits = np.zeros((1, (width + 31) // 32), dtype=np.int32)

    def mask(self, logits: Any) -> None:
        """Takes every chance from the tokens that the grammar forbids now."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        size = logits.shape[0]
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little").view(np.bool_)
        forbidden = np.ones(size, dtype=np.bool_)
        forbidden[: allowed.size] = ~allowed[:size]
        logits[torch.from_numpy(forbidden).to(logits.device)] = -torch.inf

    def accept(self, token: int) -> list[int]:
        """Takes the chosen token; gives those that must follow it, taken already."""
        self._matcher.consume_token(token)
        self._check()
        if self._matcher.is_stopped():
            return []
        forced: list[int] = self._matcher.compute_ff_tokens()
        if forced:
            self._matcher.consume_tokens(forced)
            self._check()
        return forced

    @property
    def done(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refused(self._field, self._matcher)


def _refused(field: str, matcher: Any) -> InvalidRequest:
    """A schema that the library cannot hold to, or whose parts are too many at one place."""
    return InvalidRequest(
        f"{field} cannot be held to: {matcher.get_error().strip().splitlines()[0]}",
        field=field,
        provider="local",
        hint="Leave that part of the schema out, or say it in the prompt",
    )


class GrammarMaker:
    """Makes grammars for one tokenizer. Preparing it takes about a second, once."""

    def __init__(self, tokenizer: Any, width: int, ends: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._ends = sorted(ends)
        self._lock = threading.Lock()
        self._made: Any = None

    def make(self, schema: dict[str, Any] | str, field: str) -> Grammar:
        """The grammar of a JSON Schema, or one written in Lark. Raises InvalidRequest naming
        ``field`` for a schema that is invalid or uses what cannot be held to."""
        try:
            from llguidance import LLMatcher
        except ModuleNotFoundError:
            raise MissingExtra("llguidance", extra="local", provider="local") from None
        if isinstance(schema, str):
            text = LLMatcher.grammar_from_lark(schema)
        else:
            # Without this the model may write blanks for ever.
            text = LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides={"whitespace_flexible": False}
            )
        matcher = LLMatcher(self._prepared(), text, log_level=0)
        if matcher.is_error():
            raise _refused(field, matcher)
        return Grammar(matcher, self._width, field)

    def _prepared(self) -> Any:
        with self._lock:
            if self._made is None:
                backend = getattr(self._tokenizer, "backend_tokenizer", None)
                if backend is None:
                    raise UnsupportedByProvider(
                        "structured output with a tokenizer written in Python",
                        provider="local",
                        alternative="Use a model whose folder holds a tokenizer.json",
                    )
                from llguidance import LLTokenizer

                self._made = LLTokenizer(
                    backend.to_str(), n_vocab=self._width, eos_token=self._ends
                )
            return self._made
