"""The conformance suite: what a provider of cloudai has to do, as tests that it runs.

A provider writes a ``Harness`` of a few lines and subclasses the suite of each capability it
has::

    from cloudai.testing.conformance import ChatConformance, Harness

    class AcmeHarness(Harness):
        provider = "acme"
        gaps = {"chat:tools": "Acme's models call no tools"}

    class TestChat(ChatConformance):
        harness = AcmeHarness

or, for all its capabilities at once, ``globals().update(suites(AcmeHarness))``. Every test runs
with the sync and with the async client. ``python -m cloudai.testing.conformance report PATH``
prints the table.
"""

# The imports come after the rewrite is asked for, so that a failed assertion shows its values.
# ruff: noqa: E402
from __future__ import annotations

from typing import Final

import pytest

pytest.register_assert_rewrite(
    *(
        f"cloudai.testing.conformance.{name}"
        for name in ("base", "batch", "chat", "embeddings", "endpoints", "training")
    )
)

from cloudai._core.profiles import registry
from cloudai.testing.conformance.base import Api, Conformance, feature
from cloudai.testing.conformance.batch import BatchConformance
from cloudai.testing.conformance.chat import ChatConformance
from cloudai.testing.conformance.embeddings import EmbeddingsConformance
from cloudai.testing.conformance.endpoints import EndpointsConformance
from cloudai.testing.conformance.harness import Faults, Harness, Work
from cloudai.testing.conformance.training import TrainingConformance

__all__ = [
    "SUITES",
    "Api",
    "BatchConformance",
    "ChatConformance",
    "Conformance",
    "EmbeddingsConformance",
    "EndpointsConformance",
    "Faults",
    "Harness",
    "TrainingConformance",
    "Work",
    "feature",
    "suites",
]

SUITES: Final[dict[str, type[Conformance]]] = {
    suite.capability: suite
    for suite in (
        TrainingConformance,
        EndpointsConformance,
        BatchConformance,
        ChatConformance,
        EmbeddingsConformance,
    )
}
"""Each capability's suite."""


def suites(harness: type[Harness]) -> dict[str, type[Conformance]]:
    """A test class for each capability that the harness's provider declares, by class name; for
    a test module's ``globals().update``. Raises ConfigError for an unknown provider."""
    spec = registry.spec(harness.provider)
    made: dict[str, type[Conformance]] = {}
    for capability in spec.capabilities:
        name = f"Test{harness.provider.title().replace('-', '')}{capability.title()}"
        made[name] = type(name, (SUITES[capability],), {"harness": harness, "__module__": __name__})
    return made
