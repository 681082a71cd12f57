"""Lists that a service gives page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cloudai.errors import ProviderError

T = TypeVar("T")


def paged(
    provider: str, fetch: Callable[[str | None], tuple[Iterable[T], str | None]]
) -> Iterator[T]:
    """All items of a list.

    Parameters
    ----------
    fetch: a page's items, and the token of the next page or None, by the page's own token; None
        asks for the first one.

    Raises ProviderError where the service leads back to a page that it gave already: going on
    would not end, and a list cut short would hide what is there.
    """
    token: str | None = None
    seen: set[str] = set()
    while True:
        items, token = fetch(token)
        yield from items
        if not token:
            return
        if token in seen:
            raise ProviderError(
                "the service gave the same page of a list twice", provider=provider,
                hint="Try again later",
            )  # fmt: skip
        seen.add(token)
