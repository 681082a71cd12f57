"""Asking one profile, and on its failure the next ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from cloudai.client._runtime import CapabilityBinding
from cloudai.errors import CapacityError, CloudAIError, QuotaExceeded, TransientError

T = TypeVar("T")

FALLS_BACK: Final = (TransientError, CapacityError, QuotaExceeded)
"""Failures of the provider rather than of the request: another profile may do better."""


def ask(
    binding: CapabilityBinding,
    others: Callable[[], Iterable[CapabilityBinding]],
    attempt: Callable[[CapabilityBinding], T],
) -> T:
    """``attempt(binding)``; while that fails, ``attempt`` on each of ``others()``. Raises the last
    failure."""
    try:
        return attempt(binding)
    except FALLS_BACK as failure:
        error: CloudAIError = failure
    for other in others():
        try:
            return attempt(other)
        except FALLS_BACK as failure:
            failure.__cause__ = error
            error = failure
    raise error


async def aask(
    binding: CapabilityBinding,
    others: Callable[[], Iterable[CapabilityBinding]],
    attempt: Callable[[CapabilityBinding], Awaitable[T]],
) -> T:
    """The async twin of ``ask``."""
    try:
        return await attempt(binding)
    except FALLS_BACK as failure:
        error: CloudAIError = failure
    for other in others():
        try:
            return await attempt(other)
        except FALLS_BACK as failure:
            failure.__cause__ = error
            error = failure
    raise error
