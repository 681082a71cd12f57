"""Asking one profile, and on its failure the next ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain
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
    """``attempt(binding)``; while that fails, ``attempt`` on each of ``others()``. One that failed
    a moment ago is asked last. Raises the last failure."""
    if not binding.profile.fallback:
        return attempt(binding)
    failures: list[CloudAIError] = []
    for one in _order(binding, others):
        try:
            return attempt(one)
        except FALLS_BACK as failure:
            _add(failures, failure)
    raise failures[-1]


async def aask(
    binding: CapabilityBinding,
    others: Callable[[], Iterable[CapabilityBinding]],
    attempt: Callable[[CapabilityBinding], Awaitable[T]],
) -> T:
    """The async twin of ``ask``."""
    if not binding.profile.fallback:
        return await attempt(binding)
    failures: list[CloudAIError] = []
    for one in _order(binding, others):
        try:
            return await attempt(one)
        except FALLS_BACK as failure:
            _add(failures, failure)
    raise failures[-1]


def _add(failures: list[CloudAIError], failure: CloudAIError) -> None:
    if failures:
        failure.__cause__ = failures[-1]
    failures.append(failure)


def _order(
    binding: CapabilityBinding, others: Callable[[], Iterable[CapabilityBinding]]
) -> Iterator[CapabilityBinding]:
    """Whom to ask, one after the other, made only when they are needed."""
    held: list[CapabilityBinding] = []
    for one in chain((binding,), _lazily(others)):
        if one.caller.breaker.allows():
            yield one
        else:
            held.append(one)
    yield from held


def _lazily(
    others: Callable[[], Iterable[CapabilityBinding]],
) -> Iterator[CapabilityBinding]:
    yield from others()
