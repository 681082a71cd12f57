"""Numbers as text: what a service reads back is what was meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

import cloudai
from cloudai._core.numerals import numeral, seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_209_600.0, "1209600"),
        (2_419_200, "2419200"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (12345678.9, "12345678.9"),
        (100.0, "100"),
        (0.0, "0"),
        (-2.5, "-2.5"),
    ],
)
def test_v4_a_number_has_no_exponent_and_loses_no_digit(value: float, text: str) -> None:
    assert numeral(value) == text
    assert float(numeral(value)) == value


@pytest.mark.parametrize("value", [1_209_600.0, 0.5, 86_399.123456789, 2_419_200.0])
def test_v4_a_duration_is_one_of_protobufs(value: float) -> None:
    read = json_format.Parse(f'"{seconds(value)}"', Duration())
    assert read.seconds + read.nanos / 1e9 == pytest.approx(value)


def test_v4_no_provider_formats_a_number_by_g() -> None:
    root = Path(cloudai.__file__).parent
    found = [
        str(path)
        for room in ("providers", "_core")
        for path in (root / room).rglob("*.py")
        if re.search(r":[.0-9]*g\}", path.read_text(encoding="utf-8"))
    ]
    assert not found
