"""Metrics from a log: one meaning on every provider."""

from __future__ import annotations

import math

from cloudai._core.metrics import MetricPatterns


def test_z11_l1_each_match_is_a_point_nan_is_one_and_an_optional_group_is_none() -> None:
    patterns = MetricPatterns([("loss", r"loss=([\w.-]+)?"), ("step", r"step (\d+)")])
    lines = [
        ("step 1 loss=1.0", 10.0),
        ("step 2 loss=nan, loss=0.9", 11.0),
        ("loss=", 12.0),  # the group took no part
        ("loss=none", 13.0),
    ]
    found = patterns.points(lines)
    assert [(p.step, p.time) for p in found["loss"]] == [(0, 10.0), (1, 11.0), (2, 11.0)]
    first, second, third = (point.value for point in found["loss"])
    assert (first, third) == (1.0, 0.9)
    assert math.isnan(second)
    assert [point.value for point in found["step"]] == [1.0, 2.0]
