"""Faults of any emulated cloud, by the names of cloudai's own operations."""

from __future__ import annotations

import re
from typing import Any, Final

from cloudai.testing.emulators.common.faults import Fault, Faults, Kind
from cloudai.types._base import unknown

# By METHOD /path Operation, as `Fault.match` has it. Azure's are those of Azure OpenAI and, where
# a profile names a workspace, of Azure ML.
_MATCH: Final[dict[str, dict[str, str]]] = {
    "aws": {
        "chat.create": r"/converse$",
        "chat.stream": r"/converse-stream$",
        "embeddings.create": r"^POST /model/.*/invoke$",
        "training.submit": r"SageMaker\.CreateTrainingJob$|POST /model-customization-jobs$",
        "training.status": r"SageMaker\.DescribeTrainingJob$",
        "training.cancel": r"SageMaker\.StopTrainingJob$",
        "endpoints.deploy": r"SageMaker\.CreateEndpoint$",
        "endpoints.status": r"SageMaker\.DescribeEndpoint$",
        "endpoints.predict": r"/invocations",
        "endpoints.delete": r"SageMaker\.DeleteEndpoint$",
        "batch.submit": r"SageMaker\.CreateTransformJob$|POST /model-invocation-job$",
        "batch.status": r"SageMaker\.DescribeTransformJob$|GET /model-invocation-job/",
        "batch.cancel": r"SageMaker\.StopTransformJob$|POST /model-invocation-job/.*/stop$",
    },
    "azure": {
        "chat.create": r"POST /openai/.*chat/completions$",
        "chat.stream": r"POST /openai/.*chat/completions$",
        "embeddings.create": r"POST /openai/.*embeddings$",
        "training.submit": r"PUT /subscriptions/.*/jobs/|POST /openai/.*fine_tuning/jobs$",
        "training.status": r"GET /subscriptions/.*/jobs/|GET /openai/.*fine_tuning/jobs/[^/]+$",
        "training.cancel": r"POST .*/jobs/[^/]+/cancel$",
        "endpoints.deploy": r"PUT /subscriptions/.*/(onlineEndpoints|accounts/[^/]+/deployments)"
        r"/[^/]+$",
        "endpoints.status": r"GET /subscriptions/.*/(onlineEndpoints|accounts/[^/]+/deployments)/",
        "endpoints.predict": r"POST /score/",
        "endpoints.delete": r"DELETE /subscriptions/.*/(onlineEndpoints|deployments)/[^/]+$",
        "batch.submit": r"PUT /subscriptions/.*/batchEndpoints/[^/]+$|POST /openai/.*batches$",
        "batch.status": r"GET /subscriptions/.*/jobs/|GET /openai/.*batches/[^/]+$",
        "batch.cancel": r"POST .*/(jobs|batches)/[^/]+/cancel$",
    },
    "vertex": {
        "chat.create": r"POST .*:generateContent$",
        "chat.stream": r"POST .*:streamGenerateContent$",
        "embeddings.create": r"POST .*/publishers/.*/models/.*:(predict|embedContent)$",
        "training.submit": r"POST .*/(customJobs|tuningJobs)$",
        "training.status": r"GET .*/(customJobs|tuningJobs)/[^/]+$",
        "training.cancel": r"POST .*/(customJobs|tuningJobs)/[^/]+:cancel$",
        "endpoints.deploy": r"POST .*/endpoints$",
        "endpoints.status": r"GET .*/endpoints/[^/]+$",
        "endpoints.predict": r"POST .*/endpoints/[^/]+:(predict|rawPredict|streamRawPredict)$",
        "endpoints.delete": r"DELETE .*/endpoints/[^/]+$",
        "batch.submit": r"POST .*/batchPredictionJobs$",
        "batch.status": r"GET .*/batchPredictionJobs/[^/]+$",
        "batch.cancel": r"POST .*/batchPredictionJobs/[^/]+:cancel$",
    },
}

# Events of a stream before its first text.
_BEFORE_TEXT: Final = {"aws": 1, "azure": 2, "vertex": 0}

OPERATIONS: Final = tuple(_MATCH["aws"])
"""The operations that a fault can be put on; ``"training.*"`` and ``"*"`` stand for several, and
``"*"`` for every request, those that are none of these too."""


class CloudFaults:
    """What a cloud does to its callers on a bad day.

    Every method takes ``times`` (how often; None without end) and ``chance`` (of each request
    that fits, 0 to 1, by the emulator's seed). Rules hold in the order in which they were put.

    Parameters
    ----------
    name: of the cloud. faults: of its emulator; ``raw`` from outside.
    """

    def __init__(self, name: str, faults: Faults) -> None:
        self._name = name
        self.raw = faults

    def throttle(
        self, operation: str, *, times: int | None = 1, retry_after: float | None = 0.01,
        chance: float = 1.0,
    ) -> Fault:  # fmt: skip
        """Answers with HTTP 429 and, unless None, a Retry-After of these seconds."""
        return self._add("throttle", operation, times, chance, retry_after=retry_after)

    def fail(
        self, operation: str, *, times: int | None = 1, retry_after: float | None = None,
        chance: float = 1.0,
    ) -> Fault:  # fmt: skip
        """Answers with HTTP 503."""
        return self._add("unavailable", operation, times, chance, retry_after=retry_after)

    def reset(self, operation: str, *, times: int | None = 1, chance: float = 1.0) -> Fault:
        """Breaks the connection before the request is handled."""
        return self._add("reset", operation, times, chance)

    def lose_reply(self, operation: str, *, times: int | None = 1, chance: float = 1.0) -> Fault:
        """Handles the request, then breaks the connection."""
        return self._add("lose_reply", operation, times, chance)

    def cut_stream(
        self, chunks: int, *, times: int | None = 1, chance: float = 1.0
    ) -> Fault:  # fmt: skip
        """Breaks a chat's stream off after so many pieces of text."""
        events = _BEFORE_TEXT[self._name] + chunks
        return self._add("cut", "chat.stream", times, chance, events=events)

    def delay(
        self, operation: str, seconds: float, *, times: int | None = 1, chance: float = 1.0
    ) -> Fault:
        """Answers so many seconds (of the wall clock) later."""
        return self._add("slow", operation, times, chance, seconds=seconds)

    def clear(self) -> None:
        """Lifts all rules."""
        self.raw.clear()

    def match(self, operation: str) -> str:
        """The regular expression of an operation's requests. Raises ConfigError for one that
        there is not."""
        if operation == "*":
            return ""
        table = _MATCH[self._name]
        names = [operation]
        if operation.endswith(".*"):
            names = [name for name in table if name.startswith(operation[:-1])]
        if not names or any(name not in table for name in names):
            raise unknown("operation", operation, ["*", *OPERATIONS])
        return "|".join(f"(?:{table[name]})" for name in names)

    def _add(
        self, kind: Kind, operation: str, times: int | None, chance: float, **about: Any
    ) -> Fault:
        match = self.match(operation)
        re.compile(match)
        return self.raw.add(kind, match, times=times, chance=chance, **about)
