"""Values of numpy and torch as plain JSON, with cloudai's error for what JSON cannot hold."""

from __future__ import annotations

from typing import Any

from cloudai._core.handlers import portable
from cloudai.errors import InvalidRequest
from cloudai.types import JSON
from cloudai.types._base import invalid


def jsonable(value: Any, path: str = "value") -> JSON:
    """As ``portable.jsonable``. Raises InvalidRequest naming the inner path of what JSON cannot
    hold, NaN and infinity too."""
    try:
        return portable.jsonable(value, path)
    except portable.Refused as error:
        raise refusal(error) from None


def refusal(error: portable.Refused) -> InvalidRequest:
    """The same as cloudai says it."""
    return invalid(error.field, error.value, error.problem, error.hint)
