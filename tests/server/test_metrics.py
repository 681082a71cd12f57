"""The metrics in Prometheus' text format, read with prometheus_client's own parser."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_server import Start

from cloudai.server.metrics import Metrics

WHO = ("m", "main", "1")
LARGE = 1_000_001


def families(text: str) -> dict[str, Any]:
    return {one.name: one for one in text_string_to_metric_families(text)}


def told(family: Any, suffix: str = "", **labels: str) -> float:
    (value,) = (
        sample.value
        for sample in family.samples
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items()
    )
    return value


def filled(value: float) -> dict[str, Any]:
    """The families after each counter has grown by ``value``, and each histogram has met it."""
    pairs: list[dict[tuple[str, ...], float]] = [{("m", "main"): value} for _ in range(3)]
    metrics = Metrics(*((lambda one=one: one) for one in pairs))
    metrics.requests.add(value, "predict", "200")
    metrics.predictions.add(value, *WHO, "ok")
    metrics.tokens.add(value, *WHO, "input")
    metrics.feedback.add(value, *WHO, "true")
    metrics.low_confidence.add(value, *WHO)
    metrics.long_inputs.add(value, *WHO)
    metrics.latency.observe(value, "m", "main")
    metrics.batch_size.observe(value, "m", "main")
    metrics.batch_seconds.observe(value, "m", "main")
    metrics.confidence.observe(value, *WHO)
    metrics.errors.add(1, 3, *WHO)
    metrics.accuracy.add(2, 3, *WHO)
    return families(metrics.text().decode())


@pytest.mark.parametrize("value", [1, LARGE, 2**53 - 1, 0.1 + 0.2, 123456.789012345, 1e-7])
def test_issue11_every_number_is_told_exactly(value: float) -> None:
    found = filled(value)
    for name in (
        "cloudai_http_requests", "cloudai_predictions", "cloudai_tokens", "cloudai_feedback",
        "cloudai_low_confidence", "cloudai_long_inputs",
    ):  # fmt: skip
        assert found[name].type == "counter"
        assert told(found[name], "_total") == value, name
    for name in ("cloudai_request_seconds", "cloudai_batch_items", "cloudai_batch_seconds",
                 "cloudai_confidence"):  # fmt: skip
        assert found[name].type == "histogram"
        assert told(found[name], "_sum") == value, name
        assert told(found[name], "_count") == 1
    for name in ("cloudai_queue_depth", "cloudai_ready_workers", "cloudai_worker_restarts"):
        assert found[name].type == "gauge"
        assert told(found[name]) == value, name
    assert told(found["cloudai_error_rate"]) == 1 / 3
    assert told(found["cloudai_accuracy"]) == 2 / 3


def test_issue11_a_histogram_counts_up_to_its_bounds() -> None:
    family = filled(0.05)["cloudai_request_seconds"]
    buckets = {
        float(one.labels["le"]): one.value for one in family.samples if one.name.endswith("_bucket")
    }
    assert buckets[0.025] == 0
    assert buckets[0.05] == 1  # a bound belongs to its bucket
    assert buckets[float("inf")] == 1
    assert list(buckets) == sorted(buckets)


def test_labels_are_escaped() -> None:
    metrics = Metrics(dict, dict, dict)
    name = 'a"b\\c\nd'
    metrics.predictions.add(2, name, "main", "1", "ok")
    assert told(families(metrics.text().decode())["cloudai_predictions"], "_total", model=name) == 2


def test_a_servers_own_metrics(start: Start) -> None:
    server = start()
    for _ in range(3):
        assert server.predict(1, 2).status_code == 200
    found = families(server.http.get("/metrics").text)
    assert told(found["cloudai_predictions"], "_total", status="ok") == 6
    assert told(found["cloudai_request_seconds"], "_count") == 3
    assert 0 < told(found["cloudai_request_seconds"], "_sum") < 60
    assert told(found["cloudai_ready_workers"]) == 1
