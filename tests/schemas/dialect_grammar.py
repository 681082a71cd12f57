"""What the local engine can hold a model to: llguidance's own compiler says."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher


def check(schema: dict[str, Any]) -> None:
    """Raises AssertionError for a schema that cannot be compiled."""
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    problem = LLMatcher.validate_grammar(grammar)
    assert not problem, problem
