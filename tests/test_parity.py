"""Sync and async are one interface: the same names, the same parameters."""

from __future__ import annotations

import inspect

import pytest

from cloudai import client

PAIRS = [
    (getattr(client, name), getattr(client, f"Async{name}"))
    for name in client.__all__
    if f"Async{name}" in client.__all__
]


def public(kind: type) -> dict[str, object]:
    renamed = {"__aiter__": "__iter__", "__aenter__": "__enter__", "__aexit__": "__exit__"}
    return {
        renamed.get(name, name): member
        for name in dir(kind)
        if not name.startswith("_") or name in renamed
        for member in [inspect.getattr_static(kind, name)]
    }


def test_there_are_pairs() -> None:
    assert len(PAIRS) == 10


@pytest.mark.parametrize(("sync", "twin"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_pair_has_the_same_names_and_parameters(sync: type, twin: type) -> None:
    ours, theirs = public(sync), public(twin)
    assert set(theirs) - {"__iter__", "__enter__", "__exit__"} == set(ours)
    for name, member in ours.items():
        other = theirs[name]
        assert isinstance(member, property) == isinstance(other, property), name
        if inspect.isfunction(member):
            assert inspect.isfunction(other)
            assert list(inspect.signature(member).parameters.values()) == list(
                inspect.signature(other).parameters.values()
            ), name
        assert member.__doc__, f"{sync.__name__}.{name} has no docstring"
