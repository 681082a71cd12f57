"""Counters and histograms in Prometheus' text format (0.0.4). One process counts, so there is
nothing to add up and nothing to lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cloudai._core.numerals import numeral

LATENCY_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONFIDENCE_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _labels(names: tuple[str, ...], values: tuple[str, ...], more: str = "") -> str:
    pairs = [f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)]
    if more:
        pairs.append(more)
    return f"{{{','.join(pairs)}}}" if pairs else ""


class Counter:
    """A number that grows, by label values."""

    kind = "counter"

    def __init__(self, name: str, doc: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.doc, self.labels = name, doc, labels
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, amount: float, *labels: str) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def lines(self) -> Iterator[str]:
        for labels, value in self.values.items():
            yield f"{self.name}{_labels(self.labels, labels)} {numeral(value)}"


class Gauge(Counter):
    """A number that is asked for when the metrics are."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        doc: str,
        labels: tuple[str, ...],
        ask: Callable[[], dict[tuple[str, ...], float]],
    ) -> None:
        super().__init__(name, doc, labels)
        self.ask = ask

    def lines(self) -> Iterator[str]:
        self.values = self.ask()
        yield from super().lines()


class Histogram:
    """How often values fell below each bound, by label values."""

    kind = "histogram"

    def __init__(
        self, name: str, doc: str, bounds: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> None:
        self.name, self.doc, self.bounds, self.labels = name, doc, bounds, labels
        self.values: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *labels: str) -> None:
        self.observe_all((value,), *labels)

    def observe_all(self, values: Sequence[float], *labels: str) -> None:
        found = self.values.get(labels)
        if found is None:
            found = self.values[labels] = ([0] * (len(self.bounds) + 1), [0.0])
        counts, bounds = found[0], self.bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        found[1][0] += sum(values)

    def lines(self) -> Iterator[str]:
        for labels, (counts, total) in self.values.items():
            running = 0
            for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
                running += count
                edge = 'le="+Inf"' if bound == float("inf") else f'le="{numeral(bound)}"'
                yield f"{self.name}_bucket{_labels(self.labels, labels, edge)} {running}"
            yield f"{self.name}_sum{_labels(self.labels, labels)} {numeral(total[0])}"
            yield f"{self.name}_count{_labels(self.labels, labels)} {running}"


class Share:
    """The share of some outcomes among the last ones, by label values.

    Parameters
    ----------
    most: how many outcomes are looked back at.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._last: dict[tuple[str, ...], deque[tuple[int, int]]] = {}

    def add(self, hits: int, of: int, *labels: str) -> None:
        found = self._last.get(labels)
        if found is None:
            found = self._last[labels] = deque(maxlen=self._most)
        found.append((hits, of))

    def ask(self) -> dict[tuple[str, ...], float]:
        """The shares, 0 to 1."""
        return {
            labels: sum(hits for hits, _ in last) / max(1, sum(of for _, of in last))
            for labels, last in self._last.items()
        }


class Metrics:
    """What the server counts.

    Parameters
    ----------
    queue_depth, ready_workers, restarts: asked for when the metrics are; keyed by model and
        variant.
    """

    def __init__(
        self,
        queue_depth: Callable[[], dict[tuple[str, ...], float]],
        ready_workers: Callable[[], dict[tuple[str, ...], float]],
        restarts: Callable[[], dict[tuple[str, ...], float]],
    ) -> None:
        who = ("model", "variant", "version")
        self.requests = Counter(
            "cloudai_http_requests_total", "HTTP requests by route and status.", ("route", "status")
        )
        self.predictions = Counter(
            "cloudai_predictions_total",
            "Predictions by model version and status; of a failed request, its inputs.",
            (*who, "status"),
        )
        self.latency = Histogram(
            "cloudai_request_seconds",
            "Seconds from a request's head to its whole answer.",
            LATENCY_BUCKETS,
            ("model", "variant"),
        )
        self.batch_size = Histogram(
            "cloudai_batch_items", "Inputs in one batch.", BATCH_BUCKETS, ("model", "variant")
        )
        self.batch_seconds = Histogram(
            "cloudai_batch_seconds",
            "Seconds of one batch in its worker.",
            LATENCY_BUCKETS,
            ("model", "variant"),
        )
        self.confidence = Histogram(
            "cloudai_confidence", "Confidences that outputs state.", CONFIDENCE_BUCKETS, who
        )
        self.low_confidence = Counter(
            "cloudai_low_confidence_total", "Outputs with a confidence below the limit.", who
        )
        self.long_inputs = Counter(
            "cloudai_long_inputs_total", "Texts with more characters than the limit.", who
        )
        self.tokens = Counter(
            "cloudai_tokens_total", "Tokens read and written by text models.", (*who, "kind")
        )
        self.feedback = Counter(
            "cloudai_feedback_total",
            "Predictions whose true label was told, by whether they were right.",
            (*who, "correct"),
        )
        self.errors, self.accuracy = Share(), Share()
        pair = ("model", "variant")
        self.all = (
            self.requests,
            self.predictions,
            self.latency,
            self.batch_size,
            self.batch_seconds,
            self.confidence,
            self.low_confidence,
            self.long_inputs,
            self.tokens,
            self.feedback,
            Gauge(
                "cloudai_error_rate",
                "Failed predictions' share of those of the last 1000 requests.",
                who,
                self.errors.ask,
            ),
            Gauge(
                "cloudai_accuracy",
                "Right predictions' share of the last 1000 whose true label was told.",
                who,
                self.accuracy.ask,
            ),
            Gauge("cloudai_queue_depth", "Inputs that wait.", pair, queue_depth),
            Gauge("cloudai_ready_workers", "Workers that are ready.", pair, ready_workers),
            Gauge("cloudai_worker_restarts", "Workers started again.", pair, restarts),
        )

    def text(self) -> bytes:
        lines: list[str] = []
        for metric in self.all:
            lines.append(f"# HELP {metric.name} {metric.doc}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines.extend(metric.lines())
        lines.append("")
        return "\n".join(lines).encode()
