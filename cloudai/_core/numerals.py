"""Numbers as text for the services, which take no exponent: ``1209600s``, not ``1.2096e+06s``."""

from __future__ import annotations

from decimal import Decimal


def numeral(value: float) -> str:
    """A finite number in digits: as many as it needs to be read back the same, no exponent."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(value: float) -> str:
    """A duration as protobuf's JSON has it: seconds with at most nine decimals, then ``s``
    (google/protobuf/duration.proto, read 2026-11)."""
    return f"{numeral(round(value, 9))}s"
