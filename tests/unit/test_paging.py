"""Lists page by page: whole, and never round in a circle."""

from __future__ import annotations

import pytest

from cloudai import ProviderError
from cloudai._core.calls.paging import paged


def test_l11_all_pages_in_order() -> None:
    tokens = {None: ([1, 2], "a"), "a": ([], "b"), "b": ([3], None)}
    assert list(paged("aws", lambda token: tokens[token])) == [1, 2, 3]


@pytest.mark.parametrize("again", [{"a": ([2], "a")}, {"a": ([2], "b"), "b": ([3], "a")}])
def test_l11_a_page_that_comes_again_ends_the_list(again: dict[str, tuple[list[int], str]]) -> None:
    asked: list[str | None] = []

    def fetch(token: str | None) -> tuple[list[int], str | None]:
        asked.append(token)
        return ([1], "a") if token is None else again[token]

    with pytest.raises(ProviderError, match="twice"):
        list(paged("azure", fetch))
    assert len(asked) < 5
