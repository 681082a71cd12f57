"""The conformance suite over registry × declared capabilities, sync and async.

A built-in provider is found in the registry and needs a harness in
``tests/providers/<name>/harness.py``; one without it fails here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from cloudai._core.profiles import registry
from cloudai.testing.conformance import Harness, suites

PROVIDERS = Path(__file__).parent.parent / "providers"


def harness_of(provider: str) -> type[Harness] | None:
    """The class ``HARNESS`` of the provider's harness module; None where there is no module."""
    file = PROVIDERS / provider / "harness.py"
    if not file.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"harness_of_{provider}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HARNESS


HARNESSES = {name: harness_of(name) for name in registry.BUILT_IN}

for found in HARNESSES.values():
    if found is not None:
        globals().update(suites(found))


@pytest.mark.parametrize("provider", HARNESSES)
def test_every_provider_has_a_harness(provider: str) -> None:
    harness = HARNESSES[provider]
    assert harness is not None, f"tests/providers/{provider}/harness.py is missing"
    assert harness.provider == provider


@pytest.mark.parametrize("provider", HARNESSES)
def test_every_capability_has_its_tests(provider: str) -> None:
    tested = {
        value.capability
        for value in globals().values()
        if isinstance(value, type) and getattr(value, "harness", None) is HARNESSES[provider]
    }
    assert tested == set(registry.spec(provider).capabilities)


@pytest.mark.parametrize("provider", HARNESSES)
def test_every_gap_has_a_reason_and_a_capability(provider: str) -> None:
    harness = HARNESSES[provider]
    assert harness is not None
    for key, reason in harness.gaps.items():
        assert key.partition(":")[0] in registry.spec(provider).capabilities, key
        assert len(reason.split()) > 3, f"{key}: {reason!r} gives no reason"
